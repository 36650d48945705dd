"""The routes of items: what an item is, its change, and the search of titles.

Whoever writes is answered once the store has confirmed, and once this process shows it. Every other process asks the
store for changes five times a second.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.catalogue.attributes import MOST_NEW
from service.catalogue.column import Mask
from service.catalogue.filter import nearest, parse
from service.catalogue.live_item import MOST_RECORD_BYTES, NAMED, LiveItem, without_nulls
from service.errors import FieldError, RequestError, StoreError
from service.http.message import STORE_TIMEOUT_S, json_response, read_json, store_unavailable
from service.http.openapi import documented
from service.item.feed import ItemFeed
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.release.generation import Generations
from service.request.field import check_body, check_item_id
from service.request.item import (
    MAX_ITEMS,
    ItemFields,
    ItemsRequest,
    ItemsSearchRequest,
    RejectedItem,
    brought_names,
    check_listed,
    parse_item_list,
)
from service.wire.trace import Trace

ITEM_BODY_BYTES, ITEMS_BODY_BYTES = 256 << 10, 4 << 20
_ITEM = "/items/{item_id:any}"
_SLICE = 100
_MOST_TRIES = 5
_KINDS = {"attributes": "text", "numbers": "number", "booleans": "boolean"}


class ItemResponse(BaseModel):
    """An item as it is now."""

    item_id: str = Field(max_length=128)
    state: Literal["bundle", "live"] = Field(description="as the bundle has it, or put or changed since")
    title: str | None
    description: str | None = Field(description="of a live item")
    attributes: dict[str, list[str]]
    numbers: dict[str, float]
    booleans: dict[str, bool]
    expires_at: float | None = Field(description="Unix seconds from which it is not shown")


class ItemState(BaseModel):
    """What became of an item that was put, changed or withdrawn."""

    state: Literal["live", "withdrawn"]
    origin: list[Literal["bundle", "vectors", "like", "text", "attributes", "nothing"]] = Field(
        alias="from", description="what its vector is made of, the weightiest first"
    )
    visible_ms: float = Field(ge=0, description="from the arrival of the request until this process showed it")
    ignored_ids: list[str] = Field(max_length=100, description="ids in like that are not known")


class ItemsResponse(BaseModel):
    """The answer of POST /items: what is accepted is stored."""

    accepted: int = Field(ge=0, le=MAX_ITEMS)
    rejected: list[RejectedItem] = Field(max_length=MAX_ITEMS)
    ignored_ids: list[str] = Field(max_length=MAX_ITEMS, description="ids in like that are not known, the first of all")
    visible_ms: float = Field(ge=0, description="from the arrival of the request until this process showed them")


class ItemsSearchResponse(BaseModel):
    """The answer of POST /items/search, the most popular items first."""

    items: list[ItemResponse] = Field(max_length=200)


class ItemWriter:
    """Writes live items, and waits until this process shows them."""

    def __init__(self, feed: ItemFeed, generations: Generations, metrics: Metrics, most_items: int) -> None:
        """most_items: how many records there may be."""
        self._feed, self._generations, self._metrics, self._most_items = feed, generations, metrics, most_items

    @property
    def _catalogue(self) -> Catalogue:
        return self._generations.live.catalogue

    async def put_listed(self, listed: list[Any]) -> tuple[int, list[RejectedItem], list[str]]:
        """Write those of a list of unchecked items that are fit; return how many, the others, and unknown ids of like.

        Raises RequestError.
        """
        good, rejected = check_listed(listed)
        await self.make_room(len(good))
        accepted: dict[str, Mapping[str, Any]] = {}
        known, names = self._catalogue.attributes, dict[str, str]()
        for index, item in good:
            fields = item.said()
            try:
                self.check(item.item_id, fields, n_more=len(accepted), names=names)
            except RequestError as exc:
                reason: Literal["full", "invalid"] = "full" if exc.code == "too_many_items" else "invalid"
                rejected.append(RejectedItem(index=index, reason=reason, message=exc.message[:1000]))
            else:
                accepted[item.item_id] = fields
                names |= {name: field for name, field in brought_names(fields).items() if name not in known}
        await self.put(accepted)
        alike = [each for fields in accepted.values() for each in fields.get("like") or ()]
        _, unknown = self._catalogue.find_rows(alike)
        rejected.sort(key=lambda refusal: refusal.index)
        return len(listed) - len(rejected), rejected, unknown[:MAX_ITEMS]

    async def put(self, items: Mapping[str, Mapping[str, Any]]) -> None:
        """Write whole items, by id. Raises RequestError."""
        records = {item_id: self._record("put", without_nulls(fields)) for item_id, fields in items.items()}
        await self._write(records)

    async def patch(self, item_id: str, fields: Mapping[str, Any]) -> None:
        """Change some fields of an item. Raises RequestError: also where the item is not there."""
        for _ in range(_MOST_TRIES):
            await self._find_shown(item_id)
            before, now = self._feed.find(item_id), time.time()
            if before is None or before.kind == "gone":
                record = self._record("patch", fields)
            else:
                record = before.merge(fields, now, self._generations.live.version)
            self.check_size(record)
            try:
                number = await self._feed.shelf.replace(item_id, record, before, STORE_TIMEOUT_S)
                if number is not None:
                    await self._show({item_id: number})
                    return
                await self._feed.advance()  # somebody else was quicker: theirs is changed then
            except StoreError as exc:
                raise store_unavailable(exc) from exc
        raise store_unavailable()

    async def withdraw(self, item_id: str) -> None:
        """Withdraw an item until it is put again. Raises RequestError: also where there is none."""
        await self._find_shown(item_id)
        before, is_known = self._feed.find(item_id) or self._record("gone", {}), self._catalogue.is_made(item_id)
        await self._write({item_id: before.withdrawn(time.time(), is_known=is_known)})

    async def _find_shown(self, item_id: str) -> None:
        """Raises RequestError unless there is an item, which another process may have put a moment ago."""
        if not self._is_shown(item_id):
            try:
                await self._feed.advance()
            except StoreError as exc:
                raise store_unavailable(exc) from exc
            await self._feed.hand_on()
            self.describe(item_id)

    def _is_shown(self, item_id: str) -> bool:
        row = self._catalogue.find_row(item_id)
        return row is not None and row not in self._catalogue.live.withdrawn

    def check(
        self, item_id: str, fields: Mapping[str, Any], n_more: int = 0, names: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Raises RequestError where an item does not fit the model that is served, or there are too many.

        n_more, names: items that are about to be written too, and their new attributes: under which field each stands.
        """
        attributes = self._catalogue.attributes
        new = {name: field for field in _KINDS for name in fields.get(field) or {} if name not in attributes}
        if new and not attributes.has_room(len({*new, *names})):
            name, field = next(iter(new.items()))
            text = f"live items can bring {MOST_NEW} attributes of their own, which are there already"
            raise FieldError(f"{field}.{name}", f"{text}; {nearest(name, list(attributes))}")
        right = {**brought_names(fields), **names}
        for field, kind in _KINDS.items():
            for name in (name for name, value in (fields.get(field) or {}).items() if value is not None):
                known = attributes.kind_of(name) or _KINDS[right[name]]
                if known != kind:
                    other = next(field for field, kind in _KINDS.items() if kind == known)
                    raise FieldError(f"{field}.{name}", f"its values are of the kind {known}; put it under {other}")
        vectors, dim = fields.get("vectors"), self._generations.live.manifest.dim
        if vectors is not None and len(vectors) != dim:
            raise FieldError("vectors", f"it has {len(vectors)} numbers, and the model {dim}")
        self.check_size(self._record("put", fields))
        if self._feed.find(item_id) is None and len(self._feed) + n_more >= self._most_items:
            raise RequestError("too_many_items", f"there are {self._most_items} live items: RETORT_LIVE_ITEMS")

    async def make_room(self, n_items: int) -> None:
        """Let go of what has expired or was withdrawn, where there would be too many. Raises RequestError."""
        if len(self._feed) + n_items > self._most_items:
            try:
                await self._feed.make_room(time.time(), self._catalogue.is_made)
            except StoreError as exc:
                raise store_unavailable(exc) from exc

    def check_size(self, record: LiveItem) -> None:
        """Raises RequestError where a record is too large."""
        if (n_bytes := len(record.pack())) > MOST_RECORD_BYTES:
            raise RequestError("malformed", f"the item has {n_bytes} bytes of JSON; {MOST_RECORD_BYTES} at most")

    def _record(self, kind: Literal["put", "patch", "gone"], fields: Mapping[str, Any]) -> LiveItem:
        version = self._generations.live.version if "vectors" in fields else ""
        return LiveItem(time.time(), kind, fields, version)

    async def _write(self, records: Mapping[str, LiveItem]) -> None:
        try:
            listed = iter(records.items())
            while some := dict(itertools.islice(listed, _SLICE)):
                await self._show(await self._feed.shelf.write(some, STORE_TIMEOUT_S))
        except StoreError as exc:
            raise store_unavailable(exc) from exc

    async def _show(self, numbers: Mapping[str, int]) -> None:
        """Show what was written. It is stored, whatever becomes of this: others follow by themselves."""
        self._metrics.items_written.inc(len(numbers))
        await self._feed.reach(numbers)

    def describe(self, item_id: str) -> dict[str, Any]:
        """Return the body of an ItemResponse. Raises RequestError where there is no such item, or it is withdrawn."""
        row = self._catalogue.find_row(item_id)
        if row is None or not self._is_shown(item_id):
            raise _not_there(item_id)
        return describe_row(self._catalogue, row)

    def state_of(self, item_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of an ItemState, but the time it took."""
        catalogue = self._catalogue
        row = catalogue.find_row(item_id)
        _, unknown = catalogue.find_rows(fields.get("like") or ())
        return {
            "state": "live" if self._is_shown(item_id) else "withdrawn",
            "from": [] if row is None else catalogue.origin(row),
            "ignored_ids": unknown,
        }


def describe_row(catalogue: Catalogue, row: int) -> dict[str, Any]:
    """Return the body of an ItemResponse."""
    item, record = catalogue.item(row), catalogue.live.records.get(row)
    return {
        "item_id": item.item_id,
        "state": "bundle" if record is None else "live",
        "title": item.title,
        "description": None if record is None else record.fields.get("description"),
        **{kind: getattr(item, kind) for kind in NAMED},
        "expires_at": None if record is None else record.expires_at,
    }


def item_routes(writer: ItemWriter, generations: Generations) -> APIRouter:
    """Return the routes of items."""
    router = APIRouter(tags=["items"])

    @router.post("/items/search", **documented(body=ItemsSearchRequest, answer=ItemsSearchResponse))
    async def search_items(request: Request) -> Response:
        """Items by the words of their titles, by a filter, or by both."""
        asked = check_body(ItemsSearchRequest, await read_json(request.scope, request.receive, ITEM_BODY_BYTES))
        catalogue = generations.live.catalogue
        mask = parse(asked.filter, catalogue.attributes).mask() if asked.filter else None
        rows = await asyncio.to_thread(_find, catalogue, asked.text, mask, asked.k)
        return json_response({"items": [describe_row(catalogue, row) for row in rows]})

    @router.get(_ITEM, **documented(404, 422, answer=ItemResponse))
    async def read_item(request: Request) -> Response:
        """What an item is now."""
        return json_response(writer.describe(_item_of(request)))

    _add_writing(router, writer)
    return router


def _add_writing(router: APIRouter, writer: ItemWriter) -> None:
    """Add the routes that write items."""

    @router.post("/items", **documented(body=ItemsRequest, answer=ItemsResponse))
    async def put_items(request: Request) -> Response:
        """Put up to 1000 items. Needs the admin key, or a key of the scope items."""
        listed = parse_item_list(await read_json(request.scope, request.receive, ITEMS_BODY_BYTES))
        n_accepted, rejected, ignored = await writer.put_listed(listed)
        refusals = [refusal.model_dump() for refusal in rejected]
        told = {"accepted": n_accepted, "rejected": refusals, "ignored_ids": ignored}
        return json_response({**told, "visible_ms": _since(request)})

    @router.put(_ITEM, **documented(409, body=ItemFields, answer=ItemState))
    async def put_item(request: Request) -> Response:
        """Put an item, whole. Needs the admin key, or a key of the scope items."""
        item_id, fields = await _read_fields(request)
        await writer.make_room(1)
        writer.check(item_id, fields)
        await writer.put({item_id: fields})
        return json_response({**writer.state_of(item_id, fields), "visible_ms": _since(request)})

    @router.patch(_ITEM, **documented(404, 409, body=ItemFields, answer=ItemState))
    async def patch_item(request: Request) -> Response:
        """Change some fields of an item. Needs the admin key, or a key of the scope items."""
        item_id, fields = await _read_fields(request)
        await writer.make_room(1)
        writer.check(item_id, fields)
        await writer.patch(item_id, fields)
        return json_response({**writer.state_of(item_id, fields), "visible_ms": _since(request)})

    @router.delete(_ITEM, **documented(404, 422, answer=ItemState))
    async def withdraw_item(request: Request) -> Response:
        """Withdraw an item until it is put again. Needs the admin key, or a key of the scope items."""
        item_id = _item_of(request)
        await writer.withdraw(item_id)
        return json_response({**writer.state_of(item_id, {}), "visible_ms": _since(request)})


def _since(request: Request) -> float:
    """Return the milliseconds since a request arrived."""
    trace: Trace = request.scope["retort"]
    return round((time.monotonic() - trace.arrived) * 1000, 3)


async def _read_fields(request: Request) -> tuple[str, dict[str, Any]]:
    item_id = _item_of(request)
    body = await read_json(request.scope, request.receive, ITEM_BODY_BYTES)
    return item_id, check_body(ItemFields, body).said()


def _find(catalogue: Catalogue, text: str | None, mask: Mask | None, k: int) -> list[int]:
    """Return the k most popular rows with all words of a text that a mask lets through."""
    rows: Iterator[int] = iter(catalogue.titles.find(text)) if text is not None else catalogue.by_popularity()
    withdrawn = catalogue.live.withdrawn
    shown = (row for row in rows if row not in withdrawn and (mask is None or (row < len(mask) and mask[row])))
    return list(itertools.islice(shown, k))


def _item_of(request: Request) -> str:
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return check_item_id(unquote_to_bytes(raw.partition(b"?")[0])[len("/items/") :])


def _not_there(item_id: str) -> RequestError:
    return RequestError("not_found", f"there is no item {item_id!r}, or it is withdrawn")
