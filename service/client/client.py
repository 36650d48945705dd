"""The client for programs that use asyncio. See sync for all others."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from service.client.answer import ErasedUser, Event, EventsAnswer, ItemsAnswer, Recommendation, UserData
from service.client.error import (
    KINDS,
    ClientError,
    DeadlineError,
    PassingError,
    RefusedError,
    UnreachableError,
    UnreadableError,
)
from service.client.lists import Page, Scenario, read_batch, read_names
from service.client.outbox import Counts, OnLost, Outbox
from service.client.retry import RetryBudget, backoff_s

_PASSING = (429, 503)
_LONGEST_BUDGET_MS = 1000
GiveBudget = Callable[[dict[str, Any], int], dict[str, Any]]
_ROUTE_MS = 10.0
"""What is left of a deadline for the way there and back; of a short one, a fifth."""


@dataclass(frozen=True, slots=True)
class Options:
    """What few programs change.

    retry_share: of all calls at most so many are made again. max_queue: background events that may wait. linger_s: how
    long one waits for more. transport: instead of httpx's own.
    """

    retry_share: float = 0.1
    max_queue: int = 10_000
    linger_s: float = 0.05
    transport: httpx.AsyncBaseTransport | None = None


class AsyncClient:
    """A service, as an asyncio program calls it. Use it as a context manager, or call close().

    Connections are kept and used again. A call that failed in passing is made again if that is safe, if the deadline
    allows it, and if the retry budget does. counts: what was done.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        deadline_ms: float = 250.0,
        timeout_s: float = 5.0,
        on_lost: OnLost | None = None,
        options: Options | None = None,
    ) -> None:
        """url: of the service, with the prefix of its paths if there is one.

        deadline_ms: of recommend() where the call names none. timeout_s: of every other call. on_lost: is told of
        background events that were not stored, on another thread; without it, flush() and close() raise.
        """
        chosen = options or Options()
        headers = {"Content-Type": "application/json"} | ({} if api_key is None else {"X-API-Key": api_key})
        self.counts = Counts()
        self._deadline_ms, self._timeout_s = deadline_ms, timeout_s
        self._budget = RetryBudget(chosen.retry_share)
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"), headers=headers, timeout=httpx.Timeout(None), transport=chosen.transport
        )
        self._outbox = Outbox(
            self._send_batch, self.counts, most=chosen.max_queue, linger_s=chosen.linger_s, on_lost=on_lost
        )

    async def __aenter__(self) -> Self:
        self._outbox.start()
        return self

    async def __aexit__(self, kind: type | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    @property
    def n_waiting(self) -> int:
        """How many background events are neither stored nor lost yet."""
        return self._outbox.n_waiting

    async def recommend(
        self, user_id: str | None = None, *, k: int | None = None, deadline_ms: float | None = None, **fields: Any
    ) -> Recommendation:
        """Return the best k items. Raises ClientError.

        k: without it, that of the scenario if the fields name one, else 10. deadline_ms: when the answer must be here.
        What is left of it is sent as budget_ms, less the way there and back, unless the fields have one.
        fields: any others of POST /recommend, such as history, exclude, candidates or debug.
        """
        ends = self._deadline(deadline_ms)
        given = {"k": k, "user_id": user_id}
        asked = fields | {name: value for name, value in given.items() if value is not None}
        return Recommendation.of(await self._call("POST", "/recommend", ends, asked, is_safe=True, give_budget=_to_all))

    async def batch(
        self, requests: Iterable[Mapping[str, Any]], *, deadline_ms: float | None = None
    ) -> Sequence[Recommendation | RefusedError]:
        """Return up to 100 answers in the order of their requests, an error in the place of one that was refused.

        requests: bodies of POST /recommend. Those that name no budget_ms get what is left of the deadline. Raises
        ClientError where there is no answer at all.
        """
        asked = {"requests": [dict(request) for request in requests]}
        ends = self._deadline(deadline_ms)
        answer = await self._call("POST", "/recommend/batch", ends, asked, is_safe=True, give_budget=_to_each)
        return read_batch(answer)

    async def page(
        self,
        user_id: str | None = None,
        *,
        slots: Sequence[Mapping[str, Any]],
        deadline_ms: float | None = None,
        **fields: Any,
    ) -> Page:
        """Return several lists for one user, no item twice. Raises ClientError.

        slots: as POST /page takes them. fields: any others of it, such as history or distinct.
        """
        asked = {"slots": list(slots), **fields} | ({} if user_id is None else {"user_id": user_id})
        ends = self._deadline(deadline_ms)
        return Page.of(await self._call("POST", "/page", ends, asked, is_safe=True, give_budget=_to_all))

    async def scenarios(self) -> Mapping[str, str]:
        """Return the names of all scenarios, and where each comes from: file or store. Raises ClientError."""
        return read_names(await self._ask("GET", "/scenarios", is_safe=True))

    async def scenario(self, name: str) -> Scenario:
        """Return a scenario. Raises ClientError."""
        return Scenario.of(await self._ask("GET", _path("scenarios", name), is_safe=True))

    async def put_scenario(self, name: str, **fields: Any) -> Scenario:
        """Put a scenario, whole, and return it. Raises ClientError."""
        ends = time.monotonic() + self._timeout_s
        return Scenario.of(await self._call("PUT", _path("scenarios", name), ends, fields, is_safe=True))

    async def delete_scenario(self, name: str) -> None:
        """Delete a scenario that was put. Raises ClientError."""
        await self._ask("DELETE", _path("scenarios", name))

    async def similar(
        self, *item_ids: str, k: int = 10, deadline_ms: float | None = None, **fields: Any
    ) -> Recommendation:
        """Return the k items that go best with some items. Raises ClientError.

        deadline_ms: as recommend() takes it. fields: any others of POST /similar, such as user_id, filter or exclude.
        """
        ends = time.monotonic() + (self._deadline_ms if deadline_ms is None else deadline_ms) / 1000
        asked = {"k": k, **fields} | ({"item_ids": list(item_ids)} if item_ids else {})
        return Recommendation.of(await self._call("POST", "/similar", ends, asked, is_safe=True, give_budget=_to_all))

    async def send_events(self, events: Iterable[Event | Mapping[str, Any]]) -> EventsAnswer:
        """Store up to 1000 events, and wait until they are. Raises ClientError.

        They are sent again only if each has an event_id or a timestamp: else one could be stored twice.
        """
        listed = [_raw(event) for event in events]
        is_safe = all(event.get("event_id") is not None or event.get("timestamp") is not None for event in listed)
        ends = time.monotonic() + self._timeout_s
        return EventsAnswer.of(await self._call("POST", "/events", ends, {"events": listed}, is_safe=is_safe))

    def track(self, event: Event | Mapping[str, Any]) -> None:
        """Take an event to be sent in the background, from any thread. Raises QueueFullError.

        An event without a timestamp gets that of now. What becomes of it is told by flush(), close() or on_lost.
        """
        self._outbox.put(_raw(event))

    async def flush(self, timeout_s: float = 10.0) -> None:
        """Wait until all background events are stored. Raises EventsLostError, and DeadlineError if some still wait."""
        await self._outbox.flush(timeout_s)

    async def user(self, user_id: str) -> UserData:
        """Return what is kept of a user. Raises ClientError."""
        return UserData.of(await self._ask("GET", _path("users", user_id), is_safe=True))

    async def erase_user(self, user_id: str) -> ErasedUser:
        """Erase a user. Raises ClientError."""
        return ErasedUser.of(await self._ask("DELETE", _path("users", user_id)))

    async def item(self, item_id: str) -> Mapping[str, Any]:
        """Return what an item is now, as GET /items/{item_id} says it. Raises ClientError."""
        answer: Mapping[str, Any] = await self._ask("GET", _path("items", item_id), is_safe=True)
        return answer

    async def put_item(self, item_id: str, **fields: Any) -> Mapping[str, Any]:
        """Put an item, whole, and wait until it is stored. fields: of PUT /items/{item_id}. Raises ClientError."""
        answer: Mapping[str, Any] = await self._ask("PUT", _path("items", item_id), fields, is_safe=True)
        return answer

    async def patch_item(self, item_id: str, **fields: Any) -> Mapping[str, Any]:
        """Change some fields of an item, and wait until that is stored. Raises ClientError."""
        answer: Mapping[str, Any] = await self._ask("PATCH", _path("items", item_id), fields, is_safe=True)
        return answer

    async def withdraw_item(self, item_id: str) -> Mapping[str, Any]:
        """Withdraw an item until it is put again. Raises ClientError."""
        answer: Mapping[str, Any] = await self._ask("DELETE", _path("items", item_id))
        return answer

    async def put_items(self, items: Iterable[Mapping[str, Any]]) -> ItemsAnswer:
        """Put up to 1000 items, each with its item_id, and wait until they are stored. Raises ClientError."""
        return ItemsAnswer.of(await self._ask("POST", "/items", {"items": [*items]}, is_safe=True))

    async def search_items(self, text: str | None = None, **fields: Any) -> Sequence[Mapping[str, Any]]:
        """Return items by words of their titles. fields: any others of POST /items/search. Raises ClientError."""
        asked = fields if text is None else {"text": text, **fields}
        found: Sequence[Mapping[str, Any]] = (await self._ask("POST", "/items/search", asked, is_safe=True))["items"]
        return found

    async def model(self) -> Mapping[str, Any]:
        """Return what is being served, as GET /model says it. Raises ClientError."""
        answer: Mapping[str, Any] = await self._ask("GET", "/model", is_safe=True)
        return answer

    async def close(self, timeout_s: float = 10.0) -> None:
        """Send what waits, and close every connection. Raises EventsLostError for events that were not stored."""
        try:
            await self._outbox.close(timeout_s)
        finally:
            await self._http.aclose()

    async def _send_batch(self, events: Sequence[Mapping[str, Any]]) -> EventsAnswer:
        return await self.send_events(events)

    def _deadline(self, deadline_ms: float | None) -> float:
        return time.monotonic() + (self._deadline_ms if deadline_ms is None else deadline_ms) / 1000

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, *, is_safe: bool = False) -> Any:
        return await self._call(method, path, time.monotonic() + self._timeout_s, body, is_safe=is_safe)

    async def _call(
        self,
        method: str,
        path: str,
        ends: float,
        body: dict[str, Any] | None,
        *,
        is_safe: bool,
        give_budget: GiveBudget | None = None,
    ) -> Any:
        """Make a call, and make it again as long as that may help. ends: of time.monotonic().

        give_budget: puts what is left of the time into the body.
        """
        self.counts.calls += 1
        self._budget.earn()
        n_retries = 0
        while True:
            sent = give_budget(body, _budget_ms(ends)) if give_budget is not None and body is not None else body
            try:
                return await self._once(method, path, ends, sent)
            except ClientError as exc:
                wait_s = backoff_s(n_retries) if exc.retry_after_s is None else exc.retry_after_s
                may_help = is_safe and isinstance(exc, KINDS) and time.monotonic() + wait_s < ends
                if not may_help or not self._budget.spend():
                    raise
            n_retries += 1
            self.counts.retries += 1
            await asyncio.sleep(wait_s)

    async def _once(self, method: str, path: str, ends: float, body: Any) -> Any:
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        try:
            async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                response = await self._http.request(method, path, content=content)
        except TimeoutError:
            raise DeadlineError(f"{method} {path}: no answer before the deadline") from None
        except httpx.HTTPError as exc:
            raise UnreachableError(f"{method} {path}: {type(exc).__name__}: {exc}") from exc
        return _read(response)


def _path(folder: str, name: str) -> str:
    """Return the path of what has a name. Dots are encoded too where httpx would take them for a way up."""
    segment = quote(name, safe="")
    return f"/{folder}/{segment.replace('.', '%2E') if segment in ('.', '..') else segment}"


def _to_all(body: dict[str, Any], budget_ms: int) -> dict[str, Any]:
    return {"budget_ms": budget_ms, **body}


def _to_each(body: dict[str, Any], budget_ms: int) -> dict[str, Any]:
    return {**body, "requests": [{"budget_ms": budget_ms, **request} for request in body["requests"]]}


def _budget_ms(ends: float) -> int:
    """Return the budget that a deadline leaves to the service."""
    left_ms = (ends - time.monotonic()) * 1000
    return max(1, min(_LONGEST_BUDGET_MS, int(left_ms - min(_ROUTE_MS, left_ms / 5))))


def _raw(event: Event | Mapping[str, Any]) -> dict[str, Any]:
    return event.to_json() if isinstance(event, Event) else dict(event)


def _read(response: httpx.Response) -> Any:
    """Return the JSON of a response. Raises ClientError for an error, and for what is none of this service's."""
    status = response.status_code
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if status == 200 and isinstance(answer, dict):
        return answer
    retry_after_s = _seconds(response.headers.get("Retry-After"))
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict) or not {"code", "message"} <= error.keys():
        if status in (502, 504, *_PASSING):  # of a proxy before the service
            raise PassingError(f"status {status}", status=status, retry_after_s=retry_after_s)
        raise UnreadableError(f"status {status}, and not the JSON of this service", status=status)
    kind = PassingError if status in _PASSING else RefusedError
    raise kind(
        str(error["message"]),
        code=str(error["code"]),
        status=status,
        details=error.get("details") or (),
        retry_after_s=retry_after_s,
    )


def _seconds(text: str | None) -> float | None:
    """Return the seconds of a Retry-After, a little more so that not all come back at once; None for none."""
    if text is None or not text.strip().isdigit():
        return None
    return int(text) * random.uniform(1.0, 1.1)  # noqa: S311  # no secret
