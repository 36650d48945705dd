"""One loaded version with what its requests need, and the two that are kept: the live one, and the one before.

A request takes the live edition once, when its body is read, and keeps it to its end: parts of two versions never meet
in an answer. What is remembered of users is an edition's own, because rows are.
"""

import time

import orjson

from service.bundle import Manifest
from service.model.catalogue import Index
from service.recommendation.recommender import Recommender


class Edition:
    """One version, ready to answer. number: of the flip that made it live, or OWN_NUMBER."""

    def __init__(self, manifest: Manifest, index: Index, recommender: Recommender, number: int) -> None:
        self.manifest, self.index, self.recommender, self.number = manifest, index, recommender, number
        self.version = manifest.version
        self.version_json = orjson.dumps(manifest.version)
        self.exclude_seen = not manifest.repeat_consumption
        self.live_since = time.time()


class Editions:
    """The live edition, and the one before for an instant way back."""

    def __init__(self, live: Edition) -> None:
        self.live = live
        self.previous: Edition | None = None

    def swap(self, edition: Edition) -> Edition | None:
        """Make an edition live, in one step between two requests; return the one that is no longer kept, if any."""
        dropped = self.previous if self.previous is not edition else None
        self.previous, self.live = self.live, edition
        edition.live_since = time.time()
        return dropped

    def drop_previous(self) -> Edition | None:
        """Keep the live one alone, before another is loaded: three at a time would cost memory."""
        dropped, self.previous = self.previous, None
        return dropped

    async def forget(self, user_id: str) -> None:
        """Drop what any edition remembers of a user."""
        for edition in (self.live, self.previous):
            if edition is not None:
                await edition.recommender.forget(user_id)

    async def rest(self) -> None:
        """Finish what was begun, also for callers who are gone."""
        for edition in (self.live, self.previous):
            if edition is not None:
                await edition.recommender.rest()
