"""GET and DELETE /users/{user_id}: what is kept of a user, and its erasure."""

from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Request, Response

from service.errors import StoreError
from service.http.message import STORE_TIMEOUT_S, json_response, store_unavailable
from service.http.openapi import documented
from service.http.schema import check_user_id
from service.release.generation import Generations
from service.user.history import History
from service.user.stream import EventStream

_ERASE_SCAN_S = 5.0


def user_routes(history: History, stream: EventStream, generations: Generations) -> APIRouter:
    """Return the routes of one user."""
    router = APIRouter()

    @router.get("/users/{user_id:path}", **documented(None, None, 422, 503))
    async def read_user(request: Request) -> Response:
        """What is kept of a user."""
        user_id = _user_of(request)
        try:
            kept = await history.describe(user_id, STORE_TIMEOUT_S)
        except StoreError as exc:
            raise store_unavailable() from exc
        return json_response({"user_id": user_id, **kept})

    @router.delete("/users/{user_id:path}", **documented(None, None, 422, 503))
    async def erase_user(request: Request) -> Response:
        """Erase a user: history, embedding, this worker's memory, and the user's events in the stream."""
        user_id = _user_of(request)
        try:
            await generations.forget(user_id)
            n_keys = await history.erase(user_id, STORE_TIMEOUT_S)
            await generations.forget(user_id)  # what an answer read before, and remembered while, it was erased
            n_events, is_complete = await stream.erase_user(user_id, STORE_TIMEOUT_S, within_s=_ERASE_SCAN_S)
        except StoreError as exc:
            raise store_unavailable() from exc
        erased = {"erased": n_events, "complete": is_complete}
        return json_response({"user_id": user_id, "keys_erased": n_keys, "event_stream": erased})

    return router


def _user_of(request: Request) -> str:
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return check_user_id(unquote_to_bytes(raw.partition(b"?")[0])[len("/users/") :])
