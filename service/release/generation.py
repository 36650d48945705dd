"""Generations: loaded versions. The live one answers, and the one before it is kept for an instant way back.

A request takes the live generation once, when its body is read, and keeps it to its end, so that no answer is made of
two versions. What is remembered of users belongs to a generation, because rows are those of one version.
"""

import time
from collections.abc import Sequence
from typing import Protocol

import orjson

from service.bundle import Effect, HistoryTypes, Manifest
from service.model.catalogue import Catalogue
from service.recommendation.recommender import Recommender


class Trend(Protocol):
    """Keeps what is counted lately of a version's items up to date."""

    async def advance(self) -> None:
        """Take in what is new."""

    def masses(self) -> dict[str, float]:
        """Return how much of all counts is from each source."""


class Generation:
    """A version that is loaded and ready to answer. number: of the release that made it live, or OWN_NUMBER."""

    def __init__(
        self,
        manifest: Manifest,
        catalogue: Catalogue,
        recommender: Recommender,
        number: int,
        trend: Trend | None = None,
        golden_histories: Sequence[Sequence[str]] = (),
    ) -> None:
        """trend: of the catalogue, where its scores have one. golden_histories: of the bundle's golden answers."""
        self.manifest, self.catalogue, self.recommender, self.number = manifest, catalogue, recommender, number
        self.trend, self.golden_histories = trend, golden_histories
        self.version = manifest.version
        self.history_types = HistoryTypes(manifest.history_types)
        self.version_json = orjson.dumps(manifest.version)
        self.exclude_seen = not manifest.repeat_consumption
        self.live_since = time.time()


class Generations:
    """The live generation, and the one before it, if there is one."""

    def __init__(self, live: Generation) -> None:
        self.live = live
        self.previous: Generation | None = None

    def both(self) -> list[Generation]:
        """Return the live one and the one before it, if there is one."""
        return [each for each in (self.live, self.previous) if each is not None]

    def swap(self, generation: Generation) -> Generation | None:
        """Make a generation live, in one step between two requests; return the one that is no longer kept, if any."""
        dropped = self.previous if self.previous is not generation else None
        self.previous, self.live = self.live, generation
        generation.live_since = time.time()
        return dropped

    def effect_of(self, type_: str | None) -> Effect:
        """Return what an event of a type does, as the live version says."""
        return self.live.history_types.effect(type_)

    def trends(self) -> list[Trend]:
        """Return the trends of both generations."""
        return [each.trend for each in self.both() if each.trend is not None]

    def catalogues(self) -> list[Catalogue]:
        """Return the catalogues of both generations."""
        return [each.catalogue for each in self.both()]

    def drop_previous(self) -> Generation | None:
        """Keep only the live one, and return the other, if any: three at a time would cost too much memory."""
        dropped, self.previous = self.previous, None
        return dropped

    async def forget(self, user_id: str) -> None:
        """Drop what the generations remember of a user."""
        for generation in self.both():
            await generation.recommender.forget(user_id)

    def forget_share(self, share: int | None) -> None:
        """Drop what the generations remember of the users of a share, or of everybody."""
        for generation in self.both():
            generation.recommender.forget_share(share)

    async def rest(self) -> None:
        """Finish what was begun, and remember nobody."""
        for generation in self.both():
            await generation.recommender.rest()
