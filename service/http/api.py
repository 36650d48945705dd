"""The FastAPI application: the routes, each from its own file, and the one place where errors become responses.

POST /recommend, /recommend/batch, /similar and /page are answered by the gate without passing here; they are listed so
that the OpenAPI document is whole. /docs is made of nothing but what is served here: it works without internet, and no
key leaves for elsewhere.
"""

from collections.abc import Awaitable, Callable, Iterable
from importlib.metadata import distribution

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route

from service import __version__
from service.errors import RequestError
from service.http.answer import PageResponse, RecommendResponse
from service.http.openapi import BatchResponse, describe, documented, name_operation
from service.request.many import BatchRequest, PageRequest
from service.request.recommend import RecommendRequest
from service.request.similar import SimilarRequest
from service.wire.reply import BUG, STATUS, error_body

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Retort</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  dom_id: "#page",
  url: "openapi.json",
  deepLinking: true,
  validatorUrl: null,  // else it asks a server of Swagger's whether the document is valid
});
"""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SWAGGER_FILES = {
    "swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon-32x32.png": "image/png",
}  # fmt: skip
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


def create_api(routers: Iterable[APIRouter], *, is_keyed: bool) -> FastAPI:
    """Build the application from its routers. is_keyed: whether callers need a key."""
    off = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
    api = FastAPI(
        title="Retort",
        version=__version__,
        description="Top-K recommendations from a distilled model, inside a latency budget.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=name_operation,
        telemetry=off,  # type: ignore[arg-type]
    )
    api.add_exception_handler(RequestError, _on_request_error)
    api.add_exception_handler(Exception, _on_bug)
    all_routers = [_listed_routes(), *routers, _page_routes()]
    for router in all_routers:
        api.include_router(router)
    api.add_exception_handler(HTTPException, _on_http_error(all_routers))
    describe(api, is_keyed=is_keyed)
    return api


def _listed_routes() -> APIRouter:
    router = APIRouter(tags=["recommendations"])

    @router.post("/recommend", **documented(body=RecommendRequest, answer=RecommendResponse))
    async def recommend() -> None:
        """The k best items for a user or a history, inside the budget."""
        raise RequestError("internal", "the gate answers this path")

    @router.post("/similar", **documented(body=SimilarRequest, answer=RecommendResponse))
    async def similar() -> None:
        """The k items that go best with others: by what users do next, and by how alike they are."""
        raise RequestError("internal", "the gate answers this path")

    @router.post("/recommend/batch", **documented(body=BatchRequest, answer=BatchResponse))
    async def recommend_batch() -> None:
        """Up to 100 lists, each with its own answer or error, in the order of the requests."""
        raise RequestError("internal", "the gate answers this path")

    @router.post("/page", **documented(body=PageRequest, answer=PageResponse))
    async def page() -> None:
        """Several lists for one user under one budget, no item twice."""
        raise RequestError("internal", "the gate answers this path")

    return router


def _page_routes() -> APIRouter:
    """Return the page that shows the document, and all that it is made of: a browser asks nobody else for anything.

    fastapi-swagger carries the files of Swagger UI's own release; nothing of its code is used.
    """
    router = APIRouter(include_in_schema=False)
    folder = distribution("fastapi-swagger").locate_file("fastapi_swagger/resources")

    @router.get("/docs")
    async def show_page() -> Response:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})

    @router.get("/docs/start.js")
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    def serve(name: str, kind: str) -> None:
        async def send_file() -> Response:
            return FileResponse(str(folder / name), media_type=kind)

        router.add_api_route(f"/docs/{name}", send_file)

    for name, kind in _SWAGGER_FILES.items():
        serve(name, kind)
    return router


async def _on_request_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestError)  # noqa: S101  # registered for this class alone
    return Response(error_body(exc), STATUS[exc.code], exc.headers, "application/json")


def _on_http_error(routers: Iterable[APIRouter]) -> Callable[[Request, Exception], Awaitable[Response]]:
    routes = [route for router in routers for route in router.routes if isinstance(route, Route)]

    async def answer(request: Request, exc: Exception) -> Response:
        status = exc.status_code if isinstance(exc, HTTPException) else 500
        message = {404: "no such resource; /docs lists all that there are"}.get(status, "refused")
        headers = dict(exc.headers or {}) if isinstance(exc, HTTPException) else {}
        if status == 405:  # starlette names the methods of the first route of the path alone
            found = [route for route in routes if route.path_regex.match(request.scope["path"])]
            methods = {method for route in found if route.path == found[0].path for method in route.methods or ()}
            headers["Allow"] = ", ".join(sorted(methods))  # of this path of the document; /items/search is its own
            message = f"this resource takes {headers['Allow']}, and not that method"
        code = _HTTP_CODES.get(status, "malformed")
        return Response(error_body(RequestError(code, message)), status, headers, "application/json")

    return answer


async def _on_bug(request: Request, exc: Exception) -> Response:
    return Response(error_body(BUG), 500, media_type="application/json")
