"""POST /events: check, stamp and store a list of events, and say what became of each."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.errors import RequestError, StoreError
from service.http.message import STORE_TIMEOUT_S, json_response, read_json, store_unavailable
from service.http.openapi import documented
from service.metrics import Metrics
from service.request.event import MAX_EVENTS, Event, EventsRequest, Rejected, check_events, parse_event_list
from service.user.event import EffectOf, StoredEvent, source_of
from service.user.history import History
from service.user.writer import Kept
from service.wire.trace import Trace

EVENTS_BODY_BYTES = 2 << 20
MAX_FUTURE_S = 300
EVENTS_PER_REQUEST = 10
"""Events that weigh as much as one request where a caller's rate is limited."""
Charge = Callable[[bytes, float], None]
MAX_POSITION = 1000
"""The last place that an answer can have shown an item at, over all pages."""
_RECOMMENDATION_ID = re.compile(r"[0-9a-f]{32}")
_SLICE_EVENTS = 50
_TURN_S = 5.0
"""How long a body waits for those that came before it."""


class EventsResponse(BaseModel):
    """The answer of POST /events: what is accepted is stored."""

    accepted: int = Field(ge=0, le=MAX_EVENTS)
    duplicates: int = Field(ge=0, le=MAX_EVENTS)
    rejected: list[Rejected] = Field(max_length=MAX_EVENTS)


def event_routes(
    history: History, metrics: Metrics, charge: Charge, effect_of: EffectOf, *, is_keyed: bool
) -> APIRouter:
    """Return the route that stores events. charge: counts a list as so many requests more of its caller's rate.

    effect_of: says what events do at present. is_keyed: callers are keys, and the trend tells them apart.
    """
    router = APIRouter(tags=["events"])
    writer = EventWriter(history, metrics, effect_of, is_keyed=is_keyed)

    @router.post("/events", **documented(body=EventsRequest, answer=EventsResponse))
    async def send_events(request: Request) -> Response:
        """Store events; what is accepted is in the store, and visible to the user's next request."""
        listed = parse_event_list(await read_json(request.scope, request.receive, EVENTS_BODY_BYTES))
        trace: Trace = request.scope["retort"]
        charge(trace.caller, len(listed) / EVENTS_PER_REQUEST - 1)
        kept, rejected = await writer.write(listed, trace)
        counts = {"accepted": kept.count(Kept.NEW), "duplicates": kept.count(Kept.KNOWN)}
        trace.fields.update(counts, rejected=len(rejected))
        return json_response({**counts, "rejected": [refusal.model_dump() for refusal in rejected]})

    return router


class EventWriter:
    """Writes lists of events in slices, one slice of one list at a time: a flood delays events, not answers."""

    def __init__(self, history: History, metrics: Metrics, effect_of: EffectOf, *, is_keyed: bool) -> None:
        self._history, self._metrics, self._effect_of, self._is_keyed = history, metrics, effect_of, is_keyed
        self._turn = asyncio.Lock()

    async def write(self, listed: list[object], trace: Trace) -> tuple[list[Kept], list[Rejected]]:
        """Return what became of each event that was fit to be stored, and what was rejected. Raises RequestError."""
        kept: list[Kept] = []
        rejected: list[Rejected] = []
        source = source_of(trace.caller) if self._is_keyed else None
        async with self._my_turn():
            for first in range(0, len(listed), _SLICE_EVENTS):
                if trace.is_gone:
                    raise RequestError("caller_gone", "the caller hung up")
                good, invalid = check_events(listed[first : first + _SLICE_EVENTS], first)
                stored, late = _stamp(good, time.time(), source, self._effect_of)
                self._metrics.events["invalid"].inc(len(invalid))
                self._metrics.events["future"].inc(len(late))
                start = time.monotonic()
                found = await self._append([event for _, event in stored])
                if trace.span is not None:
                    trace.span.add("write", start, time.monotonic(), batch=len(stored))
                kept += found
                old = [_too_old(index) for (index, _), each in zip(stored, found, strict=True) if each is Kept.TOO_OLD]
                rejected += sorted([*invalid, *late, *old], key=lambda refusal: refusal.index)
                await asyncio.sleep(0)
        return kept, rejected

    @asynccontextmanager
    async def _my_turn(self) -> AsyncIterator[None]:
        """Wait for a turn, but not for ever. Raises RequestError."""
        try:
            async with asyncio.timeout(_TURN_S):
                await self._turn.acquire()
        except TimeoutError:
            raise store_unavailable() from None
        try:
            yield
        finally:
            self._turn.release()

    async def _append(self, stored: list[StoredEvent]) -> list[Kept]:
        if not stored:
            return []
        try:
            kept = await self._history.append(stored, STORE_TIMEOUT_S)
        except StoreError as exc:
            self._metrics.events["unavailable"].inc(len(stored))
            raise store_unavailable() from exc
        self._count(each for each, result in zip(stored, kept, strict=True) if result is Kept.NEW)
        for result, each in (("accepted", Kept.NEW), ("duplicate", Kept.KNOWN), ("too_old", Kept.TOO_OLD)):
            self._metrics.events[result].inc(kept.count(each))
        return kept

    def _count(self, new: Iterable[StoredEvent]) -> None:
        """Count what new events do, and how they are attributed."""
        for event in new:
            self._metrics.event_effects[event.effect].inc()
            if (attribution := judge_attribution(event)) is not None:
                self._metrics.event_attributions[attribution].inc()


def judge_attribution(event: StoredEvent) -> str | None:
    """Return a label of event_attributions_total; None where an event names no answer and no position."""
    if event.recommendation_id is None:
        return None if event.position is None else "no_recommendation"
    if not _RECOMMENDATION_ID.fullmatch(event.recommendation_id):
        return "unknown_form"
    if event.position is None:
        return "no_position"
    return "whole" if 1 <= event.position <= MAX_POSITION else "position_out_of_range"


def _too_old(index: int) -> Rejected:
    message = "older than all that is kept of this user; whether it was there before is not known any more"
    return Rejected(index=index, reason="too_old", message=message)


def _stamp(
    good: list[tuple[int, Event]], now: float, source: str | None, effect_of: EffectOf
) -> tuple[list[tuple[int, StoredEvent]], list[Rejected]]:
    """Split events into those to store and those too far in the future; one without a time gets the arrival's.

    Each has its index in the request.
    """
    stored: list[tuple[int, StoredEvent]] = []
    late: list[Rejected] = []
    for index, event in good:
        seconds = now if event.timestamp is None else event.timestamp
        if seconds > now + MAX_FUTURE_S:
            late.append(Rejected(index=index, reason="future", message=f"more than {MAX_FUTURE_S} s in the future"))
            continue
        fields = event.model_dump(exclude={"timestamp"})
        at_ms, effect = round(seconds * 1000), effect_of(event.type)
        made = StoredEvent(timestamp_ms=at_ms, source=source, effect=effect, **fields)
        stored.append((index, made))
    return stored, late
