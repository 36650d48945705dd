"""One loaded version with what its requests need, and the two that are kept: live and before.

A request takes the live generation once, when its body is read, and keeps it to its end: parts of two versions never
meet in an answer. What is remembered of users is a generation's own, because rows are.
"""

import time

import orjson

from service.bundle import Manifest
from service.model.catalogue import Catalogue
from service.recommendation.recommender import Recommender


class Generation:
    """One version, ready to answer. number: of the flip that made it live, or OWN_NUMBER."""

    def __init__(self, manifest: Manifest, catalogue: Catalogue, recommender: Recommender, number: int) -> None:
        self.manifest, self.catalogue, self.recommender, self.number = manifest, catalogue, recommender, number
        self.version = manifest.version
        self.version_json = orjson.dumps(manifest.version)
        self.exclude_seen = not manifest.repeat_consumption
        self.live_since = time.time()


class Generations:
    """The live generation, and the one before for an instant way back."""

    def __init__(self, live: Generation) -> None:
        self.live = live
        self.previous: Generation | None = None

    def swap(self, generation: Generation) -> Generation | None:
        """Make an generation live, in one step between two requests; return the one that is no longer kept, if any."""
        dropped = self.previous if self.previous is not generation else None
        self.previous, self.live = self.live, generation
        generation.live_since = time.time()
        return dropped

    def drop_previous(self) -> Generation | None:
        """Keep the live one alone, before another is loaded: three at a time would cost memory."""
        dropped, self.previous = self.previous, None
        return dropped

    async def forget(self, user_id: str) -> None:
        """Drop what any generation remembers of a user."""
        for generation in (self.live, self.previous):
            if generation is not None:
                await generation.recommender.forget(user_id)

    async def rest(self) -> None:
        """Finish what was begun, also for callers who are gone."""
        for generation in (self.live, self.previous):
            if generation is not None:
                await generation.recommender.rest()
