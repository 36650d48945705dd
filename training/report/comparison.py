"""Compare several runs of the same data and settings that differ in their seeds, or in the fold of users they judge.

Two kinds of chance are kept apart. The interval is about the users that happened to be asked: a paired bootstrap over
users, each with the mean over the seeds. The spread is about the training: the standard deviation over the seeds of the
mean over users, and none for a model that is the same in all runs.

Runs of different folds (split.test=users) are pooled: every user is judged once, by models that never saw the user, and
the spread is over the folds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.data.prepared import Prepared, load_prepared
from training.errors import InputError
from training.evaluation.judge import Ranking
from training.evaluation.metric import (
    PerRun,
    Pool,
    Ranks,
    bootstrap_interval,
    hit,
    mean_over_seeds,
    ndcg,
    pooled_difference,
)
from training.evaluation.quality import COMPARED
from training.evaluation.question import Question, ask, judged_part
from training.evaluation.request_kind import BAR, pooled_by_kind
from training.progress import Progress
from training.report.collect import COMPRESSED, check_asked, lineage_of, other_rankings, own_rankings, titles_of
from training.teacher.registry import peer_pairs

TABULATED = {"ndcg@10": ndcg, "hr@10": hit}  # the metrics of the table
PAIRS = (*COMPARED, ("compressed", "student_alone"), ("compressed", "teacher"))


@dataclass(frozen=True)
class FinishedRun:
    """What a comparison needs of a finished run."""

    path: Path
    prepared: Prepared
    question: Question
    rankings: Mapping[str, Ranking]  # by model
    seeds: Mapping[str, int]  # of teacher and student
    config: Mapping[str, Mapping[str, Any]]  # its settings, by section
    about: Mapping[str, Mapping[str, Any]]  # what is said of each peer and baseline, its title among it
    commit: str | None  # of the code that exported it


def compare_runs(paths: Sequence[Path], progress: Progress) -> dict[str, Any]:
    """Return the table of several run directories: each model with its intervals and spreads, and the differences.

    A difference is that of NDCG@10 between two models over the same requests. Only models that every run has are in the
    table. Raises InputError where there is one run only, where a run is not finished, where data or settings differ, or
    where two runs share seeds or fold.
    """
    runs = [read_finished(path, progress) for path in paths]
    check_comparable(runs)
    pool = np.concatenate if are_folds(runs) else mean_over_seeds
    names = [name for name in runs[0].rankings if all(name in run.rankings for run in runs)]
    values = {
        name: {metric: [of(run.rankings[name].ranks, 10) for run in runs] for metric, of in TABULATED.items()}
        for name in names
    }
    known = [*PAIRS, *peer_pairs()]
    pairs = [*known, *(("student", name) for name in names if name != "student" and ("student", name) not in known)]
    data, asking = runs[0].prepared.report, users_of(runs)
    users = asking if len(np.unique(asking)) < len(asking) else None
    return {
        "runs": [str(run.path) for run in runs],
        "seeds": [dict(run.seeds) for run in runs],
        "commits": sorted({run.commit or "unknown" for run in runs}),
        "data": {key: data[key] for key in ("source", "n_events", "n_users", "n_items", "split", "fingerprint")},
        "by": "fold" if are_folds(runs) else "seed",
        "users": len(np.unique(asking)),
        "requests": len(asking),
        "titles": titles_of({name: runs[0].about.get(name, {}) for name in names}),
        "models": {name: _summarise(values[name], pool, users) for name in names},
        "bar": {"model": BAR, "setting": runs[0].about.get(BAR, {}).get("setting", {})} if BAR in names else None,
        "by_request": pooled_by_kind(
            [run.question for run in runs], {name: [run.rankings[name] for run in runs] for name in names}, pool
        ),
        "ndcg@10_differences": {
            f"{ours} / {theirs}": pooled_difference(values[ours]["ndcg@10"], values[theirs]["ndcg@10"], pool, users)
            for ours, theirs in pairs
            if ours in values and theirs in values
        },
    }


def read_finished(path: Path, progress: Progress) -> FinishedRun:
    """Read what a comparison needs of a run directory. Raises InputError where the run is not finished.

    Rankings of other data are left out, and named by progress.
    """
    prepared = load_prepared(path / "prepared")
    rankings = own_rankings(path)
    missing = [name for name in ("teacher", "student", "student_alone") if name not in rankings]
    if missing:
        raise InputError(f"{path}: no finished run ({', '.join(missing)} not ranked yet); run it to its end first")
    if (path / COMPRESSED).exists():
        rankings["compressed"] = Ranking.load(path / COMPRESSED)
    question = ask(prepared, judged_part(prepared))
    check_asked(path, rankings, question)
    others, about = other_rankings(path, prepared, question, progress)
    lineage = lineage_of(path)
    return FinishedRun(
        path, prepared, question, rankings | others, lineage["seeds"], lineage["config"], about, lineage.get("commit")
    )


def check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Raise InputError unless the runs differ in their seeds, or in their folds, and in nothing else that matters."""
    if len(runs) < 2:
        raise InputError("compare needs two finished runs or more, of the same data with different seeds")
    if are_folds(runs):
        _check_folds(runs)
        return
    first = runs[0]
    for number, run in enumerate(runs):
        if run.prepared.report["fingerprint"] != first.prepared.report["fingerprint"]:
            raise InputError(f"{run.path} and {first.path} are of different data or splits: they cannot be compared")
        changed = changed_settings(first.config, run.config)
        if changed:
            raise InputError(f"{run.path} and {first.path} differ in {', '.join(changed)}; only seeds may differ")
        twin = next((other for other in runs[:number] if other.seeds == run.seeds), None)
        if twin:
            raise InputError(
                f"{run.path} and {twin.path} have the same seeds {dict(run.seeds)}: that is one run counted twice; "
                "train one again with --set teacher.seed=2 --set student.seed=2"
            )


def users_of(runs: Sequence[FinishedRun]) -> Ranks:
    """Return who makes each request: of the first run, or of all folds one after the other."""
    asked = [run.question.users for run in runs]
    return np.concatenate(asked) if are_folds(runs) else asked[0]


def are_folds(runs: Sequence[FinishedRun]) -> bool:
    """Return whether the runs judge different folds of the users."""
    return (
        all(run.prepared.report["split"]["test"] == "users" for run in runs) and len({_fold(run) for run in runs}) > 1
    )


def _fold(run: FinishedRun) -> int:
    """Return the fold of users that a run judges."""
    return int(run.prepared.report["split"]["fold"])


def _check_folds(runs: Sequence[FinishedRun]) -> None:
    """Raise InputError unless the runs differ in their folds alone, each from all others."""
    first = runs[0]
    for number, run in enumerate(runs):
        if run.prepared.report["sha256"] != first.prepared.report["sha256"]:
            raise InputError(f"{run.path} and {first.path} are of different files: their folds cannot be pooled")
        changed = [name for name in changed_settings(first.config, run.config) if name != "split.fold"]
        if changed:
            raise InputError(f"{run.path} and {first.path} differ in {', '.join(changed)}; only split.fold may differ")
        twin = next((other for other in runs[:number] if _fold(other) == _fold(run)), None)
        if twin:
            raise InputError(f"{run.path} and {twin.path} both judge fold {_fold(run)}: its users would count twice")


def changed_settings(ours: Mapping[str, Mapping[str, Any]], theirs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of the settings that differ, but for seeds, the choice of baselines and those of studies."""
    return sorted(
        f"{section}.{key}"
        for section in {*ours, *theirs} - {"baselines", "search", "ablation", "capacity", "compression"}
        for key in {*ours.get(section, {}), *theirs.get(section, {})} - {"seed"}
        if ours.get(section, {}).get(key) != theirs.get(section, {}).get(key)
    )


def _summarise(values: Mapping[str, PerRun], pool: Pool, users: Ranks | None) -> dict[str, Any]:
    """Return of each metric the mean, the interval over users, the spread over runs, and the mean of each run.

    values: each metric's values of one model, in every run. users: whose each pooled value is; None: each of another.
    """
    summary: dict[str, Any] = {}
    for metric, per_run in values.items():
        per_seed = np.array([values_of_run.mean() for values_of_run in per_run])
        pooled = pool(per_run)
        summary |= {
            metric: float(pooled.mean()),
            f"{metric}_interval": list(bootstrap_interval(pooled, users)),
            f"{metric}_spread": None if _is_one_model(per_run) else float(per_seed.std(ddof=1)),
            f"{metric}_per_seed": per_seed.tolist(),
        }
    return summary


def _is_one_model(per_run: PerRun) -> bool:
    """Return whether all runs hold the same model, for it has no seed or its seed was not changed."""
    return all(np.array_equal(per_run[0], other) for other in per_run[1:])
