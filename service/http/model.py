"""GET /model, its activation and rollback, the probes, and /metrics."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from service import __version__
from service.errors import RefusedError, RequestError, StoreError
from service.http.message import json_response, read_json, store_unavailable
from service.http.openapi import documented
from service.http.schema import ActivateRequest, LiveResponse, parse_activate
from service.metrics import CONTENT_TYPE, Metrics
from service.release.generation import Generations
from service.release.published import Live, PublishedVersions

_SMALL_BODY_BYTES = 1 << 10
_PAUSE = 4  # times what the last scrape took
_SHOWN = (
    "version", "format", "created_at", "dim", "max_history", "n_items", "repeat_consumption", "split", "refit",
    "quality",
)  # fmt: skip


def model_routes(generations: Generations, published: PublishedVersions, on_release: Callable[[], None]) -> APIRouter:
    """Return the routes of the served model. on_release: called once this process has made a version live."""
    router = APIRouter()

    @router.get("/model", **documented(None, None))
    async def model() -> Response:
        """What is being served."""
        live = generations.live
        own = {"index": live.catalogue.search.describe(), "service_version": __version__}
        return json_response({name: getattr(live.manifest, name) for name in _SHOWN} | own)

    @router.post("/model/activate", **documented(ActivateRequest, LiveResponse, 404, 413, 415, 422, 503))
    async def activate(request: Request) -> Response:
        """Make a published version live on every replica. Needs the admin key."""
        version = parse_activate(await read_json(request.scope, request.receive, _SMALL_BODY_BYTES))
        return await answer(published.activate(version))

    @router.post("/model/rollback", **documented(None, LiveResponse, 404, 503))
    async def rollback() -> Response:
        """Make the version before the live one live again. Needs the admin key."""
        return await answer(published.rollback())

    async def answer(release: Awaitable[Live]) -> Response:
        try:
            live = await release
        except RefusedError as exc:
            raise RequestError("not_found", str(exc)) from exc
        except StoreError as exc:
            raise store_unavailable() from exc
        on_release()
        names = {"live": live.version, "previous": live.previous, "number": live.number}
        return json_response({**names, "serving": generations.live.version})

    return router


class Scrape:
    """Renders the metrics for all who ask meanwhile at once, and never for more than a fifth of the time."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render
        self._next: asyncio.Task[bytes] | None = None
        self._may_begin_at = 0.0

    async def read(self) -> bytes:
        """Return the metrics as they are after this call began."""
        if self._next is None:
            self._next = asyncio.create_task(self._begin())
        return await asyncio.shield(self._next)

    async def _begin(self) -> bytes:
        await asyncio.sleep(self._may_begin_at - time.monotonic())
        self._next = None  # who asks from now on sees what is counted from now on
        began = time.monotonic()
        page = await asyncio.to_thread(self._render)
        self._may_begin_at = time.monotonic() + _PAUSE * (time.monotonic() - began)
        return page


def probe_routes(readiness: Callable[[], dict[str, Any]], metrics: Metrics) -> APIRouter:
    """Return the probes and /metrics. readiness: what /readyz says, of which `ready` decides the status."""
    router, scrape = APIRouter(), Scrape(metrics.render)

    @router.head("/livez", include_in_schema=False)
    @router.get("/livez", **documented(None, None))
    async def livez() -> Response:
        """Whether the process answers. Never looks at the store."""
        return json_response({"alive": True})

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", **documented(None, None, 503))
    async def readyz() -> Response:
        """Whether to send requests here. Ready without a store, and says what the store is doing."""
        state = readiness()
        return json_response(state, 200 if state["ready"] else 503)

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", include_in_schema=False)
    async def render() -> Response:
        return Response(await scrape.read(), media_type=CONTENT_TYPE)

    return router
