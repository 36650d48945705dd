"""The routes of scenarios: named defaults for requests that ask for a list."""

from typing import Any, Literal
from urllib.parse import unquote_to_bytes

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.errors import RequestError, StoreError
from service.http.defaults import not_there
from service.http.message import STORE_TIMEOUT_S, json_response, read_json, store_unavailable
from service.http.openapi import documented
from service.http.query import check_fit
from service.release.generation import Generations
from service.request.field import check_name
from service.request.scenario import Scenario, parse_scenario
from service.scenario.book import ScenarioBook
from service.scenario.shelf import MOST_SCENARIOS

SCENARIO_BODY_BYTES = 64 << 10


class NamedScenario(BaseModel):
    """A scenario, and where it comes from."""

    name: str = Field(max_length=64)
    source: Literal["file", "store"] = Field(description="RETORT_SCENARIOS, or what was put")


class ScenarioResponse(NamedScenario):
    """A scenario with its fields."""

    scenario: Scenario


class ScenariosResponse(BaseModel):
    """The answer of GET /scenarios, in the order of names."""

    scenarios: list[NamedScenario] = Field(max_length=2 * MOST_SCENARIOS)


class DeletedScenario(BaseModel):
    """The answer of DELETE /scenarios/{name}."""

    name: str = Field(max_length=64)
    falls_back: bool = Field(description="whether the scenario of RETORT_SCENARIOS holds from now on")


def scenario_routes(book: ScenarioBook, generations: Generations) -> APIRouter:
    """Return the routes of scenarios."""
    router = APIRouter(tags=["scenarios"])

    @router.get("/scenarios", **documented(answer=ScenariosResponse))
    async def list_scenarios() -> Response:
        """The names of all scenarios."""
        return json_response({"scenarios": [{"name": each, "source": book.source(each)} for each in book.names()]})

    @router.get("/scenarios/{name:any}", **documented(404, 422, answer=ScenarioResponse))
    async def read_scenario(request: Request) -> Response:
        """The fields of a scenario."""
        return json_response(_describe(book, _name_of(request)))

    @router.put("/scenarios/{name:any}", **documented(body=Scenario, answer=ScenarioResponse))
    async def put_scenario(request: Request) -> Response:
        """Put a scenario, whole. Needs the admin key, or a key of the scope scenarios."""
        name = _name_of(request)
        scenario = parse_scenario(await read_json(request.scope, request.receive, SCENARIO_BODY_BYTES))
        check_fit(scenario, generations.live.catalogue)
        try:
            await book.put(name, scenario.dump(), STORE_TIMEOUT_S)
        except StoreError as exc:
            raise store_unavailable() from exc
        return json_response(_describe(book, name))

    @router.delete("/scenarios/{name:any}", **documented(404, 422, answer=DeletedScenario))
    async def delete_scenario(request: Request) -> Response:
        """Delete a scenario that was put. Needs the admin key, or a key of the scope scenarios."""
        name = _name_of(request)
        try:
            is_deleted = await book.delete(name, STORE_TIMEOUT_S)
        except StoreError as exc:
            raise store_unavailable() from exc
        falls_back = book.body(name) is not None
        if not is_deleted:
            more = "; the one of RETORT_SCENARIOS cannot be deleted here" if falls_back else ""
            raise RequestError("not_found", f"no scenario {name!r} was put{more}")
        return json_response({"name": name, "falls_back": falls_back})

    return router


def _describe(book: ScenarioBook, name: str) -> dict[str, Any]:
    body = book.body(name)
    if body is None:
        raise RequestError("not_found", not_there(name, book.names()))
    return {"name": name, "source": book.source(name), "scenario": orjson.Fragment(body)}


def _name_of(request: Request) -> str:
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return check_name(unquote_to_bytes(raw.partition(b"?")[0])[len("/scenarios/") :])
