"""GET and DELETE /users/{user_id}: what is kept of a user, and its erasure."""

from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.convertors import Convertor, register_url_convertor

from service.errors import StoreError
from service.http.message import STORE_TIMEOUT_S, json_response, store_unavailable
from service.http.openapi import documented
from service.release.generation import Generations
from service.request.field import check_user_id
from service.user.alias import UserNames
from service.user.erasure import Erasures
from service.user.history import History
from service.user.stream import EventStream

_ERASE_SCAN_S = 5.0


class Erasing(Protocol):
    """Something that keeps more of users than their events."""

    async def erase_user(self, user_id: str, timeout_s: float) -> Any:
        """Drop what is kept of a user. Raises StoreError."""


class KeptEvent(BaseModel):
    """One event of a user."""

    item_id: str = Field(max_length=128)
    timestamp: float = Field(ge=0, description="Unix seconds")
    key: str = Field(max_length=128, description="the event's event_id, or its time in milliseconds")
    type: str | None = Field(max_length=64, description="as it was sent")


class KeptEmbedding(BaseModel):
    """That there is a cached embedding of a user."""

    model_version: str = Field(max_length=64, description="the version that made it")
    expires_in_s: int = Field(ge=0)


class UserResponse(BaseModel):
    """The answer of GET /users/{user_id}: what is kept; nothing, for a user never heard of."""

    user_id: str = Field(max_length=128)
    count: int = Field(ge=0, description="how many events history lists")
    history: list[KeptEvent] = Field(description="oldest first, without what was removed")
    hidden: list[KeptEvent] = Field(description="the events for which their items are not shown, oldest first")
    removed: list[KeptEvent] = Field(description="events that a later one has undone, oldest first")
    removals: list[KeptEvent] = Field(description="the events that undo others, oldest first")
    stream_only: int = Field(ge=0, description="events of the last day that only went to the stream")
    history_expires_in_s: int | None = Field(ge=0, description="unless an event comes")
    embedding: KeptEmbedding | None
    log_name: str | None = Field(max_length=128, description="what names the user in the log")


class ErasedEvents(BaseModel):
    """What was erased from the stream of accepted events."""

    erased: int = Field(ge=0)
    complete: bool = Field(description="whether nothing of the user is left in it; if not, ask again")


class ErasedMemory(BaseModel):
    """Whether a process may still answer from what it remembers of the user, should the store fail."""

    complete: bool = Field(description="whether none does; if not, ask again, or wait")
    gone_within_s: float = Field(ge=0, description="seconds until none does")


class EraseResponse(BaseModel):
    """The answer of DELETE /users/{user_id}."""

    user_id: str = Field(max_length=128)
    keys_erased: int = Field(ge=0, le=5, description="history, marks, notes, types and embedding")
    event_stream: ErasedEvents
    memory: ErasedMemory


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


def user_routes(
    history: History,
    stream: EventStream,
    others: Sequence[Erasing],
    erasures: Erasures,
    generations: Generations,
    names: UserNames,
) -> APIRouter:
    """Return the routes of one user. others: what else is to be erased, once the events are gone."""
    router = APIRouter(tags=["users"])

    @router.get("/users/{user_id:any}", **documented(422, answer=UserResponse))
    async def read_user(request: Request) -> Response:
        """What is kept of a user."""
        user_id = _user_of(request)
        try:
            kept = await history.describe(user_id, STORE_TIMEOUT_S)
        except StoreError as exc:
            raise store_unavailable() from exc
        return json_response({"user_id": user_id, **kept, "log_name": names.to_find(user_id)})

    @router.delete("/users/{user_id:any}", **documented(422, answer=EraseResponse))
    async def erase_user(request: Request) -> Response:
        """Erase a user: history, embedding, every worker's memory, events in the stream, and all else."""
        user_id = _user_of(request)
        try:
            await generations.forget(user_id)
            n_keys = await history.erase(user_id, STORE_TIMEOUT_S)
            await generations.forget(user_id)  # what an answer read before, and remembered while, it was erased
            announced = await erasures.announce(user_id, STORE_TIMEOUT_S)
            n_events, is_complete = await stream.erase_user(user_id, STORE_TIMEOUT_S, within_s=_ERASE_SCAN_S)
            for each in others:  # an experiment's users, once there are no events that could be counted again
                await each.erase_user(user_id, STORE_TIMEOUT_S)
            unheard = await erasures.wait_until_heard(announced, STORE_TIMEOUT_S)
        except StoreError as exc:
            raise store_unavailable() from exc
        erased = {"erased": n_events, "complete": is_complete}
        memory = {"complete": not unheard.gone_within_s, "gone_within_s": unheard.gone_within_s}
        return json_response({"user_id": user_id, "keys_erased": n_keys, "event_stream": erased, "memory": memory})

    return router


def _user_of(request: Request) -> str:
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return check_user_id(unquote_to_bytes(raw.partition(b"?")[0])[len("/users/") :])
