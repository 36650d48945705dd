"""GET /model, its activation and rollback, the probes, and /metrics."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service import __version__
from service.errors import RefusedError, RequestError, StoreError
from service.http.message import json_response, read_json, store_unavailable
from service.http.openapi import documented
from service.metrics import CONTENT_TYPE, Metrics
from service.release.generation import Generation, Generations
from service.release.published import PublishedVersions
from service.release.record import Live
from service.request.activate import ActivateRequest
from service.request.field import check_body

_SMALL_BODY_BYTES = 1 << 10
_PAUSE = 4  # times what the last scrape took
_SHOWN = (
    "version", "format", "created_at", "dim", "max_history", "n_items", "repeat_consumption", "split", "refit",
    "quality",
)  # fmt: skip


class IndexResponse(BaseModel):
    """How the catalogue is searched."""

    kind: Literal["exact", "approximate"]
    recall_at_100: float = Field(ge=0, le=1, description="share of the true best 100 that are found, as measured")
    depths: list[int] = Field(
        default_factory=list, max_length=2, description="approximate: candidates scored for 10 and for 100 items"
    )
    lists: float = Field(default_factory=float, ge=0, le=1, description="approximate: share of the lists that is read")


class ModelResponse(BaseModel):
    """The answer of GET /model: what the manifest of the version being served says, and how it is searched."""

    version: str = Field(max_length=64)
    format: int = Field(ge=1)
    created_at: str
    dim: int = Field(ge=1)
    max_history: int = Field(ge=1)
    n_items: int = Field(ge=1)
    repeat_consumption: bool = Field(description="whether items already had are recommended unless a request says no")
    split: dict[str, Any] = Field(description="how the data were split for judging it")
    refit: bool = Field(description="whether it was trained on everything in the end")
    quality: dict[str, Any] = Field(description="measured before it was exported")
    history_types: dict[str, float | Literal["hide", "undo"]] = Field(
        description="what events do by their type: their weight in histories (0: they only go to the stream), or that "
        "they hide the item, or undo an event; * stands for all that are not listed"
    )
    attributes: dict[str, Literal["text", "number", "boolean"]] = Field(
        description="the attributes of the items and their kinds, for filter, boost, max_per and fields"
    )
    index: IndexResponse
    budget_ms: int = Field(ge=1, le=1000, description="of a request that names none")
    service_version: str = Field(max_length=64)


class LiveResponse(BaseModel):
    """The live version after a flip; every replica follows within seconds. serving: what this one still serves."""

    live: str = Field(max_length=64)
    previous: str | None = Field(max_length=64)
    number: int = Field(ge=1)
    serving: str = Field(max_length=64)


class LiveRelease(BaseModel):
    """The version that the store says is to be served."""

    version: str = Field(max_length=64)
    number: int = Field(ge=1, description="of its release; it rises with each, of any version")
    previous: str | None = Field(max_length=64, description="the last version served before it")
    since: float = Field(ge=0, description="Unix seconds")


class VersionManifest(BaseModel):
    """What the manifest of a version says of it."""

    version: str = Field(max_length=64)
    format: int = Field(ge=1)
    created_at: str
    dim: int = Field(ge=1)
    max_history: int = Field(ge=1)
    n_items: int = Field(ge=1)
    repeat_consumption: bool
    split: dict[str, Any]
    refit: bool
    quality: dict[str, Any] = Field(description="measured before it was exported")
    lineage: dict[str, Any] = Field(description="the data, settings and versions it was made from")


class ListedVersion(BaseModel):
    """A version in the store."""

    version: str = Field(max_length=64)
    n_items: int = Field(ge=1)
    dim: int = Field(ge=1)
    bytes: int = Field(ge=0, description="of its files")
    published_at: float = Field(ge=0, description="Unix seconds")
    manifest: VersionManifest | None = Field(description="null where it is missing or damaged")


class ServingReplica(BaseModel):
    """What a process last said of itself."""

    name: str = Field(max_length=300)
    version: str = Field(max_length=64)
    number: int = Field(ge=1, description="of the release that it serves")
    result: str = Field(max_length=64, description="of its last attempt to follow: ok, or why the version was refused")
    message: str = Field(max_length=2000)
    at: float = Field(ge=0, description="Unix seconds")
    other: str = Field(max_length=64, description="the version that it has beside the live one; empty where none")
    experiment: str = Field(max_length=64, description="the id of the experiment that it knows of; empty where none")
    other_result: str = Field(max_length=64, description="of its last attempt to load that one's version")
    other_message: str = Field(max_length=2000)


class VersionsResponse(BaseModel):
    """The answer of GET /model/versions: the newest version first; live is null where none was ever published."""

    live: LiveRelease | None
    versions: list[ListedVersion]
    replicas: list[ServingReplica] = Field(description="those that have reported within half a minute")


class Sample(BaseModel):
    """What happened in ten seconds, over all workers. Durations and shares are null where nothing was answered."""

    at: float = Field(ge=0, description="its end, in Unix seconds")
    rate: float = Field(ge=0, description="answers of /recommend a second")
    p50_ms: float | None = Field(ge=0, description="of the duration of good answers of /recommend")
    p99_ms: float | None = Field(ge=0)
    within_budget: float | None = Field(ge=0, le=1, description="share of the answers of /recommend")
    levels: dict[Literal["full", "degraded", "fallback"], int] = Field(description="answers of /recommend by level")
    reasons: dict[str, int] = Field(description="answers of /recommend by their most important reason, if any")
    refused: int = Field(ge=0, description="requests of any route refused because of overload")
    events: int = Field(ge=0, description="events accepted")
    store: Literal["up", "probing", "down"]
    store_errors: int = Field(ge=0)
    in_flight: int = Field(ge=0)
    memory_bytes: int = Field(ge=0)


class HourResponse(BaseModel):
    """The answer of GET /metrics/hour."""

    every_s: float = Field(gt=0)
    samples: list[Sample] = Field(max_length=360, description="the oldest first")


class AliveResponse(BaseModel):
    """The answer of GET /livez."""

    alive: bool = Field(description="true; a process that is not alive does not answer")


class StoreResponse(BaseModel):
    """How the store is."""

    kind: Literal["embedded", "external"]
    is_up: bool
    breaker: Literal["closed", "probing", "open"]
    reason: str | None = Field(None, max_length=800, description="why it is not up, as far as that is known")


class ReadyResponse(BaseModel):
    """The answer of GET /readyz, with 200 where ready is true and with 503 where it is not."""

    ready: bool
    model_version: str = Field(max_length=64)
    store: StoreResponse


def model_routes(
    generations: Generations, published: PublishedVersions, on_release: Callable[[], None], budget_ms: int
) -> APIRouter:
    """Return the routes of the served model.

    on_release: called once this process has made a version live. budget_ms: of a request that names none.
    """
    router = APIRouter(tags=["model"])

    @router.get("/model", **documented(answer=ModelResponse))
    async def read_model() -> Response:
        """What is being served."""
        return json_response(_describe(generations.live) | {"budget_ms": budget_ms, "service_version": __version__})

    _add_versions(router, published)

    @router.post("/model/activate", **documented(404, body=ActivateRequest, answer=LiveResponse))
    async def activate_model(request: Request) -> Response:
        """Make a published version live on every replica. Needs the admin key."""
        body = await read_json(request.scope, request.receive, _SMALL_BODY_BYTES)
        version = check_body(ActivateRequest, body).version
        return await answer(published.activate(version))

    @router.post("/model/rollback", **documented(404, answer=LiveResponse))
    async def roll_back_model() -> Response:
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


def _describe(live: Generation) -> dict[str, Any]:
    """Return what a generation serves, as GET /model says it."""
    attributes = live.catalogue.attributes
    kinds = {"text": attributes.names, "number": attributes.numbers, "boolean": attributes.booleans}
    own = {
        "attributes": {name: kind for kind, names in kinds.items() for name in names},
        "history_types": live.history_types.to_json(),
        "index": live.catalogue.search.describe(),
    }
    return {name: getattr(live.manifest, name) for name in _SHOWN} | own


def _add_versions(router: APIRouter, published: PublishedVersions) -> None:
    """Add the route that lists what is published."""

    @router.get("/model/versions", **documented(answer=VersionsResponse))
    async def list_versions() -> Response:
        """The versions in the store, which of them is live, and what each process serves."""
        try:
            live, listed, replicas = await published.live(), await published.listed(), await published.replicas()
            versions = [asdict(each) | {"manifest": await describe(each.version)} for each in listed]
        except StoreError as exc:
            raise store_unavailable() from exc
        return json_response({"live": live, "versions": versions, "replicas": replicas})

    async def describe(version: str) -> dict[str, Any] | None:
        manifest = await published.manifest(version)
        return None if manifest is None else {name: getattr(manifest, name) for name in (*_SHOWN, "lineage")}


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


def probe_routes(
    readiness: Callable[[], dict[str, Any]], metrics: Metrics, hour: Callable[[], dict[str, Any]]
) -> APIRouter:
    """Return the probes and /metrics. readiness: what /readyz says, of which `ready` decides the status.

    hour: what /metrics/hour says.
    """
    router, scrape = APIRouter(tags=["operation"]), Scrape(metrics.render)

    @router.head("/livez", include_in_schema=False)
    @router.get("/livez", **documented(answer=AliveResponse))
    async def check_alive() -> Response:
        """Whether the process answers. Never looks at the store."""
        return json_response({"alive": True})

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", **documented(answer=ReadyResponse, unready=ReadyResponse))
    async def check_ready() -> Response:
        """Whether to send requests here. Ready without a store, and says what the store is doing."""
        state = readiness()
        return json_response(state, 200 if state["ready"] else 503)

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", **documented(answer=None))
    async def read_metrics() -> Response:
        """Every metric of all workers, in the Prometheus text format."""
        return Response(await scrape.read(), media_type=CONTENT_TYPE)

    @router.get("/metrics/hour", **documented(answer=HourResponse))
    async def read_hour() -> Response:
        """The last hour in samples of ten seconds, for where no Prometheus is."""
        return json_response(hour())

    return router
