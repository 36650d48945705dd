"""The client for programs that do not use asyncio: the other one, on a loop and thread of its own.

So a deadline holds for a whole call, and one client serves any number of threads. A process that forks must make its
client afterwards.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from service.client.answer import ErasedUser, Event, EventsAnswer, ItemsAnswer, Recommendation, UserData
from service.client.client import AsyncClient
from service.client.error import ClientError, RefusedError
from service.client.lists import Page, Scenario
from service.client.outbox import Counts

T = TypeVar("T")


class Client:
    """A service, as any program calls it, from any thread. Use it as a context manager, or call close().

    A client that is not closed is closed when the process ends.
    """

    def __init__(self, url: str, **options: Any) -> None:
        """url, options: as AsyncClient takes them."""
        self._pid, self._is_closed = os.getpid(), False
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(url, **options)
        self._thread = threading.Thread(target=self._loop.run_forever, name="retort-client", daemon=True)
        self._thread.start()
        self._run(self._client.__aenter__())
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def counts(self) -> Counts:
        """What was done."""
        return self._client.counts

    @property
    def n_waiting(self) -> int:
        """How many background events are neither stored nor lost yet."""
        return self._client.n_waiting

    def recommend(
        self, user_id: str | None = None, *, k: int | None = None, deadline_ms: float | None = None, **fields: Any
    ) -> Recommendation:
        """Return the best k items, see AsyncClient.recommend(). Raises ClientError."""
        return self._run(self._client.recommend(user_id, k=k, deadline_ms=deadline_ms, **fields))

    def similar(self, *item_ids: str, k: int = 10, deadline_ms: float | None = None, **fields: Any) -> Recommendation:
        """Return the k items that go best with some items, see AsyncClient.similar(). Raises ClientError."""
        return self._run(self._client.similar(*item_ids, k=k, deadline_ms=deadline_ms, **fields))

    def batch(
        self, requests: Iterable[Mapping[str, Any]], *, deadline_ms: float | None = None
    ) -> Sequence[Recommendation | RefusedError]:
        """Return many answers, see AsyncClient.batch(). Raises ClientError."""
        return self._run(self._client.batch(requests, deadline_ms=deadline_ms))

    def page(
        self,
        user_id: str | None = None,
        *,
        slots: Sequence[Mapping[str, Any]],
        deadline_ms: float | None = None,
        **fields: Any,
    ) -> Page:
        """Return several lists for one user, see AsyncClient.page(). Raises ClientError."""
        return self._run(self._client.page(user_id, slots=slots, deadline_ms=deadline_ms, **fields))

    def scenarios(self) -> Mapping[str, str]:
        """Return the names of all scenarios, see AsyncClient.scenarios(). Raises ClientError."""
        return self._run(self._client.scenarios())

    def scenario(self, name: str) -> Scenario:
        """Return a scenario. Raises ClientError."""
        return self._run(self._client.scenario(name))

    def put_scenario(self, name: str, **fields: Any) -> Scenario:
        """Put a scenario, whole, and return it. Raises ClientError."""
        return self._run(self._client.put_scenario(name, **fields))

    def delete_scenario(self, name: str) -> None:
        """Delete a scenario that was put. Raises ClientError."""
        self._run(self._client.delete_scenario(name))

    def send_events(self, events: Iterable[Event | Mapping[str, Any]]) -> EventsAnswer:
        """Store events, and wait until they are, see AsyncClient.send_events(). Raises ClientError."""
        return self._run(self._client.send_events(events))

    def track(self, event: Event | Mapping[str, Any]) -> None:
        """Take an event to be sent in the background, see AsyncClient.track(). Raises QueueFullError."""
        self._check_process()
        self._client.track(event)

    def flush(self, timeout_s: float = 10.0) -> None:
        """Wait until all background events are stored. Raises EventsLostError, and DeadlineError if some still wait."""
        self._run(self._client.flush(timeout_s))

    def user(self, user_id: str) -> UserData:
        """Return what is kept of a user. Raises ClientError."""
        return self._run(self._client.user(user_id))

    def erase_user(self, user_id: str) -> ErasedUser:
        """Erase a user. Raises ClientError."""
        return self._run(self._client.erase_user(user_id))

    def item(self, item_id: str) -> Mapping[str, Any]:
        """Return what an item is now. Raises ClientError."""
        return self._run(self._client.item(item_id))

    def put_item(self, item_id: str, **fields: Any) -> Mapping[str, Any]:
        """Put an item, whole, and wait until it is stored. Raises ClientError."""
        return self._run(self._client.put_item(item_id, **fields))

    def patch_item(self, item_id: str, **fields: Any) -> Mapping[str, Any]:
        """Change some fields of an item, and wait until that is stored. Raises ClientError."""
        return self._run(self._client.patch_item(item_id, **fields))

    def withdraw_item(self, item_id: str) -> Mapping[str, Any]:
        """Withdraw an item until it is put again. Raises ClientError."""
        return self._run(self._client.withdraw_item(item_id))

    def put_items(self, items: Iterable[Mapping[str, Any]]) -> ItemsAnswer:
        """Put up to 1000 items, each with its item_id, and wait until they are stored. Raises ClientError."""
        return self._run(self._client.put_items(items))

    def search_items(self, text: str | None = None, **fields: Any) -> Sequence[Mapping[str, Any]]:
        """Return items by words of their titles, see AsyncClient.search_items(). Raises ClientError."""
        return self._run(self._client.search_items(text, **fields))

    def model(self) -> Mapping[str, Any]:
        """Return what is being served, as GET /model says it. Raises ClientError."""
        return self._run(self._client.model())

    def close(self, timeout_s: float = 10.0) -> None:
        """Send what waits, and close every connection. Raises EventsLostError for events that were not stored."""
        if self._is_closed or self._pid != os.getpid():
            return
        try:
            self._run(self._client.close(timeout_s))
        finally:
            self._is_closed = True
            atexit.unregister(self.close)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            self._check_process()
        except ClientError:
            work.close()
            raise
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _check_process(self) -> None:
        if self._is_closed:
            raise ClientError("the client is closed", code="closed")
        if self._pid != os.getpid():
            raise ClientError("the client is another process's: make one after the fork", code="other_process")
