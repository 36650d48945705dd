"""The routes. Bodies are read with a cap, checked straight from bytes, answered by orjson; errors by one table (gate).

POST /recommend is endpoint's, which the gate asks without passing here; it is listed for the OpenAPI document alone.
The handlers take the raw request, so the OpenAPI document gets its request bodies here, from the same models that check
them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from service import __version__
from service.errors import RefusedError, RequestError, StoreError
from service.http.body import read_json
from service.http.gate import Trace
from service.http.message import BUG, STATUS, error_body
from service.http.schema import (
    ActivateRequest,
    ErrorResponse,
    Event,
    EventsRequest,
    EventsResponse,
    LiveResponse,
    RecommendRequest,
    RecommendResponse,
    Rejected,
    check_events,
    check_user_id,
    parse_activate,
    parse_event_list,
)
from service.metrics import CONTENT_TYPE, Metrics
from service.release.generation import Editions
from service.release.published import Live, Releases
from service.user.event import StoredEvent
from service.user.history import Profile

EVENTS_BODY_BYTES = 2 << 20
MAX_FUTURE_S = 300
_SMALL_BODY_BYTES = 1 << 10
_STORE_S = 1.0
_ERASE_SCAN_S = 5.0
_SCAN_COUNT = 1000
_SLICE_EVENTS = 50
_TURN_S = 5.0  # that events wait for those before them
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


@dataclass(frozen=True)
class Parts:
    """What the routes need, built in app."""

    editions: Editions
    profile: Profile
    releases: Releases
    metrics: Metrics
    readiness: Callable[[], dict[str, Any]]
    on_flip: Callable[[], None]


def create_api(parts: Parts) -> FastAPI:
    """Build the application around its parts."""
    off = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
    api = FastAPI(
        title="Retort",
        version=__version__,
        description="Top-K recommendations from a distilled model, inside a latency budget.",
        redoc_url=None,
        telemetry=off,  # type: ignore[arg-type]
    )
    api.add_exception_handler(RequestError, _on_request_error)
    api.add_exception_handler(HTTPException, _on_http_error)
    api.add_exception_handler(Exception, _on_bug)
    api.include_router(_recommend_routes(parts))
    api.include_router(_user_routes(parts))
    api.include_router(_model_routes(parts))
    api.include_router(_later_routes())
    _describe_bodies(api)
    return api


def _recommend_routes(parts: Parts) -> APIRouter:
    router = APIRouter()
    turn = asyncio.Lock()  # one slice of one body at a time: a flood of events delays events, not answers

    @router.post("/recommend", **_documented(RecommendRequest, RecommendResponse, 413, 415, 422, 503))
    async def recommend() -> None:
        """The k best items for a user or a history, inside the budget."""
        raise RequestError("internal", "the gate answers this path")

    @router.post("/events", **_documented(EventsRequest, EventsResponse, 413, 415, 422, 503))
    async def events(request: Request) -> Response:
        """Store events; what is accepted is in the store, and visible to the user's next request."""
        listed = parse_event_list(await read_json(request.scope, request.receive, EVENTS_BODY_BYTES))
        added: list[bool] = []
        rejected: list[Rejected] = []
        trace: Trace = request.scope["retort"]
        async with _my_turn(turn):
            for first in range(0, len(listed), _SLICE_EVENTS):
                if trace.is_gone:
                    raise RequestError("caller_gone", "the caller hung up")
                good, invalid = check_events(listed[first : first + _SLICE_EVENTS], first)
                stored, late = _stamp(good, time.time())
                parts.metrics.events["invalid"].inc(len(invalid))
                parts.metrics.events["future"].inc(len(late))
                added += await _append(stored, parts)
                rejected += sorted([*invalid, *late], key=lambda refusal: refusal.index)
                await asyncio.sleep(0)
        body = {
            "accepted": sum(added),
            "duplicates": len(added) - sum(added),
            "rejected": [refusal.model_dump() for refusal in rejected],
        }
        request.scope["retort"].fields.update({**body, "rejected": len(rejected)})
        return _json(body)

    return router


def _user_routes(parts: Parts) -> APIRouter:
    router = APIRouter()

    @router.get("/users/{user_id:path}", **_documented(None, None, 422, 503))
    async def read_user(request: Request) -> Response:
        """What is kept of a user."""
        user_id = _user_of(request)
        try:
            kept = await parts.profile.describe(user_id, _STORE_S)
        except StoreError as exc:
            raise _unavailable() from exc
        return _json({"user_id": user_id, **kept})

    @router.delete("/users/{user_id:path}", **_documented(None, None, 422, 503))
    async def erase_user(request: Request) -> Response:
        """Erase a user: history, embedding, this worker's memory, and the user's events in the stream."""
        user_id = _user_of(request)
        try:
            await parts.editions.forget(user_id)
            n_keys = await parts.profile.erase(user_id, _STORE_S)
            await parts.editions.forget(user_id)  # what an answer read before, and remembered while, it was erased
            n_events, is_complete = await _erase_events(user_id, parts.profile)
        except StoreError as exc:
            raise _unavailable() from exc
        stream = {"erased": n_events, "complete": is_complete}
        return _json({"user_id": user_id, "keys_erased": n_keys, "event_stream": stream})

    return router


def _model_routes(parts: Parts) -> APIRouter:
    router = APIRouter()

    @router.get("/model", **_documented(None, None))
    async def model() -> Response:
        """What is being served."""
        m = parts.editions.live.manifest
        names = (
            "version", "format", "created_at", "dim", "max_history", "n_items", "repeat_consumption", "split", "refit",
            "quality",
        )  # fmt: skip
        own = {"index": parts.editions.live.index.search.describe(), "service_version": __version__}
        return _json({name: getattr(m, name) for name in names} | own)

    @router.post("/model/activate", **_documented(ActivateRequest, LiveResponse, 404, 413, 415, 422, 503))
    async def activate(request: Request) -> Response:
        """Make a published version live on every replica. Needs the admin key."""
        version = parse_activate(await read_json(request.scope, request.receive, _SMALL_BODY_BYTES))
        return await _flip(parts, parts.releases.activate(version))

    @router.post("/model/rollback", **_documented(None, LiveResponse, 404, 503))
    async def rollback() -> Response:
        """Make the version before the live one live again. Needs the admin key."""
        return await _flip(parts, parts.releases.rollback())

    @router.get("/livez", **_documented(None, None))
    async def livez() -> Response:
        """Whether the process answers. Never looks at the store."""
        return _json({"alive": True})

    @router.get("/readyz", **_documented(None, None, 503))
    async def readyz() -> Response:
        """Whether to send requests here. Ready without a store, and says what the store is doing."""
        state = parts.readiness()
        return _json(state, 200 if state["ready"] else 503)

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(await asyncio.to_thread(parts.metrics.render), media_type=CONTENT_TYPE)

    return router


def _later_routes() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    async def refuse(request: Request) -> Response:
        raise RequestError("not_built", f"{request.method} {request.url.path}: not built yet")

    for path in ("/recommend/batch", "/similar"):
        router.add_api_route(path, refuse, methods=["POST"], response_model=None)
    router.add_api_route("/items/{item_id:path}", refuse, methods=["GET", "PUT", "DELETE"], response_model=None)
    return router


async def _flip(parts: Parts, flip: Awaitable[Live]) -> Response:
    try:
        live = await flip
    except RefusedError as exc:
        raise RequestError("not_found", str(exc)) from exc
    except StoreError as exc:
        raise _unavailable() from exc
    parts.on_flip()
    serving = parts.editions.live.version
    return _json({"live": live.version, "previous": live.previous, "number": live.number, "serving": serving})


@asynccontextmanager
async def _my_turn(turn: asyncio.Lock) -> AsyncIterator[None]:
    """Wait for a turn, but not for ever. Raises RequestError."""
    try:
        async with asyncio.timeout(_TURN_S):
            await turn.acquire()
    except TimeoutError:
        raise _unavailable() from None
    try:
        yield
    finally:
        turn.release()


def _stamp(good: list[tuple[int, Event]], now: float) -> tuple[list[StoredEvent], list[Rejected]]:
    """Split events into those to store and those too far in the future; one without a time gets the arrival's."""
    stored: list[StoredEvent] = []
    late: list[Rejected] = []
    for index, event in good:
        seconds = now if event.timestamp is None else event.timestamp
        if seconds > now + MAX_FUTURE_S:
            late.append(Rejected(index=index, reason="future", message=f"more than {MAX_FUTURE_S} s in the future"))
            continue
        fields = event.model_dump(exclude={"timestamp"})
        stored.append(StoredEvent(timestamp_ms=round(seconds * 1000), **fields))
    return stored, late


async def _append(stored: list[StoredEvent], parts: Parts) -> list[bool]:
    if not stored:
        return []
    try:
        added = await parts.profile.append(stored, _STORE_S)
    except StoreError as exc:
        parts.metrics.events["unavailable"].inc(len(stored))
        raise _unavailable() from exc
    parts.metrics.events["accepted"].inc(sum(added))
    parts.metrics.events["duplicate"].inc(len(added) - sum(added))
    return added


async def _erase_events(user_id: str, profile: Profile) -> tuple[int, bool]:
    """Delete the user's entries of the stream, as far as the time allows: (how many, whether all was looked at)."""
    needle = orjson.dumps(user_id)
    end = time.monotonic() + _ERASE_SCAN_S
    last, n_erased = b"-", 0
    while time.monotonic() < end:
        entries = await profile.read_stream(last, _SCAN_COUNT, _STORE_S)
        mine = [key for key, event in entries if needle in event and orjson.loads(event)["user_id"] == user_id]
        if mine:
            n_erased += await profile.erase_from_stream(mine, _STORE_S)
        if len(entries) < _SCAN_COUNT:
            return n_erased, True
        last = entries[-1][0]
    return n_erased, False


def _unavailable() -> RequestError:
    return RequestError("store_unavailable", "the store did not confirm; try again", headers={"Retry-After": "1"})


def _user_of(request: Request) -> str:
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return check_user_id(unquote_to_bytes(raw.partition(b"?")[0])[len("/users/") :])


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")


async def _on_request_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestError)  # noqa: S101  # registered for this class alone
    return Response(error_body(exc), STATUS[exc.code], exc.headers, "application/json")


async def _on_http_error(request: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    message = {404: "no such resource", 405: "this resource does not take that method"}.get(status, "refused")
    headers = dict(exc.headers or {}) if isinstance(exc, HTTPException) else {}
    return Response(
        error_body(RequestError(_HTTP_CODES.get(status, "malformed"), message)), status, headers, "application/json"
    )


async def _on_bug(request: Request, exc: Exception) -> Response:
    return Response(error_body(BUG), 500, media_type="application/json")


def _documented(body: type[Any] | None, answer: type[Any] | None, *statuses: int) -> dict[str, Any]:
    """The keyword arguments that put a route's bodies and errors into the OpenAPI document."""
    responses: dict[int | str, Any] = {status: {"model": ErrorResponse} for status in (401, 403, *statuses)}
    if answer is not None:
        responses[200] = {"model": answer}
    extra: dict[str, Any] = {}
    if body is not None:
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"responses": responses, "response_model": None, "openapi_extra": extra}


def _describe_bodies(api: FastAPI) -> None:
    """Add the request models to the OpenAPI document, which knows only of the responses by itself."""
    plain = api.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (RecommendRequest, EventsRequest, ActivateRequest):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        _name_user_id(document)
        return document

    api.openapi = openapi  # type: ignore[method-assign]


def _name_user_id(document: dict[str, Any]) -> None:
    """The path parameter is read from the raw path, so FastAPI has not seen it."""
    parameter = {
        "name": "user_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
    }
    for path, operations in list(document["paths"].items()):
        if path.startswith("/users/"):
            for operation in operations.values():
                operation["parameters"] = [parameter]
            document["paths"]["/users/{user_id}"] = document["paths"].pop(path)
