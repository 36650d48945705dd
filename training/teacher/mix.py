"""Several teachers as one: a weighted sum of their logits, chosen on validation.

The logarithm of a mix Π p_k^w_k of softmaxes is Σ w_k · log p_k, which is again a softmax, of Σ w_k · z_k. So the
factors w_k, one for each teacher, are all that is stored. They are found in three steps. Each teacher's logits are
divided by the temperature that gives them the highest likelihood, because otherwise the logits of a network and the
logarithms of a ridge regression could not be compared. Then the shares of the teachers, in tenths, are those of highest
NDCG@10. Last, one temperature for the sum is again that of highest likelihood, so that the soft labels are honest
probabilities.

Where the trend is given, the mix is judged with weights of taste and trend that are fitted as each student's are, since
those of highest likelihood rank worse, and the student would be compared with less than its teachers can do.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training import ranks
from training.data.prepared import Prepared
from training.data.split import VAL
from training.errors import InputError
from training.evaluation.given import Given
from training.evaluation.given_weights import fit_rule, likeliest_trend
from training.evaluation.judge import Ranking, Scorer, judge_scorer, rank_asked, score_all
from training.evaluation.metric import ndcg, rank_targets
from training.evaluation.question import AT_ONCE, Question, ask, judged_part
from training.machine import available_bytes
from training.progress import Progress
from training.teacher.calibration import best_sharpness
from training.teacher.kind import RANKING, Member

MIX = "mix.json"
USERS = 3000  # of the validation, drawn with a fixed seed
VALUES = 1 << 27  # logits of one teacher in memory: a large catalogue is asked by fewer users
TENTHS = 10
BYTES_A_PARAMETER = 6  # of a teacher in memory, at most
Float32 = NDArray[np.float32]


def mix_teachers(
    out: Path,
    prepared: Prepared,
    open_all: Callable[[], Mapping[str, Member]],
    progress: Progress,
    given: Given | None = None,
) -> None:
    """Choose each member's factor on validation; write them and the mix's ranking of the judged part into out.

    open_all: opens the members by name. given: the trend, where it is part of the score. Processes that train together
    all call it, and share the work where memory has room for all members in each; else the first does it alone.
    """
    opened: dict[str, Member] = {}  # in the first process

    def count_parameters() -> int:
        opened.update(open_all())
        return sum(member.parameters for member in opened.values())

    def mix() -> None:
        _mix(out, prepared, opened or open_all(), progress, given)

    parameters = ranks.alone(count_parameters)
    if ranks.has_room(BYTES_A_PARAMETER * parameters, available_bytes()):
        mix()
    else:
        ranks.alone(mix)


def _mix(out: Path, prepared: Prepared, members: Mapping[str, Member], progress: Progress, given: Given | None) -> None:
    """Choose and judge the mix. Processes that share the work all call it; the first chooses the shares and writes."""
    question = ask(prepared, VAL, limit=_users(prepared))
    trends = {name: trend_of(member, question, given) for name, member in members.items()}
    factors, about = ranks.alone(lambda: _choose(question, members, trends, given))
    score, longest = mix_scorer({name: members[name] for name in factors}, factors)
    ranking, fit = _judge(
        prepared, score, longest, None if given is None else given.with_trend(about["trend"]), progress
    )
    about |= fit
    said = [f"{name} x {factor:.3g}" for name, factor in factors.items()]
    progress.note("teachers: " + ", ".join([*said, *([f"trend x {about['trend']:.3g}"] if given else [])]))

    def write() -> None:
        (out / MIX).write_text(json.dumps(about, indent=1) + "\n")
        ranking.save(out / RANKING)

    ranks.alone(write)


def _choose(
    question: Question, members: Mapping[str, Member], trends: Mapping[str, float], given: Given | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the factor of each member that takes part, and what is kept of how they were chosen."""
    logs = None if given is None else log_counts(question, given)
    logits = {name: _logits(member, question, trends[name], logs) for name, member in members.items()}
    factors, trials = choose_factors(question, logits)
    trend = sum(factor * trends[name] for name, factor in factors.items())
    return factors, {"factors": factors, "trend": trend, "trends": trends, "trials": trials}


def calibrate(prepared: Prepared, member: Member, given: Given | None = None) -> tuple[float, float]:
    """Return the factor that makes one teacher's logits honest, and its NDCG@10; both on the mix's validation users."""
    question = ask(prepared, VAL, limit=_users(prepared))
    logs = None if given is None else log_counts(question, given)
    logits = _logits(member, question, trend_of(member, question, given), logs)
    factors, trials = choose_factors(question, {"": logits})
    return factors[""], trials[0]["ndcg@10"]


def _users(prepared: Prepared) -> int:
    return max(1, min(USERS, VALUES // len(prepared.items)))


def log_counts(question: Question, given: Given) -> Float32:
    """Return log(count + e) of every item at the time of each request [U, N]."""
    trend = given.parts.rule.trend
    assert trend is not None and question.asked_ms is not None  # noqa: S101  # given is the trend
    asked = question.asked_ms
    chunks = [trend.log(given.live.before(asked[at : at + AT_ONCE])) for at in range(0, len(asked), AT_ONCE)]
    return np.concatenate(chunks)


def trend_of(member: Member, question: Question, given: Given | None) -> float:
    """Return the weight of the trend beside a member's logits: its own, or the likeliest one."""
    if given is None:
        return 0.0
    if member.trend_weight is not None:
        return member.trend_weight
    return likeliest_trend(question, member.scorer, given, member.max_history)


def _logits(member: Member, question: Question, trend: float, logs: Float32 | None) -> Float32:
    """Return a member's logits with the trend [U, N]."""
    logits = score_all(question, member.scorer, member.max_history)
    if logs is None:
        return logits
    logits = np.where((question.lengths() == 0)[:, None], np.float32(0), logits)
    return logits + np.float32(trend) * logs


def load_factors(out: Path) -> dict[str, float]:
    """Return name -> factor of the teachers that take part in the mix. Raises InputError where the file is damaged."""
    factors: dict[str, float] = _load(out)["factors"]
    return factors


def load_trends(out: Path) -> dict[str, float]:
    """Return name -> weight of the trend beside each teacher's logits before its factor; empty without a trend."""
    trends: dict[str, float] = _load(out).get("trends", {})
    return trends


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


def _judge(
    prepared: Prepared, score: Scorer, longest: int, given: Given | None, progress: Progress
) -> tuple[Ranking, dict[str, Any]]:
    """Rank the judged part with the mix; return with it what is kept of the weights of taste and trend.

    given: the trend with its weight, which is fitted anew, where the trend is part of the score.
    """
    if given is None:
        return judge_scorer(prepared, score, longest), {}
    rule, fit = fit_rule(ask(prepared, VAL), score, given, longest, progress)
    question = ask(prepared, judged_part(prepared))
    ranking = rank_asked(question, given.scorer(question, score, rule), longest, both_rules=True)
    return ranking, {"score": rule.to_json(), "fit": fit}


def mix_scorer(members: Mapping[str, Member], factors: Mapping[str, float]) -> tuple[Scorer, int]:
    """Return the scorer of the mix without the trend, and the longest history that it reads."""
    longest = max(member.max_history for member in members.values())

    def score(rows: torch.Tensor) -> Float32:
        scores = [
            np.float32(factors[name]) * member.scorer(rows[:, -member.max_history :])
            for name, member in members.items()
        ]
        return np.sum(scores, axis=0, dtype=np.float32)

    return score, longest


def _sum(logits: Mapping[str, Float32], factors: Mapping[str, float]) -> Float32:
    total = np.zeros_like(next(iter(logits.values())))
    for name, factor in factors.items():
        total += np.float32(factor) * logits[name]
    return total
