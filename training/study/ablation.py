"""The ablation: what each way to transfer adds to the hard loss, and to soft labels, on one data set.

Every term is first tried with one seed, on top of the hard loss alone and on top of soft labels. The terms that stand
out on validation, the best and the worst on each of these two bases, are then trained with more seeds, and so is the
student that each is compared with. A finished trial is kept. Validation chooses; the judged part is ranked when a trial
is over and read only for the table.

The hard loss needs more dropout than soft labels do: the students of each base, with and without a term, have the
dropout that the run's own student of that kind has. A student with smoothed labels is one more row, which shows what
any soft target would have given.

A term that needs attention in the student is tried on, and compared with, a student that has one more block than the
run's.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.prepared import Prepared
from training.distillation.source import Source
from training.distillation.teaching import Recipe, learn_alone, learn_from, learn_smoothed
from training.evaluation.breakdown import by_popularity
from training.evaluation.judge import Ranking
from training.evaluation.metric import bootstrap_interval, ndcg, pooled_difference
from training.evaluation.question import ask, judged_part
from training.evaluation.variety import coverage, gini
from training.model.encoder import Size
from training.model.objective import Lesson
from training.study.trial import Shared, Student, attempt_and_judge

TABLE = "ablation.json"
ON_HARD, ON_KL, SMOOTHING = "hard", "kl", "smoothing"
SHARE_ON_HARD = 0.5  # alpha of a term on top of the hard loss
VERDICTS = ("helps", "perhaps helps", "no difference", "perhaps hurts", "hurts")
AT = 10


@dataclass(frozen=True)
class Trial:
    """One student to try.

    base: ON_HARD or ON_KL, what the term is added to. Without a term it is the base alone, which the trials with one
    are compared with. weight: of the term. blocks: the student's.
    """

    base: str
    term: str | None
    weight: float
    blocks: tuple[str, ...]

    def name(self, seed: int) -> str:
        """Return the stem of the files of the student of a seed."""
        term = f"-{self.term}-{self.weight:g}" if self.term else ""
        return f"{self.base}{term}-{'-'.join(self.blocks)}-s{seed}"

    def reference(self) -> "Trial":
        """Return the trial that it is compared with."""
        return Trial(self.base, None, 0.0, self.blocks)

    def recipe(self, soft: Recipe) -> Recipe:
        """Return how its student is taught; soft: the recipe of the soft labels alone."""
        added = {self.term: self.weight} if self.term else {}
        if self.base == ON_KL:
            return replace(soft, terms={**soft.terms, **added})
        return replace(soft, terms=added, alpha=1.0 if self.term == "meta" else SHARE_ON_HARD)


@dataclass(frozen=True)
class Plan:
    """What is tried. terms: the weight and the student's blocks of each, by name."""

    terms: Mapping[str, tuple[float, tuple[str, ...]]]
    scales: Sequence[float]  # each weight is tried times each of these
    seeds: Sequence[int]  # everything is tried with the first
    best: int  # how many terms of each base are trained with all seeds for being the best
    worst: int  # and how many for being the worst
    smoothing: float = 0.0  # of the labels of a student without a teacher; 0 leaves it out

    def trials(self) -> list[Trial]:
        """Return what is tried with the first seed, each reference before what is compared with it."""
        found: dict[Trial, None] = {}
        for name, (weight, blocks) in self.terms.items():
            for base in (ON_HARD, ON_KL):
                found[Trial(base, None, 0.0, blocks)] = None
                found |= {Trial(base, name, weight * scale, blocks): None for scale in self.scales}
        if self.smoothing:
            plain = next(iter(found))
            found[Trial(ON_HARD, SMOOTHING, self.smoothing, plain.blocks)] = None
        return list(found)


@dataclass(frozen=True)
class Setup:
    """What all trials share. size: the student's. soft: the recipe of soft labels alone, one of the bases."""

    shared: Shared
    source: Source
    size: Size
    hard_dropout: float  # of the students on top of the hard loss
    soft: Recipe


def ablate(setup: Setup, plan: Plan) -> dict[str, Any]:
    """Train what the plan says and is not there yet, and return and write the table."""
    tried, first = plan.trials(), plan.seeds[0]
    again = 2 * (plan.best + plan.worst + 2)
    setup.shared.course.progress.note(
        f"ablation: {len(tried)} students of one seed, then up to {again} of {len(plan.seeds) - 1} more"
    )
    done = {(trial, first): _run(setup, trial, first) for trial in tried}
    for trial in stand_outs({trial: done[trial, first]["validation"] for trial in tried}, plan.best, plan.worst):
        done |= {(trial, seed): _run(setup, trial, seed) for seed in plan.seeds[1:]}
    table = tabulate(setup, done)
    (setup.shared.out / TABLE).write_text(json.dumps(table, indent=1) + "\n")
    return table


def stand_outs(validation: Mapping[Trial, float], best: int, worst: int) -> list[Trial]:
    """Return the trials of each base that gain most and least on their references, after those references."""
    gains = {trial: value / validation[trial.reference()] - 1 for trial, value in validation.items() if trial.term}
    chosen: list[Trial] = []
    for base in (ON_HARD, ON_KL):
        order = sorted((trial for trial in gains if trial.base == base), key=lambda trial: -gains[trial])
        chosen += dict.fromkeys([*order[:best], *order[max(0, len(order) - worst) :]])
    return [*dict.fromkeys(trial.reference() for trial in chosen), *chosen]


def _run(setup: Setup, trial: Trial, seed: int) -> dict[str, Any]:
    """Train and judge one student, or read what was measured before."""
    dropout = setup.hard_dropout if trial.base == ON_HARD else setup.size.dropout
    size = replace(setup.size, blocks=trial.blocks, dropout=dropout)
    student = Student(trial.name(seed), size, seed, _lesson(setup, trial, seed))
    return attempt_and_judge(setup.shared, student, asdict(trial))


def _lesson(setup: Setup, trial: Trial, seed: int) -> Lesson:
    if trial.base == ON_HARD and trial.term is None:
        return learn_alone
    if trial.term == SMOOTHING:
        return learn_smoothed(trial.weight)
    return learn_from(setup.source, trial.recipe(setup.soft), seed)


def tabulate(setup: Setup, done: Mapping[tuple[Trial, int], Mapping[str, Any]]) -> dict[str, Any]:
    """Return the table of finished trials: a row a trial, over its seeds, compared with its reference over the same."""
    measure = _Measure(setup.shared.prepared)
    seeds: dict[Trial, list[int]] = {}
    for trial, seed in done:
        seeds.setdefault(trial, []).append(seed)
    rankings = {key: Ranking.load(setup.shared.out / f"{key[0].name(key[1])}.npz") for key in done}
    per_user = {key: ndcg(ranking.ranks, AT) for key, ranking in rankings.items()}
    rows = []
    for trial, own in seeds.items():
        row = asdict(trial) | {
            "extra_block": len(trial.blocks) > len(setup.size.blocks),
            "seeds": own,
            "validation": fmean(done[trial, seed]["validation"] for seed in own),
        }
        row |= measure.row([rankings[trial, seed] for seed in own])
        if trial.term:
            theirs = [per_user[trial.reference(), seed] for seed in own]
            row["difference"] = pooled_difference([per_user[trial, seed] for seed in own], theirs)
            reference = fmean(done[trial.reference(), seed]["validation"] for seed in own)
            row["validation_difference"] = row["validation"] / reference - 1
            row["verdict"] = verdict(row["difference"], len(own))
        rows.append(row)
    return {
        "rows": rows,
        "models": {name: measure.row([ranking]) for name, ranking in _own_rankings(setup.shared.out.parent)},
        "trials": len(done),
        "minutes": sum(report["seconds"] for report in done.values()) / 60,
        "positions": setup.shared.course.schedule.positions,
    }


def verdict(difference: Mapping[str, Any], seeds: int) -> str:
    """Return one of VERDICTS. With one seed it is never sure, because the spread between trainings is unknown."""
    if difference["low"] <= 0 <= difference["high"]:
        return "no difference"
    word = "helps" if difference["low"] > 0 else "hurts"
    same = all((value > 0) == (difference["low"] > 0) for value in difference["per_seed"])
    return word if seeds > 1 and same else f"perhaps {word}"


class _Measure:
    """Measures rankings of the judged part for the table."""

    def __init__(self, prepared: Prepared) -> None:
        self._question = ask(prepared, judged_part(prepared))
        self._popularity = np.array([item.popularity for item in prepared.items])

    def row(self, rankings: Sequence[Ranking]) -> dict[str, Any]:
        """Return means over the rankings, one a seed.

        NDCG@10 with its interval over users, and how far popular items are favoured.
        """
        per_user = np.mean([ndcg(ranking.ranks, AT) for ranking in rankings], axis=0)
        tops = [ranking.top[:, :AT] for ranking in rankings]
        return {
            f"ndcg@{AT}": float(per_user.mean()),
            f"ndcg@{AT}_interval": list(bootstrap_interval(per_user)),
            f"coverage@{AT}": fmean(coverage(top, self._question.n_items) for top in tops),
            f"gini@{AT}": fmean(gini(top, self._question.n_items) for top in tops),
            "recall_by_popularity": np.mean([self._recalls(ranking) for ranking in rankings], axis=0).tolist(),
        }

    def _recalls(self, ranking: Ranking) -> NDArray[np.float64]:
        """Return recall@10 by quintile of the held-out item, best sellers first; 0 where a quintile has no user."""
        groups = by_popularity(ranking.ranks, self._question.target, self._popularity)
        return np.array([group[f"recall@{AT}"] or 0.0 for group in groups])


def _own_rankings(run: Path) -> Iterator[tuple[str, Ranking]]:
    """Yield the rankings of the run's own teacher and student, where they are there."""
    for name, place in (("teacher", "mix/ranking.npz"), ("student", "student/student_ranking.npz")):
        if (run / place).exists():
            yield name, Ranking.load(run / place)
