"""The OpenAPI document: what each route says of itself, and what the gate adds to all of them.

Handlers take raw requests, so FastAPI sees neither their bodies nor their answers: documented() tells it. Which paths
need a key comes from the table that the gate uses, so that the two cannot differ.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from service.access.key import OPEN_PATHS
from service.http.answer import RecommendResponse
from service.request.activate import ActivateRequest, CompareRequest
from service.request.event import EventsRequest
from service.request.field import LABEL, USER_ID
from service.request.item import ItemFields, ItemsRequest, ItemsSearchRequest
from service.request.many import MAX_REQUESTS, BatchRequest, PageRequest
from service.request.recommend import RecommendRequest
from service.request.scenario import Scenario
from service.request.similar import SimilarRequest

_OF_A_BODY = (408, 413, 415, 422)
_OF_THE_GATE = (401, 403, 429, 500, 503)
_MEANINGS = {
    401: "No key was sent.",
    403: "The key does not open this path.",
    404: "There is no such thing: item, scenario, version, or version before the live one.",
    408: "The body took too long to come.",
    409: "There are as many live items as there may be, or the version is not fit to serve.",
    413: "The body is too large.",
    415: "The body is not declared to be JSON.",
    422: "The request is malformed.",
    429: "The caller sent too many requests a second.",
    500: "A bug: see the service's log.",
    503: "Too much is asked at once, or the store did not confirm.",
}
_RETRY_AFTER = {"Retry-After": {"description": "seconds to wait", "required": True, "schema": {"type": "integer"}}}
_HEADERS = {
    401: {"WWW-Authenticate": {"description": "Bearer", "required": True, "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "One of RETORT_API_KEYS, or RETORT_ADMIN_KEY, which /model/activate, /model/rollback and "
        "/model/compare need. "
        "Writing items and scenarios needs it too, or a key of the scope items, or scenarios.",
    },
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same keys, bare."},
}
_USER_ID_PARAMETER = {
    "name": "user_id", "in": "path", "required": True, "description": "percent-encoded, slashes included",
    "schema": USER_ID.json_schema(),
}  # fmt: skip
_PARAMETERS = {
    "/users/": _USER_ID_PARAMETER, "/items/{": {**_USER_ID_PARAMETER, "name": "item_id"},
    "/scenarios/{": {**_USER_ID_PARAMETER, "name": "name", "schema": LABEL.json_schema()},
}  # fmt: skip


class FieldError(BaseModel):
    """A field of the body that is unknown or wrong."""

    field: str = Field(max_length=200)
    message: str


class ErrorBody(BaseModel):
    """What went wrong."""

    code: str = Field(max_length=64)
    message: str = Field(max_length=2000)
    details: list[FieldError] = Field(
        default_factory=list, max_length=20, description="of a malformed body; left out where there is nothing to say"
    )


class ErrorResponse(BaseModel):
    """The envelope of every error."""

    error: ErrorBody


_REQUESTS: tuple[type[BaseModel], ...] = (
    RecommendRequest, SimilarRequest, BatchRequest, PageRequest, Scenario, EventsRequest, ActivateRequest,
    CompareRequest, ItemFields, ItemsRequest, ItemsSearchRequest, ErrorResponse,
)  # fmt: skip


class BatchResponse(BaseModel):
    """The answer of POST /recommend/batch."""

    answers: list[RecommendResponse | ErrorResponse] = Field(
        max_length=MAX_REQUESTS, description="of each request, in their order"
    )


def documented(
    *errors: int,
    body: type[BaseModel] | None = None,
    answer: type[BaseModel] | None,
    unready: type[BaseModel] | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments that put a route into the document.

    errors: the statuses of its own errors, beside those of every body and of the gate. answer: the model of a JSON
    answer; None is plain text. unready: the model of an answer with 503.
    """
    responses: dict[int | str, Any] = {200: {"description": "Done."} | ({"model": answer} if answer else {})}
    responses |= {status: _error(status) for status in (*errors, *(_OF_A_BODY if body else ()))}
    if unready is not None:
        responses[503] = {"model": unready, "description": "Not ready."}
    extra: dict[str, Any] = {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": _json(body)}
    return {
        "responses": responses, "response_model": None, "openapi_extra": extra,
        "response_class": JSONResponse if answer else PlainTextResponse,
    }  # fmt: skip


def name_operation(route: APIRoute) -> str:
    """Return the operationId of a route: the name of its function, by which generated clients call it."""
    return route.name


def describe(api: FastAPI, *, is_keyed: bool) -> None:
    """Complete the document with what FastAPI has not seen. is_keyed: whether a key must be sent, or may be."""
    plain = api.openapi
    security: list[dict[str, list[str]]] = [{name: []} for name in _SCHEMES]

    @cache
    def openapi() -> dict[str, Any]:
        document = plain()
        components = document.setdefault("components", {})
        schemas = components.get("schemas", {}) | _request_schemas()
        components["schemas"] = {name: _with_types(schema) for name, schema in sorted(schemas.items())}
        components["securitySchemes"] = _SCHEMES
        for path, operation in _operations(document):
            for prefix, parameter in _PARAMETERS.items():
                if path.startswith(prefix):
                    operation["parameters"] = [parameter]
            if path not in OPEN_PATHS:
                gate = {str(status): _error(status) for status in _OF_THE_GATE}
                operation["responses"] = dict(sorted((gate | operation["responses"]).items()))
            operation["security"] = [] if path in OPEN_PATHS else security if is_keyed else [{}, *security]
        return document

    api.openapi = openapi  # type: ignore[method-assign]


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            yield path, operation


def _request_schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    for model in _REQUESTS:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
    return schemas


def _with_types(schema: Any) -> Any:
    """Return the schema with `anyOf: [X, null]` written as X with a list of types.

    Both say the same; but openapi-generator takes all fields of the first form that are alike in X for one field.
    """
    if isinstance(schema, list):
        return [_with_types(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: _with_types(part) for name, part in schema.items()}
    match schema.get("anyOf"):
        case [{"type": str(kind)} as some, {"type": "null"}]:
            del schema["anyOf"]
            return some | schema | {"type": [kind, "null"]}
    return schema


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}


def _error(status: int) -> dict[str, Any]:
    headers = {"headers": _HEADERS[status]} if status in _HEADERS else {}
    return {"description": _MEANINGS[status], "content": _json(ErrorResponse), **headers}
