"""From what is known of users to ranked items: by the model where there is a history and time, else by popularity.

Where the score is a sum, the model's part is weighed by the time since the user's last event, and the trend and the
neighbours are added; popularity is then that of the trend.

The encoder runs once for all users of a batch without a vector, and the catalogue is scored once for all who rank the
whole of it; those who ask for boosts, pins and the like are apart from the others, because they are looked at deeper.
A stage that would not fit a job's budget is not begun for it; the next cheaper level answers.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from service.bundle import Float32
from service.errors import REASONS, DegradedError, ModelError, NonFiniteError
from service.model.catalogue import Catalogue
from service.model.student import BUCKETS, Student
from service.recommendation.budget import Stage, StageCosts
from service.recommendation.diversity import MOST_DIVERSIFIED
from service.recommendation.exploration import Explorer
from service.recommendation.funnel import count_funnel
from service.recommendation.job import Answer, Explanation, Found, Ranking
from service.recommendation.observer import RankingMetrics
from service.recommendation.rule import Page, Rules, Shaping
from service.recommendation.similar import begin_similar, relate, to_encode
from service.search.addend import NOTHING, Addend, Addends, Boosted
from service.search.protocol import Allowed, Ranked

STALE_TREND_S = 6 * 3600
"""Where the trend has heard of no event for so long, answers say so."""
_WARM_RUNS = 3
_DEEPER = 10
"""So many times as many rows are looked at where max_per leaves too few."""


class Ranker:
    """Answers jobs whose user's taste is known, from one model."""

    def __init__(
        self,
        student: Student,
        catalogue: Catalogue,
        metrics: RankingMetrics,
        *,
        max_history: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """max_history: how many events the encoder reads. clock: Unix seconds."""
        self._student, self._catalogue, self._metrics, self._clock = student, catalogue, metrics, clock
        self.max_history = max_history
        self._costs = StageCosts(BUCKETS)
        self._explorer = Explorer(catalogue, self.scores_of, self._weigh)

    def warm(self) -> dict[int, float]:
        """Run every batch size; return what a batch of each costs in CPU seconds of this thread, the least of a few.

        CPU seconds, because a new version warms up beside traffic and must not end with smaller batches for it.
        """
        self._student.warm()
        return {bucket: min(self._try_batch(bucket) for _ in range(_WARM_RUNS)) for bucket in BUCKETS}

    def rank(self, found: Sequence[Found]) -> list[Ranking]:
        """Return the answer of every job, in the same order."""
        now = self._clock()
        rankings = [_begin(each, now) for each in found]
        for ranking in rankings:
            if ranking.job.anchors:
                begin_similar(ranking)
            elif not len(ranking.found.taste.seen):
                if ranking.answer.level == "full":
                    ranking.answer.reasons.append("cold_user")
                self._answer_popular(ranking)
        self._encode([each for each in rankings if not each.is_done and (each.user is None or each.job.anchors)])
        left = [ranking for ranking in rankings if not ranking.is_done]
        ready = self._in_time(left, self._costs.scoring(len(left)))
        for ranking in ready:
            if ranking.job.candidates is not None:
                self._rank_candidates(ranking)
        for group in _alike(ready):
            self._rank_all(group)
        if self._catalogue.heard_at < now - STALE_TREND_S:
            for ranking in rankings:
                _note_stale(ranking.answer)
        return rankings

    def fall_back(self, found: Found, stage: Stage) -> Ranking:
        """Return the answer of a job that has no time left for a stage: popular items."""
        ranking = _begin(found, self._clock())
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
        histories = [to_encode(ranking, self.max_history) for ranking in rankings]
        try:
            users = self._student.encode([rows for own in histories for rows in own])
        except ModelError as exc:
            for ranking in rankings:
                self._fall_back(ranking, exc)
            return
        self._metrics.batch_size.observe(len(users))
        self._costs.note_encoding(len(users), self._note_stage("encode", start, rankings))
        place = 0
        for ranking, encoded in zip(rankings, histories, strict=True):
            own = users[place : place + len(encoded)]
            place += len(encoded)
            if np.isfinite(own).all():
                ranking.take(own)
            else:
                self._fall_back(ranking, NonFiniteError("the encoder returned NaN or infinity"))

    def _rank_all(self, rankings: list[Ranking]) -> None:
        """Rank the whole catalogue for every job at once."""
        if not rankings:
            return
        start = time.monotonic()
        k = max(ranking.job.query.depth for ranking in rankings)
        masked = [ranking.masked(len(self._catalogue)) for ranking in rankings]
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
        choosing_s = self._note_stage("rules", start, rankings)
        if rankings[0].job.query.rules is None:
            self._costs.note_scoring(len(rankings), scoring_s + choosing_s)
        for ranking, ranked in zip(rankings, best, strict=True):
            if ranked is None:
                self._fall_back(ranking, NonFiniteError("a score is NaN or infinity"))
            else:
                self._finish(ranking, ranked)

    def _weigh(self, rankings: Sequence[Ranking]) -> tuple[Float32, Addends | None]:
        """Return the users' vectors as they are multiplied, float32 [batch, dim], and what is added to their scores."""
        weighed: Sequence[Addend] | None = None
        if rankings[0].job.anchors:
            users, weighed = relate(rankings, self._catalogue, rankings[0].at)
            return users, weighed if rankings[0].job.query.rules is None else _ruled(rankings, weighed)
        vectors = [ranking.vector for ranking in rankings]
        users = vectors[0][None] if len(vectors) == 1 else np.stack(vectors)
        if self._catalogue.parts is not None:
            tastes = [ranking.found.taste for ranking in rankings]
            users, weighed = self._catalogue.weigh(
                users, [taste.seen for taste in tastes], [taste.last_at for taste in tastes], rankings[0].at
            )
            for ranking, addend in zip(rankings, weighed or (), strict=True):
                ranking.addend = addend
        return users, weighed if rankings[0].job.query.rules is None else _ruled(rankings, weighed)

    def _rank_candidates(self, ranking: Ranking) -> None:
        start = time.monotonic()
        try:
            ranked = self._best(ranking, ranking.job.query.depth)
        except ModelError as exc:
            self._fall_back(ranking, exc)
            return
        self._note_stage("score", start, [ranking])
        self._finish(ranking, ranked)

    def _best(self, ranking: Ranking, depth: int) -> Ranked:
        """Return the best rows for one job, whatever its answer's level. Raises ModelError."""
        if ranking.answer.level == "fallback":
            return self._popular(ranking, depth)
        masked, candidates = ranking.masked(len(self._catalogue)), ranking.job.candidates
        users, addends = self._weigh([ranking])
        if candidates is not None:
            return self._catalogue.best_of(users[0], depth, masked, candidates, addends[0] if addends else None)
        scores = self._catalogue.score(users, depth, len(masked), addends, _allowed([ranking]))
        (ranked,) = self._catalogue.best(scores, depth, [masked])
        if ranked is None:
            raise NonFiniteError("a score is NaN or infinity")
        return ranked

    def _popular(self, ranking: Ranking, depth: int) -> Ranked:
        job = ranking.job
        allowed = job.mask if job.candidates is None else None
        return self._catalogue.most_popular(
            depth, ranking.masked(len(self._catalogue)), job.candidates, allowed, job.boost
        )

    def _fall_back(self, ranking: Ranking, exc: DegradedError) -> None:
        reasons = ranking.answer.reasons
        ranking.answer.reasons = [*(reason for reason in reasons if reason != "stale_profile"), exc.reason]
        self._answer_popular(ranking)

    def _answer_popular(self, ranking: Ranking) -> None:
        ranking.answer.level, ranking.addend = "fallback", None
        start = time.monotonic()
        ranked = self._popular(ranking, ranking.job.query.depth)
        self._note_stage("rules", start, [ranking])
        self._finish(ranking, ranked)

    def _finish(self, ranking: Ranking, ranked: Ranked) -> None:
        answer, query = ranking.answer, ranking.job.query
        n_in_list = None
        if query.rules is None:
            rows, scores = ranked
            answer.ranked = ranked if len(rows) <= query.k else (rows[: query.k], scores[: query.k])
        else:
            try:
                page = self._shape(ranking, query.rules, ranked)
            except ModelError as exc:
                self._fall_back(ranking, exc)
                return
            answer.ranked, answer.dropped_pins = page.ranked, ranking.job.dropped
            n_in_list = page.n_in_list if query.rules.caps else None
        if is_short := len(answer.ranked[0]) < query.k:
            answer.reasons.append("not_enough_items")
        elif query.explore:
            self._explorer.explore(ranking)
        if len(answer.reasons) > 1:
            answer.reasons = sorted(set(answer.reasons), key=REASONS.index)
        if query.is_debug or is_short:
            answer.funnel = count_funnel(ranking, self._catalogue, n_in_list)
        if query.is_debug:
            answer.funnel["history"] = min(len(ranking.found.taste.seen), self.max_history)
        if query.is_debug or query.is_explained:
            is_popular = answer.level == "fallback"
            answer.explanation = Explanation(left_out="fallback") if is_popular and query.is_explained else None
            answer.parts = self._catalogue.describe_parts(
                answer.ranked, ranking.addend, ranking.job.boost, is_popular=is_popular
            )
        ranking.is_done = True

    def _shape(self, ranking: Ranking, rules: Rules, ranked: Ranked) -> Page:
        """Return the page that is asked for, of rows that are ranked as deep as _depth() says or to the end."""
        start = time.monotonic()
        query, placed = ranking.job.query, ranking.job.placed
        shaping, depth = Shaping(rules, query.k, placed), query.depth
        while True:
            vectors = self._catalogue.vectors(ranked[0][:MOST_DIVERSIFIED]) if rules.diversity else None
            kept = shaping.keep(ranked, vectors, is_counted=query.is_debug)
            if shaping.is_enough(kept) or len(ranked[0]) < depth:
                break
            depth *= _DEEPER
            ranked = self._best(ranking, depth)
        pinned = self.scores_of(ranking, shaping.pinned())
        ranking.shape_s = self._note_stage("shape", start, [ranking])
        return shaping.cut(ranked, kept, pinned)

    def scores_of(self, ranking: Ranking, rows: Sequence[int]) -> dict[int, Any]:
        """Return the score of each row, as the answer's level has it. Raises ModelError."""
        if not rows:
            return {}
        if ranking.answer.level == "fallback":
            ranked = self._catalogue.most_popular(len(rows), (), rows, boost=ranking.job.boost)
        else:
            users, addends = self._weigh([ranking])
            ranked = self._catalogue.best_of(users[0], len(rows), (), rows, addends[0] if addends else None)
        return dict(zip(*ranked, strict=True))

    def _note_stage(self, name: str, start: float, rankings: Sequence[Ranking]) -> float:
        """Note the time since start as that of a stage, and return it in seconds."""
        seconds = time.monotonic() - start
        self._metrics.stage[name].observe(seconds)
        for ranking in rankings:
            query = ranking.job.query
            if query.is_debug:
                ranking.answer.stages_ms[name] = round(seconds * 1000, 3)
            if query.span is not None:
                query.span.add(name, start, start + seconds, batch=len(rankings))
        return seconds


class _DeadlineError(DegradedError):
    reason = "deadline"


def _note_stale(answer: Answer) -> None:
    answer.reasons = sorted({*answer.reasons, "stale_trend"}, key=REASONS.index)


def _begin(found: Found, now: float) -> Ranking:
    answer = Answer(level=found.level, reasons=list(found.reasons), ignored_ids=list(found.job.ignored_ids))
    found.job.drop_pins(found.taste.hidden)
    if found.store_s is not None and found.job.query.is_debug:
        answer.stages_ms["store"] = round(found.store_s * 1000, 3)
    return Ranking(found, answer, found.taste.user, now)


def _alike(rankings: Sequence[Ranking]) -> Iterable[list[Ranking]]:
    """Return those who rank the whole catalogue, in groups that are scored at once."""
    groups: dict[tuple[bool, bool], list[Ranking]] = {}
    for ranking in rankings:
        if ranking.job.candidates is None:
            kind = ranking.job.query.rules is None, not ranking.job.anchors
            groups.setdefault(kind, []).append(ranking)
    return groups.values()


def _allowed(rankings: Sequence[Ranking]) -> Allowed | None:
    """Return what the filters of rankings allow; None where none has a filter."""
    allowed = [ranking.job.mask for ranking in rankings]
    return allowed if any(mask is not None for mask in allowed) else None


def _ruled(rankings: Sequence[Ranking], weighed: Sequence[Addend] | None) -> Addends | None:
    """Return what is added to the scores of each user, with the factors of the trend and the boosts asked for."""
    for ranking, addend in zip(rankings, weighed or (), strict=False):
        rules = ranking.job.query.rules
        if rules is not None and rules.trend != 1:
            addend.bend(rules.trend)
    boosts = [ranking.job.boost for ranking in rankings]
    if all(boost is None for boost in boosts):
        return weighed
    pairs = zip(weighed or [NOTHING] * len(boosts), boosts, strict=True)
    return [addend if boost is None else Boosted(addend, boost) for addend, boost in pairs]
