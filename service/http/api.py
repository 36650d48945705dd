"""The FastAPI application: the routes, each from its own file, and the one place where errors become responses.

POST /recommend is answered by the gate without passing here; it is listed so that the OpenAPI document is whole.
"""

from collections.abc import Iterable

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from service import __version__
from service.errors import RequestError
from service.http.openapi import describe_bodies, documented
from service.http.schema import RecommendRequest, RecommendResponse
from service.wire.reply import BUG, STATUS, error_body

_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


def create_api(routers: Iterable[APIRouter]) -> FastAPI:
    """Build the application from its routers."""
    off = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
    api = FastAPI(
        title="Retort",
        version=__version__,
        description="Top-K recommendations from a distilled model, inside a latency budget.",
        redoc_url=None,
        redirect_slashes=False,
        telemetry=off,  # type: ignore[arg-type]
    )
    api.add_exception_handler(RequestError, _on_request_error)
    api.add_exception_handler(HTTPException, _on_http_error)
    api.add_exception_handler(Exception, _on_bug)
    for router in (_listed_routes(), *routers, _later_routes()):
        api.include_router(router)
    describe_bodies(api)
    return api


def _listed_routes() -> APIRouter:
    router = APIRouter()

    @router.post("/recommend", **documented(RecommendRequest, RecommendResponse, 413, 415, 422, 503))
    async def recommend() -> None:
        """The k best items for a user or a history, inside the budget."""
        raise RequestError("internal", "the gate answers this path")

    return router


def _later_routes() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    async def refuse(request: Request) -> Response:
        raise RequestError("not_built", f"{request.method} {request.url.path}: not built yet")

    for path in ("/recommend/batch", "/similar"):
        router.add_api_route(path, refuse, methods=["POST"], response_model=None)
    router.add_api_route("/items/{item_id:path}", refuse, methods=["GET", "PUT", "DELETE"], response_model=None)
    return router


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
