"""The page at /: the files of service/page/, read once and served from memory.

Its files lie below a path that holds the sum of them all, so that a browser keeps them for good, and never mixes those
of two versions. The page asks nobody but this service, and runs nothing but these files.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import APIRouter, Request, Response

FOLDER = Path(__file__).parents[1] / "page"
_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}
_START = "index.html"
_MARK = b"FOLDER"
_FOR_GOOD = "public, max-age=31536000, immutable"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    kind: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """The files of the page by their paths; none, where it is off."""

    files: dict[str, _File] = field(default_factory=dict)

    @property
    def paths(self) -> frozenset[str]:
        """Every path that is served: a browser that opens a page sends no key, so none of them needs one."""
        return frozenset(self.files)


def read_page(folder: Path = FOLDER) -> Page:
    """Read the page and its files."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.suffix in _KINDS}
    bodies = {name: path.read_bytes() for name, path in found.items()}
    start = (folder / _START).read_bytes()
    total = hashlib.sha256(start)
    for name, body in bodies.items():
        total.update(f"\n{name} {hashlib.sha256(body).hexdigest()}".encode())
    place = total.hexdigest()[:16]
    start = start.replace(_MARK, f"page/{place}".encode())
    files = {"/": _file(start, "text/html", "no-cache")}
    for name, body in bodies.items():
        files[f"/page/{place}/{name}"] = _file(body, _KINDS[found[name].suffix], _FOR_GOOD)
    return Page(files)


def page_routes(page: Page) -> APIRouter:
    """Return the routes of the page and its files."""
    router = APIRouter(include_in_schema=False)

    def serve(path: str, file: _File) -> None:
        async def send_file(request: Request) -> Response:
            if request.headers.get("if-none-match") == file.headers["ETag"]:
                return Response(status_code=304, headers=file.headers)
            return Response(file.body, media_type=file.kind, headers=file.headers)

        router.add_api_route(path, send_file, methods=["GET", "HEAD"])

    for path, file in page.files.items():
        serve(path, file)
    return router


def _file(body: bytes, kind: str, kept: str) -> _File:
    """Return a file with its headers: the policy is on each, because each can be opened alone."""
    headers = {"Cache-Control": kept, "Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
    return _File(body, kind, {**headers, "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"'})
