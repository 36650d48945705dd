"""Recommendations in a Python program of your own, without a server and without a store.

    from service.library import Retort
    Retort.load("bundle").recommend(history=["i1", "i2"], k=10)

The answer is that of POST /recommend to the same history. The model, the search and the ranking are those of the
service, and what serves only HTTP, the store or metrics is not imported. Catalogues of every size are searched exactly:
there are no codes to be made at the first start. Where the score has a trend, it is that of the bundle, which fades as
time passes: nobody tells of new events here.

An object is used by one thread at a time. What it needs: tests/bench/README.md, "The library without HTTP".
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson

from service.bundle import Bundle, BundleError, check_item_id, open_bundle
from service.errors import RequestError, StartError
from service.experiment.answer_id import new_answer_id
from service.model.catalogue import Catalogue
from service.model.golden import compare_golden
from service.model.student import BUCKETS, Student
from service.recommendation.budget import Budget
from service.recommendation.job import Answer, Found, Query, Taste, make_job
from service.recommendation.observer import Unwatched
from service.recommendation.ranker import Ranker

if TYPE_CHECKING:
    import asyncio

_FADE_EVERY_S = 30.0


class Retort:
    """A loaded bundle that answers. version: of the bundle. item_ids: of its items."""

    def __init__(self, bundle: Bundle) -> None:
        """bundle: opened, so that its files are checked. Raises StartError unless it gives its golden answers."""
        manifest = bundle.manifest
        student = Student(bundle)
        self._catalogue = Catalogue(bundle)
        compare_golden(bundle, student, self._catalogue)
        self._ranker = Ranker(student, self._catalogue, Unwatched(), max_history=manifest.max_history)
        self._exclude_seen = not manifest.repeat_consumption
        self._faded_at = time.monotonic()
        self.version, self.item_ids = manifest.version, self._catalogue.item_ids

    @classmethod
    def load(cls, path: str | Path) -> "Retort":
        """Check every file of the bundle at path and load it. Raises StartError that names what is wrong."""
        try:
            return cls(open_bundle(Path(path)))
        except BundleError as exc:
            raise StartError(str(exc)) from exc

    def recommend(
        self,
        history: Sequence[str] = (),
        k: int = 10,
        *,
        exclude: Sequence[str] = (),
        candidates: Sequence[str] | None = None,
        exclude_seen: bool | None = None,
    ) -> dict[str, Any]:
        """Return the answer to one history, item ids, the oldest first, as POST /recommend gives it.

        k: how many items. exclude: ids that are never in the answer. candidates: only these are ranked. exclude_seen:
        leave out the history; the bundle says whether by default. Raises RequestError that names what is wrong.
        """
        (answer,) = self.recommend_many([history], k, exclude=exclude, candidates=candidates, exclude_seen=exclude_seen)
        return answer

    def recommend_many(
        self,
        histories: Iterable[Sequence[str]],
        k: int = 10,
        *,
        exclude: Sequence[str] = (),
        candidates: Sequence[str] | None = None,
        exclude_seen: bool | None = None,
    ) -> list[dict[str, Any]]:
        """Return the answers to many histories, in their order; see recommend(). took_ms is a share of a batch."""
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise RequestError("malformed", f"k: a whole number from 1 on, not {k!r}")
        if exclude_seen is not None and not isinstance(exclude_seen, bool):
            raise RequestError("malformed", f"exclude_seen: true, false or nothing, not {exclude_seen!r}")
        query = Query(
            user_id=None,
            k=k,
            history=(),
            exclude=_ids("exclude", exclude),
            exclude_seen=self._exclude_seen if exclude_seen is None else exclude_seen,
            candidates=None if candidates is None else _ids("candidates", candidates),
            caller=_CALLER,
            budget=_ENDLESS,
        )
        listed = [_ids("history", history) for history in histories]
        answers: list[dict[str, Any]] = []
        for first in range(0, len(listed), BUCKETS[-1]):
            answers += self._answer(query, listed[first : first + BUCKETS[-1]])
        return answers

    def _answer(self, query: Query, histories: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        start = time.perf_counter()
        self._fade()
        found = []
        for history in histories:
            job = make_job(replace(query, history=history), self._catalogue, _NOBODY_WAITS)
            found.append(Found(job, job.taste or Taste()))
        answers = [ranking.answer for ranking in self._ranker.rank(found)]
        took_ms = round((time.perf_counter() - start) * 1000 / len(histories), 3)
        return [self._describe(answer, took_ms) for answer in answers]

    def _describe(self, answer: Answer, took_ms: float) -> dict[str, Any]:
        described = {
            "recommendation_id": new_answer_id(self.version),
            "user_id": None,
            "model_version": self.version,
            "items": orjson.loads(b"[" + self._catalogue.render(answer.ranked) + b"]"),
            "quality": {"level": answer.level, "reasons": answer.reasons},
            "ignored_ids": answer.ignored_ids,
            "took_ms": took_ms,
        }
        return described | {"funnel": answer.funnel} if answer.funnel else described

    def _fade(self) -> None:
        """Let the counts of the trend decay to now, from time to time."""
        if self._catalogue.has_trend and time.monotonic() - self._faded_at >= _FADE_EVERY_S:
            assert self._catalogue.parts is not None  # noqa: S101  # it has a trend
            self._faded_at = time.monotonic()
            self._catalogue.set_counts(self._catalogue.parts.counts_at(time.time()), self._catalogue.heard_at)


@dataclass(slots=True)
class _Caller:
    is_gone: bool = False


_CALLER = _Caller()
_ENDLESS = Budget(0.0, math.inf, math.inf)
_NOBODY_WAITS = cast("asyncio.Future[Answer]", None)


def _ids(name: str, given: object) -> Sequence[str]:
    """Return a list of ids, checked. Raises RequestError."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise RequestError("malformed", f"{name}: a list of item ids, not {given!r:.100}")
    listed = [*given]
    for place, item_id in enumerate(listed):
        try:
            if not isinstance(item_id, str):
                raise ValueError(f"an id must be a text, this one is {item_id!r:.100}")
            check_item_id(item_id)
        except ValueError as exc:
            raise RequestError("malformed", f"{name}.{place}: {exc}") from None
    return listed
