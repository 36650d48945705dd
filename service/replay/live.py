"""The live items as they were when an answer was given, as far as the store still has them, and what has changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.catalogue.live_item import LiveItem
from service.item.feed import ItemFeed
from service.item.shelf import ItemShelf, Place
from service.replay.record import Surroundings


@dataclass(frozen=True, slots=True)
class LiveThen:
    """records: of live items, those that the catalogue had as rows first, in their order. changed: those that are known
    only as they are now. gone: those that the store has no more. came: those that there were not yet."""

    records: Mapping[str, LiveItem]
    changed: Sequence[str]
    gone: Sequence[str]
    came: Sequence[str]


@dataclass(slots=True)
class _Everything:
    """Takes all there is of a feed."""

    live_serial: int = 0
    records: dict[str, LiveItem] = field(default_factory=dict)

    def take_live(self, changes: Mapping[str, LiveItem | None], now: float) -> None:
        self.records |= {item_id: record for item_id, record in changes.items() if record is not None}


async def read_live(shelf: ItemShelf, around: Surroundings, timeout_s: float) -> LiveThen:
    """Return the live items of surroundings. timeout_s: of each call. Raises StoreError."""
    feed, now = ItemFeed(shelf), _Everything()
    await feed.advance()
    for _ in feed.bring(now):
        pass
    since = await _changed_since(shelf, around, timeout_s)
    then = dict.fromkeys(around.live_ids)
    came = [each for each in now.records if each in since and each not in then and now.records[each].kind == "put"]
    rows = {each: now.records[each] for each in then if each in now.records}
    others = {each: record for each, record in now.records.items() if each not in then and each not in came}
    changed = [each for each in since if each in rows or each in others]
    return LiveThen({**rows, **others}, changed, [each for each in then if each not in rows], came)


async def _changed_since(shelf: ItemShelf, around: Surroundings, timeout_s: float) -> dict[str, None]:
    """Return the items that have changed since, each once."""
    places = [Place(token.encode(), number) for token, number in around.places]
    found: dict[str, None] = {}
    while True:
        pages = await shelf.changes(places, timeout_s)
        found.update(dict.fromkeys(each for page in pages for each in page.item_ids))
        if [page.place for page in pages] == places:
            return found
        places = [page.place for page in pages]
