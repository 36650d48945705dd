"""POST /model/compare: what making another version live would change, on sampled users."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.errors import RefusedError, RequestError, StoreError
from service.http.message import STORE_TIMEOUT_S, json_response, read_json, store_unavailable
from service.http.openapi import documented
from service.release.comparison import Comparing, GoldenPast, Sample
from service.release.generation import Generations
from service.release.published import PublishedVersions
from service.request.activate import CompareRequest
from service.request.field import check_body
from service.user.history import History
from service.user.sample import UserSample

_SMALL_BODY_BYTES = 1 << 10


class NamedItem(BaseModel):
    """An item with its title."""

    item_id: str = Field(max_length=128)
    title: str | None


class CountedItem(NamedItem):
    """An item, and in how many users' lists it changes."""

    users: int = Field(ge=1)


class Example(BaseModel):
    """What one user would see: the newest items of the history, and both lists."""

    history: list[NamedItem] = Field(max_length=5, description="the oldest first")
    live: list[NamedItem] = Field(max_length=100)
    version: list[NamedItem] = Field(max_length=100)


class BothCounts(BaseModel):
    """A count for each of the two versions."""

    live: int = Field(ge=0)
    version: int = Field(ge=0)


class CompareResponse(BaseModel):
    """The answer of POST /model/compare. Shares and means are null where there was nobody to ask about."""

    live: str = Field(max_length=64, description="the version that serves")
    version: str = Field(max_length=64, description="the other one")
    k: int = Field(ge=1, le=100)
    users: int = Field(ge=0, le=100, description="how many were asked about")
    source: Literal["store", "golden"] = Field(
        description="whose histories: of users in the store; if there is none, of the live bundle's golden answers"
    )
    overlap: float | None = Field(ge=0, le=1, description="share of a list that both have, on average")
    first_changes: float | None = Field(ge=0, le=1, description="share of users whose first item is another one")
    same: float | None = Field(ge=0, le=1, description="share of users whose list is the same to the last place")
    coverage: BothCounts = Field(description="different items in all lists together")
    popular: BothCounts = Field(description="users who get popular items, because the version knows nothing of them")
    coming: list[CountedItem] = Field(max_length=10, description="items that come into most lists")
    going: list[CountedItem] = Field(max_length=10, description="items that leave most lists")
    examples: list[Example] = Field(max_length=5, description="users whose lists change most")
    took_s: float = Field(ge=0)


def comparison_routes(
    comparing: Comparing, published: PublishedVersions, users: UserSample, history: History, generations: Generations
) -> APIRouter:
    """Return the route of the comparison."""
    router = APIRouter(tags=["model"])

    @router.post("/model/compare", **documented(404, 409, body=CompareRequest, answer=CompareResponse))
    async def compare_model(request: Request) -> Response:
        """What making a published version live would change, on sampled users. Needs the admin key."""
        body = await read_json(request.scope, request.receive, _SMALL_BODY_BYTES)
        asked = check_body(CompareRequest, body)
        try:
            if await published.manifest(asked.version) is None:
                text = f"version {asked.version} is not in the store; GET /model/versions lists what is"
                raise RequestError("not_found", text)
            return json_response(await comparing.compare(asked.version, asked.k, lambda: draw(asked.users)))
        except RefusedError as exc:
            raise RequestError("version_refused", str(exc)) from exc
        except StoreError as exc:
            raise store_unavailable() from exc

    async def draw(n: int) -> Sample:
        """Return users with a history; where the store has none, the golden histories."""
        drawn = await users.draw(n, STORE_TIMEOUT_S)
        found = await history.read(drawn, STORE_TIMEOUT_S) if drawn else []
        pasts = [past for past in found if not isinstance(past, StoreError) and past.item_ids]
        if pasts:
            return Sample("store", pasts)
        return Sample(
            "golden", [GoldenPast(list(item_ids)) for item_ids in generations.live.golden_histories[:n] if item_ids]
        )

    return router
