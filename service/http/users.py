"""GET and DELETE /users/{user_id}: what is kept of a user, and its erasure."""

from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.convertors import Convertor, register_url_convertor

from service.errors import StoreError
from service.http.message import STORE_TIMEOUT_S, json_response, store_unavailable
from service.http.openapi import documented
from service.http.schema import check_user_id
from service.release.generation import Generations
from service.user.history import History
from service.user.stream import EventStream

_ERASE_SCAN_S = 5.0


class KeptEvent(BaseModel):
    """One event of a user's history."""

    item_id: str = Field(max_length=128)
    timestamp: float = Field(ge=0, description="Unix seconds")
    key: str = Field(max_length=128, description="the event's event_id, or its time in milliseconds")


class KeptEmbedding(BaseModel):
    """That there is a cached embedding of a user."""

    model_version: str = Field(max_length=64, description="the version that made it")
    expires_in_s: int = Field(ge=0)


class UserResponse(BaseModel):
    """The answer of GET /users/{user_id}: what is kept; nothing, for a user never heard of."""

    user_id: str = Field(max_length=128)
    count: int = Field(ge=0, description="how many events history lists")
    history: list[KeptEvent] = Field(description="oldest first")
    history_expires_in_s: int | None = Field(ge=0, description="unless an event comes")
    embedding: KeptEmbedding | None


class ErasedEvents(BaseModel):
    """What was erased from the stream of accepted events."""

    erased: int = Field(ge=0)
    complete: bool = Field(description="whether the whole stream was looked at; if not, ask again")


class EraseResponse(BaseModel):
    """The answer of DELETE /users/{user_id}."""

    user_id: str = Field(max_length=128)
    keys_erased: int = Field(ge=0, le=2, description="history and embedding")
    event_stream: ErasedEvents


class AnyText(Convertor[str]):
    """What is left of a path, line ends too, which starlette's own convertor takes for no path at all."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """Return the text itself."""
        return value

    def to_string(self, value: str) -> str:
        """Return the text itself."""
        return value


register_url_convertor("any", AnyText())


def user_routes(history: History, stream: EventStream, generations: Generations) -> APIRouter:
    """Return the routes of one user."""
    router = APIRouter(tags=["users"])

    @router.get("/users/{user_id:any}", **documented(422, answer=UserResponse))
    async def read_user(request: Request) -> Response:
        """What is kept of a user."""
        user_id = _user_of(request)
        try:
            kept = await history.describe(user_id, STORE_TIMEOUT_S)
        except StoreError as exc:
            raise store_unavailable() from exc
        return json_response({"user_id": user_id, **kept})

    @router.delete("/users/{user_id:any}", **documented(422, answer=EraseResponse))
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
