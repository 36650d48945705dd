"""The OpenAPI document, completed: handlers take raw requests, so FastAPI has not seen their bodies and paths."""

from typing import Any

from fastapi import FastAPI

from service.http.schema import ActivateRequest, ErrorResponse, EventsRequest, RecommendRequest


def documented(body: type[Any] | None, answer: type[Any] | None, *statuses: int) -> dict[str, Any]:
    """The keyword arguments that put a route's bodies and errors into the OpenAPI document."""
    responses: dict[int | str, Any] = {status: {"model": ErrorResponse} for status in (401, 403, *statuses)}
    if answer is not None:
        responses[200] = {"model": answer}
    extra: dict[str, Any] = {}
    if body is not None:
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"responses": responses, "response_model": None, "openapi_extra": extra}


def describe_bodies(api: FastAPI) -> None:
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
