"""Several runs of the same data with different seeds as one table: what of a difference is the model and what is luck.

Runs of different folds of the users (split.test=users) are pooled: every user is judged once, by models that never saw
them, and the spread is over the folds.

Two kinds of luck are kept apart. Which users were asked: the interval, a paired bootstrap over users of each user's
mean over the seeds. How training went: the spread, the standard deviation over the seeds of the mean over users; none
for a model that is the same in all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.data.prepared import Prepared, load_prepared
from training.errors import InputError
from training.evaluation.judge import Ranking
from training.evaluation.metric import PerRun, Pool, bootstrap_interval, hit, mean_over_seeds, ndcg, pooled_difference
from training.evaluation.quality import COMPARED
from training.evaluation.question import ask, judged_part
from training.progress import Progress
from training.report.collect import COMPRESSED, lineage_of, other_rankings, own_rankings, titles_of
from training.teacher.registry import peer_pairs

METRICS = {"ndcg@10": ndcg, "hr@10": hit}
PAIRS = (*COMPARED, ("compressed", "student_alone"), ("compressed", "teacher"))


@dataclass(frozen=True)
class Finished:
    """A finished run: rankings of its models, its seeds, the title of each model that has one of its own."""

    path: Path
    prepared: Prepared
    rankings: Mapping[str, Ranking]
    seeds: Mapping[str, int]
    config: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, Mapping[str, Any]]
    commit: str | None


def compare_runs(paths: Sequence[Path], progress: Progress) -> dict[str, Any]:
    """Return the table of runs: models with means, spreads and intervals, and paired differences.

    Raises InputError where there is one run only, where data or settings differ, or where two runs share seeds or fold.
    """
    runs = [read_finished(path, progress) for path in paths]
    check_comparable(runs)
    pool = np.concatenate if are_folds(runs) else mean_over_seeds
    names = [name for name in runs[0].rankings if all(name in run.rankings for run in runs)]
    values = {
        name: {metric: [of(run.rankings[name].ranks, 10) for run in runs] for metric, of in METRICS.items()}
        for name in names
    }
    known = [*PAIRS, *peer_pairs()]
    pairs = [*known, *(("student", name) for name in names if name != "student" and ("student", name) not in known)]
    data = runs[0].prepared.report
    return {
        "runs": [str(run.path) for run in runs],
        "seeds": [dict(run.seeds) for run in runs],
        "commits": sorted({run.commit or "unknown" for run in runs}),
        "data": {key: data[key] for key in ("source", "n_events", "n_users", "n_items", "split", "fingerprint")},
        "by": "fold" if are_folds(runs) else "seed",
        "users": len(pool(next(iter(values.values()))["ndcg@10"])),
        "titles": titles_of({name: runs[0].about.get(name, {}) for name in names}),
        "models": {name: _summarise(values[name], pool) for name in names},
        "ndcg@10_differences": {
            f"{ours} / {theirs}": pooled_difference(values[ours]["ndcg@10"], values[theirs]["ndcg@10"], pool)
            for ours, theirs in pairs
            if ours in values and theirs in values
        },
    }


def read_finished(path: Path, progress: Progress) -> Finished:
    """Read a run directory. Raises InputError where it is not finished."""
    prepared = load_prepared(path / "prepared")
    rankings = own_rankings(path)
    missing = [name for name in ("teacher", "student", "student_alone") if name not in rankings]
    if missing:
        raise InputError(f"{path}: no finished run ({', '.join(missing)} not ranked yet); run it to its end first")
    if (path / COMPRESSED).exists():
        rankings["compressed"] = Ranking.load(path / COMPRESSED)
    others, about = other_rankings(path, prepared, ask(prepared, judged_part(prepared)), progress)
    lineage = lineage_of(path)
    return Finished(
        path, prepared, rankings | others, lineage["seeds"], lineage["config"], about, lineage.get("commit")
    )


def check_comparable(runs: Sequence[Finished]) -> None:
    """Raise InputError unless the runs differ in their seeds and in nothing that they are judged by."""
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


def are_folds(runs: Sequence[Finished]) -> bool:
    """Return whether the runs judge users that they did not train on, each run others."""
    return (
        all(run.prepared.report["split"]["test"] == "users" for run in runs) and len({_fold(run) for run in runs}) > 1
    )


def _fold(run: Finished) -> int:
    return int(run.prepared.report["split"]["fold"])


def _check_folds(runs: Sequence[Finished]) -> None:
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
    """Return the settings that differ, seeds, the choice of baselines and the studies aside."""
    return sorted(
        f"{section}.{key}"
        for section in {*ours, *theirs} - {"baselines", "search", "ablation", "capacity", "compression"}
        for key in {*ours.get(section, {}), *theirs.get(section, {})} - {"seed"}
        if ours.get(section, {}).get(key) != theirs.get(section, {}).get(key)
    )


def _summarise(values: Mapping[str, PerRun], pool: Pool) -> dict[str, Any]:
    """values, [users] a run, by metric -> mean, interval over users, spread over runs, each run's mean."""
    summary: dict[str, Any] = {}
    for metric, per_run in values.items():
        per_seed = np.array([per_user.mean() for per_user in per_run])
        per_user = pool(per_run)
        summary |= {
            metric: float(per_user.mean()),
            f"{metric}_interval": list(bootstrap_interval(per_user)),
            f"{metric}_spread": None if _is_one_model(per_run) else float(per_seed.std(ddof=1)),
            f"{metric}_per_seed": per_seed.tolist(),
        }
    return summary


def _is_one_model(per_run: PerRun) -> bool:
    """Whether all runs hold the same model: its seed was not changed, or it has none."""
    return all(np.array_equal(per_run[0], other) for other in per_run[1:])
