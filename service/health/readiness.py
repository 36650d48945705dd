"""What /readyz says: whether requests should come here, which version answers them, and how the store is."""

from collections.abc import Callable
from typing import Any

from service.release.generation import Generations
from service.store.client import Store


class Readiness:
    """What /readyz says. is_draining: told to stop, so no longer ready."""

    def __init__(self, store: Store, store_kind: str, explain: Callable[[], str], generations: Generations) -> None:
        """store_kind: embedded or external. explain: says why the store does not answer."""
        self._store, self._store_kind, self._generations = store, store_kind, generations
        self._explain = explain
        self.is_draining = False

    def drain(self) -> None:
        """Say from now on that it is not ready."""
        self.is_draining = True

    def describe(self) -> dict[str, Any]:
        """Return the body of /readyz."""
        breaker = self._store.breaker
        store = {"kind": self._store_kind, "is_up": breaker.is_closed, "breaker": breaker.state.name.lower()}
        if not breaker.is_closed and (reason := self._explain()):
            store["reason"] = reason
        return {"ready": not self.is_draining, "model_version": self._generations.live.version, "store": store}
