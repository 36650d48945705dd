"""Several teachers as one: a weighted sum of their logits, chosen on validation.

The logarithm of a mix Π p_k^w_k of softmaxes is Σ w_k · log p_k, which is again a softmax, of Σ w_k · z_k. So the
factors w_k, one for each teacher, are all that is stored. They are found in three steps. Each teacher's logits are
divided by the temperature that gives them the highest likelihood, because otherwise the logits of a network and the
logarithms of a ridge regression could not be compared. Then the shares of the teachers, in tenths, are those of highest
NDCG@10. Last, one temperature for the sum is again that of highest likelihood, so that the soft labels are honest
probabilities.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.data.prepared import Prepared
from training.data.split import VAL
from training.errors import InputError
from training.evaluation.judge import Ranking, Scorer, judge_scorer, score_all
from training.evaluation.metric import ndcg, rank_targets
from training.evaluation.question import Question, ask
from training.progress import Progress
from training.teacher.calibration import best_sharpness
from training.teacher.kind import RANKING

MIX = "mix.json"
USERS = 3000  # of the validation, drawn with a fixed seed
TENTHS = 10
Float32 = NDArray[np.float32]


def mix_teachers(out: Path, prepared: Prepared, members: Mapping[str, tuple[Scorer, int]], progress: Progress) -> None:
    """Choose each member's factor on validation; write them and the mix's ranking of the judged part into out.

    members: name -> (scorer, the longest history that it reads).
    """
    question = ask(prepared, VAL, limit=USERS)
    logits = {name: score_all(question, *member) for name, member in members.items()}
    factors, trials = choose_factors(question, logits)
    about = {"factors": factors, "trials": trials}
    (out / MIX).write_text(json.dumps(about, indent=1) + "\n")
    progress.note("teachers: " + ", ".join(f"{name} x {factor:.3g}" for name, factor in factors.items()))
    ranking = judge_mix(prepared, {name: members[name] for name in factors}, factors)
    ranking.save(out / RANKING)


def calibrate(prepared: Prepared, scorer: Scorer, max_history: int) -> tuple[float, float]:
    """Return the factor that makes one teacher's logits honest, and its NDCG@10; both on the mix's validation users."""
    question = ask(prepared, VAL, limit=USERS)
    factors, trials = choose_factors(question, {"": score_all(question, scorer, max_history)})
    return factors[""], trials[0]["ndcg@10"]


def load_factors(out: Path) -> dict[str, float]:
    """Return name -> factor of the teachers that take part in the mix. Raises InputError where the file is damaged."""
    factors: dict[str, float] = _load(out)["factors"]
    return factors


def load_shares(out: Path) -> dict[str, float]:
    """Return name -> share of the teachers that take part in the mix; the shares sum to 1."""
    names = set(load_factors(out))
    tried = [
        trial for trial in load_trials(out) if {name for name in trial if name != "ndcg@10" and trial[name]} == names
    ]
    chosen = max(tried, key=lambda trial: trial["ndcg@10"])
    return {name: chosen[name] for name in chosen if name in names}


def load_trials(out: Path) -> list[dict[str, float]]:
    """Return the shares that were tried, each with its validation NDCG@10."""
    trials: list[dict[str, float]] = _load(out)["trials"]
    return trials


def _load(out: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((out / MIX).read_text()))
    except ValueError as exc:
        raise InputError(f"{out / MIX}: damaged ({exc}); remove {out} and run 'python -m training teacher'") from exc


def choose_factors(
    question: Question, logits: Mapping[str, Float32]
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return the factors of the best shares, and all shares that were tried, each with its NDCG@10.

    logits: name -> [U, N], in the order of question.users. A member whose share is 0 has no factor. Where several
    shares are equally good, one of the fewest members is taken.
    """
    sharpness = {name: best_sharpness(values, question.target) for name, values in logits.items()}
    seen = question.histories(np.arange(len(question.users))) if question.exclude_seen else None
    trials = []
    for shares in share_grid(len(logits)):
        factors = {name: share * sharpness[name] for name, share in zip(logits, shares, strict=True) if share}
        ranks = rank_targets(_sum(logits, factors), question.target, seen)
        trials.append(dict(zip(logits, shares, strict=True)) | {"ndcg@10": float(ndcg(ranks, 10).mean())})
    best = max(trials, key=lambda trial: (trial["ndcg@10"], sum(not trial[name] for name in logits)))
    factors = {name: best[name] * sharpness[name] for name in logits if best[name]}
    common = best_sharpness(_sum(logits, factors), question.target)
    return {name: factor * common for name, factor in factors.items()}, trials


def share_grid(count: int) -> Iterator[tuple[float, ...]]:
    """Yield all shares of count members that are tenths and sum to one, those of the first member falling."""
    for tenths in product(range(TENTHS, -1, -1), repeat=count):
        if sum(tenths) == TENTHS:
            yield tuple(tenth / TENTHS for tenth in tenths)


def judge_mix(prepared: Prepared, members: Mapping[str, tuple[Scorer, int]], factors: Mapping[str, float]) -> Ranking:
    """Rank the judged part with the mix. members: name -> (scorer, the longest history that it reads)."""
    longest = max(max_history for _, max_history in members.values())

    def score(rows: torch.Tensor) -> Float32:
        scores = [
            np.float32(factors[name]) * scorer(rows[:, -max_history:])
            for name, (scorer, max_history) in members.items()
        ]
        return np.sum(scores, axis=0, dtype=np.float32)

    return judge_scorer(prepared, score, longest)


def _sum(logits: Mapping[str, Float32], factors: Mapping[str, float]) -> Float32:
    total = np.zeros_like(next(iter(logits.values())))
    for name, factor in factors.items():
        total += np.float32(factor) * logits[name]
    return total
