"""From what is known of users to ranked items: by the model where there is a history and time, else by popularity.

Where the score is a sum, the model's part is weighed by the time since the user's last event, and the trend and the
neighbours are added; popularity is then that of the trend.

The encoder runs once for all users of a batch without a vector, and the catalogue is scored once for all who rank the
whole of it. A stage that would not fit a job's budget is not begun for it; the next cheaper level answers. Retrieved
rows pass the re-ranking rules, and are cut to k at the very end.
"""

import time
from collections.abc import Sequence

import numpy as np

from service.bundle import Float32
from service.errors import REASONS, DegradedError, ModelError, NonFiniteError
from service.model.catalogue import Catalogue
from service.model.student import BUCKETS, Student
from service.recommendation.budget import Stage, StageCosts
from service.recommendation.job import Answer, Found, Ranking
from service.recommendation.observer import RankingMetrics
from service.recommendation.rule import RULES, Rule, apply_rules, depth_of
from service.search.addend import Addends
from service.search.protocol import Allowed, Ranked

STALE_TREND_S = 6 * 3600
"""Where the trend has heard of no event for so long, answers say so."""
_WARM_RUNS = 3


class Ranker:
    """Answers jobs whose user's taste is known, from one model."""

    def __init__(
        self,
        student: Student,
        catalogue: Catalogue,
        metrics: RankingMetrics,
        *,
        max_history: int,
        rules: Sequence[Rule] = RULES,
    ) -> None:
        """max_history: how many events the encoder reads. rules: applied to every list, in this order."""
        self._student, self._catalogue, self._metrics = student, catalogue, metrics
        self._max_history, self._rules = max_history, rules
        self._costs = StageCosts(BUCKETS)

    def warm(self) -> dict[int, float]:
        """Run every batch size; return what a batch of each costs in CPU seconds of this thread, the least of a few.

        CPU seconds, because a new version warms up beside traffic and must not end with smaller batches for it.
        """
        self._student.warm()
        return {bucket: min(self._try_batch(bucket) for _ in range(_WARM_RUNS)) for bucket in BUCKETS}

    def rank(self, found: Sequence[Found]) -> list[Ranking]:
        """Return the answer of every job, in the same order."""
        rankings = [_begin(each) for each in found]
        for ranking in rankings:
            if not len(ranking.found.taste.seen):
                if ranking.answer.level == "full":
                    ranking.answer.reasons.append("cold_user")
                self._answer_popular(ranking)
        self._encode([ranking for ranking in rankings if not ranking.is_done and ranking.user is None])
        left = [ranking for ranking in rankings if not ranking.is_done]
        ready = self._in_time(left, self._costs.scoring(len(left)))
        for ranking in ready:
            if ranking.job.candidates is not None:
                self._rank_candidates(ranking, ranking.job.candidates)
        self._rank_all([ranking for ranking in ready if ranking.job.candidates is None])
        if self._catalogue.heard_at < time.time() - STALE_TREND_S:
            for ranking in rankings:
                _note_stale(ranking.answer)
        return rankings

    def fall_back(self, found: Found, stage: Stage) -> Ranking:
        """Return the answer of a job that has no time left for a stage: popular items."""
        ranking = _begin(found)
        self._miss(ranking, stage)
        return ranking

    def _try_batch(self, bucket: int) -> float:
        start = time.thread_time()
        users = self._student.encode([[0]] * bucket)
        middle = time.thread_time()
        users, addends = self._catalogue.weigh(users, [[0]] * bucket, [0.0] * bucket, 1.0)
        self._catalogue.best(self._catalogue.score(users, 10, 1, addends), 10, [[0]] * bucket)
        end = time.thread_time()
        self._costs.note_encoding(bucket, middle - start)
        self._costs.note_scoring(bucket, end - middle)
        return end - start

    def _in_time(self, rankings: list[Ranking], stage: Stage) -> list[Ranking]:
        """Return those that still have time for a stage; the others are answered at once."""
        ready = []
        for ranking in rankings:
            if ranking.job.query.budget.has_time_for(stage):
                ready.append(ranking)
            else:
                self._miss(ranking, stage)
        return ready

    def _miss(self, ranking: Ranking, stage: Stage) -> None:
        self._metrics.deadline_exceeded[stage.name].inc()
        self._fall_back(ranking, _DeadlineError())

    def _encode(self, rankings: list[Ranking]) -> None:
        """Give every ranking its user's vector, or answer it without one."""
        n_jobs = len(rankings)
        rankings = self._in_time(rankings, self._costs.encoding(n_jobs)) if rankings else []
        if not rankings:
            return
        start = time.monotonic()
        try:
            users = self._student.encode(
                [ranking.found.taste.seen[-self._max_history :].tolist() for ranking in rankings]
            )
        except ModelError as exc:
            for ranking in rankings:
                self._fall_back(ranking, exc)
            return
        self._metrics.batch_size.observe(len(rankings))
        self._costs.note_encoding(n_jobs, self._note_stage("encode", start, rankings))
        for ranking, user in zip(rankings, users, strict=True):
            if np.isfinite(user).all():
                ranking.user = user.copy()  # remembered, a view would keep the whole batch
            else:
                self._fall_back(ranking, NonFiniteError("the encoder returned NaN or infinity"))

    def _rank_all(self, rankings: list[Ranking]) -> None:
        """Rank the whole catalogue for every job at once."""
        if not rankings:
            return
        start = time.monotonic()
        k = max(depth_of(self._rules, ranking.job.query) for ranking in rankings)
        masked = [ranking.masked() for ranking in rankings]
        try:
            users, addends = self._weigh(rankings)
            scores = self._catalogue.score(users, k, max(map(len, masked)), addends, _allowed(rankings))
        except ModelError as exc:
            for ranking in rankings:
                self._fall_back(ranking, exc)
            return
        scoring_s = self._note_stage("score", start, rankings)
        start = time.monotonic()
        best = self._catalogue.best(scores, k, masked)
        self._costs.note_scoring(len(rankings), scoring_s + self._note_stage("rules", start, rankings))
        for ranking, ranked in zip(rankings, best, strict=True):
            if ranked is None:
                self._fall_back(ranking, NonFiniteError("a score is NaN or infinity"))
            else:
                self._finish(ranking, ranked)

    def _weigh(self, rankings: Sequence[Ranking]) -> tuple[Float32, Addends | None]:
        """Return the users' vectors as they are multiplied, float32 [batch, dim], and what is added to their scores."""
        vectors = [_vector(ranking) for ranking in rankings]
        users = vectors[0][None] if len(vectors) == 1 else np.stack(vectors)
        if self._catalogue.parts is None:
            return users, None
        tastes = [ranking.found.taste for ranking in rankings]
        users, addends = self._catalogue.weigh(
            users, [taste.seen for taste in tastes], [taste.last_at for taste in tastes], time.time()
        )
        for ranking, addend in zip(rankings, addends or (), strict=True):
            ranking.addend = addend
        return users, addends

    def _rank_candidates(self, ranking: Ranking, candidates: Sequence[int]) -> None:
        start = time.monotonic()
        depth = depth_of(self._rules, ranking.job.query)
        try:
            (user, *_), _ = self._weigh([ranking])
            ranked = self._catalogue.best_of(user, depth, ranking.masked(), candidates, ranking.addend)
        except NonFiniteError as exc:
            self._fall_back(ranking, exc)
            return
        self._note_stage("score", start, [ranking])
        self._finish(ranking, ranked)

    def _fall_back(self, ranking: Ranking, exc: DegradedError) -> None:
        reasons = ranking.answer.reasons
        ranking.answer.reasons = [*(reason for reason in reasons if reason != "stale_profile"), exc.reason]
        self._answer_popular(ranking)

    def _answer_popular(self, ranking: Ranking) -> None:
        ranking.answer.level, ranking.addend = "fallback", None
        start = time.monotonic()
        job = ranking.job
        allowed = job.query.mask if job.candidates is None else None
        depth = depth_of(self._rules, job.query)
        ranked = self._catalogue.most_popular(depth, ranking.masked(), job.candidates, allowed)
        self._note_stage("rules", start, [ranking])
        self._finish(ranking, ranked)

    def _finish(self, ranking: Ranking, ranked: Ranked) -> None:
        answer, query = ranking.answer, ranking.job.query
        answer.ranked = apply_rules(self._rules, query, ranked)
        if len(answer.ranked[0]) < query.k:
            answer.reasons.append("not_enough_items")
        if len(answer.reasons) > 1:
            answer.reasons = sorted(set(answer.reasons), key=REASONS.index)
        if query.is_debug:
            answer.funnel = self._describe(ranking)
            answer.parts = self._catalogue.describe_parts(answer.ranked, ranking.addend)
        ranking.is_done = True

    def _note_stage(self, name: str, start: float, rankings: Sequence[Ranking]) -> float:
        """Note the time since start as that of a stage, and return it in seconds."""
        seconds = time.monotonic() - start
        self._metrics.stage[name].observe(seconds)
        for ranking in rankings:
            if ranking.job.query.is_debug:
                ranking.answer.stages_ms[name] = round(seconds * 1000, 3)
        return seconds

    def _describe(self, ranking: Ranking) -> dict[str, int]:
        job = ranking.job
        return {
            "history": min(len(ranking.found.taste.seen), self._max_history),
            "masked": len(set(ranking.masked())),
            "candidates": len(self._catalogue) if job.candidates is None else len(job.candidates),
            "returned": len(ranking.answer.ranked[0]),
        }


class _DeadlineError(DegradedError):
    reason = "deadline"


def _note_stale(answer: Answer) -> None:
    answer.reasons = sorted({*answer.reasons, "stale_trend"}, key=REASONS.index)


def _begin(found: Found) -> Ranking:
    answer = Answer(level=found.level, reasons=list(found.reasons), ignored_ids=list(found.job.ignored_ids))
    if found.store_s is not None and found.job.query.is_debug:
        answer.stages_ms["store"] = round(found.store_s * 1000, 3)
    return Ranking(found, answer, found.taste.user)


def _allowed(rankings: Sequence[Ranking]) -> Allowed | None:
    """Return what the filters of rankings allow; None where none has a filter."""
    allowed = [ranking.job.query.mask for ranking in rankings]
    return allowed if any(mask is not None for mask in allowed) else None


def _vector(ranking: Ranking) -> Float32:
    assert ranking.user is not None  # noqa: S101  # encoded, or answered already
    return ranking.user
