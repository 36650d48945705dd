"""Generations: loaded versions. The live one answers, and the one before it is kept for an instant way back.

While an experiment runs, another version is loaded beside the live one and answers a share of the users (a shadow
answers nobody); the one before is then not kept, so that there are two at a time.

A request takes its generation once, when its body is read, and keeps it to its end, so that no answer is made of two
versions. What is remembered of users belongs to a generation, because rows are those of one version.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from service.bundle import Effect, HistoryTypes, Manifest
from service.errors import FieldError, RequestError
from service.experiment.assignment import Assignment
from service.experiment.record import Experiment
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.recommendation.job import Answer, Query
from service.recommendation.recommender import Recommender
from service.release.aside import Aside


class Trend(Protocol):
    """Keeps what is counted lately of a version's items up to date."""

    async def advance(self) -> None:
        """Take in what is new."""

    def masses(self) -> dict[str, float]:
        """Return how much of all counts is from each source."""


class Shadow(Protocol):
    """Answers requests again, aside."""

    def offer(self, future: "asyncio.Future[Answer]", make: "Callable[[Generation], Query]", arrived: float) -> None:
        """Take a request into the sample, or do not. make: makes its query for a version. arrived: when it did."""

    def stop(self) -> None:
        """Answer nothing more."""

    async def close(self) -> None:
        """Answer nothing more, and wait until that is so."""


@dataclass(frozen=True, slots=True)
class Part:
    """The part that a generation has in an experiment: that of the live version, or of the other one.

    shadow: what the live one's answers are compared by, where that is the kind.
    """

    experiment: Experiment
    role: Literal["live", "other"]
    shadow: Shadow | None = None

    def describe(self) -> dict[str, Any]:
        """Return what an answer says of it, where that was asked for."""
        experiment = self.experiment
        return {"id": experiment.id, "kind": experiment.kind, "share": experiment.share, "answered_by": self.role}

    def note(self, metrics: Metrics, query: Query, answer: Answer, took_s: float, *, is_within: bool) -> None:
        """Count an answer that either version could have given: one to a user."""
        if query.user_id is not None and self.experiment.kind != "shadow":
            metrics.count_version(self.role, answer.level, took_s, is_within=is_within)

    def note_failure(self, metrics: Metrics, user_id: str | None, exc: BaseException) -> None:
        """Count that a user got no answer, where that may lie in the version."""
        if user_id is None or self.experiment.kind == "shadow":
            return
        if not isinstance(exc, RequestError):
            metrics.version_answers[self.role, "error"].inc()
        elif isinstance(exc, FieldError):
            metrics.version_answers[self.role, "refused"].inc()


class Generation:
    """A version that is loaded and ready to answer. number: of the release that made it live, or OWN_NUMBER.

    part: in the experiment that runs; None where none does. n_held: how many need it who are not in its batches.
    golden_histories: those of the bundle's golden answers, item ids.
    """

    def __init__(
        self,
        manifest: Manifest,
        catalogue: Catalogue,
        recommender: Recommender,
        aside: Aside,
        number: int,
        trend: Trend | None = None,
    ) -> None:
        """aside: answers for comparisons. trend: of the catalogue, where its scores have one."""
        self.manifest, self.catalogue, self.recommender, self.number = manifest, catalogue, recommender, number
        self.aside, self.trend = aside, trend
        self.version = manifest.version
        self.history_types = HistoryTypes(manifest.history_types)
        self.version_json = orjson.dumps(manifest.version)
        self.exclude_seen = not manifest.repeat_consumption
        self.live_since = time.time()
        self.part: Part | None = None
        self.n_held = 0
        self.golden_histories: Sequence[Sequence[str]] = ()


class Beside:
    """The generation that is tried beside the live one, and whom it answers."""

    def __init__(self, experiment: Experiment, generation: Generation, shadow: Shadow | None) -> None:
        self.experiment, self.generation, self.shadow = experiment, generation, shadow
        share = 0 if experiment.kind == "shadow" else experiment.share
        self.takes = Assignment(experiment.salt, share).takes


class Generations:
    """The live generation, the one before it, if it is kept, and the one that is tried beside it, if any."""

    def __init__(self, live: Generation) -> None:
        self.live = live
        self.previous: Generation | None = None
        self.beside: Beside | None = None

    def answering(self, user_id: str | None) -> Generation:
        """Return the generation that answers a user."""
        beside = self.beside
        return self.live if beside is None or not beside.takes(user_id) else beside.generation

    @contextmanager
    def held(self) -> Iterator[Callable[[str | None], Generation]]:
        """Keep who answers whom as it is now, for a request that is not over with one batch."""
        live, beside = self.live, self.beside
        held = [live] if beside is None else [live, beside.generation]
        for generation in held:
            generation.n_held += 1
        try:
            yield lambda user_id: live if beside is None or not beside.takes(user_id) else beside.generation
        finally:
            for generation in held:
                generation.n_held -= 1

    def try_beside(self, experiment: Experiment, generation: Generation, shadow: Shadow | None) -> None:
        """Let a generation answer its share from now on, or change its share. shadow: if that is the kind."""
        self.drop_beside()
        self.beside = Beside(experiment, generation, shadow)
        self.live.part, generation.part = Part(experiment, "live", shadow), Part(experiment, "other")

    def drop_beside(self) -> Generation | None:
        """Let the live one answer everybody; return the other, if there was one."""
        beside, self.beside = self.beside, None
        self.live.part = None
        if beside is not None and beside.shadow is not None:
            beside.shadow.stop()
        return None if beside is None else beside.generation

    def depth(self) -> int:
        """Return how many queries wait for a batch."""
        beside = self.beside
        return self.live.recommender.depth + (0 if beside is None else beside.generation.recommender.depth)

    def swap(self, generation: Generation) -> Generation | None:
        """Make a generation live, in one step between two requests; return the one that is no longer kept, if any."""
        dropped = self.previous if self.previous is not generation else None
        self.previous, self.live = self.live, generation
        self.previous.part = generation.part = None
        generation.live_since = time.time()
        return dropped

    def effect_of(self, type_: str | None) -> Effect:
        """Return what an event of a type does, as the live version says."""
        return self.live.history_types.effect(type_)

    def trends(self) -> list[Trend]:
        """Return the trends of all generations."""
        return [each.trend for each in self.all() if each.trend is not None]

    def catalogues(self) -> list[Catalogue]:
        """Return the catalogues of all generations."""
        return [each.catalogue for each in self.all()]

    def drop_previous(self) -> Generation | None:
        """Keep only the live one, and return the other, if any: three at a time would cost too much memory."""
        dropped, self.previous = self.previous, None
        return dropped

    async def forget(self, user_id: str) -> None:
        """Drop what the generations remember of a user."""
        for generation in self.all():
            await generation.recommender.forget(user_id)

    def forget_share(self, share: int | None) -> None:
        """Drop what the generations remember of the users of a share, or of everybody."""
        for generation in self.all():
            generation.recommender.forget_share(share)

    async def rest(self) -> None:
        """Finish what was begun, and remember nobody."""
        if self.beside is not None and self.beside.shadow is not None:
            await self.beside.shadow.close()
        for generation in self.all():
            await generation.recommender.rest()

    def all(self) -> list[Generation]:
        """Return every generation that is at hand, the live one first."""
        beside = None if self.beside is None else self.beside.generation
        return [each for each in (self.live, self.previous, beside) if each is not None]
