"""The counts of an experiment in a real store: each event once, whoever counts it."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace

from service.bundle import HistoryTypes
from service.experiment.assignment import Assignment
from service.experiment.attribution import Attribution, Version
from service.experiment.record import Experiment
from service.experiment.tally import Counted, Tally
from service.store.client import Store
from service.user.entry_index import EntryIndex
from service.user.event import StoredEvent
from service.user.history import History, Retention
from service.user.key import UserKeys
from service.user.stream import EventStream

OTHER, LIVE = "0" * 16, "a" * 16
TIMEOUT_S = 60.0  # five that count at once share four connections, on a machine that others may keep busy


class World:
    """One namespace, with an experiment that began a minute ago."""

    def __init__(self, store: Store, *, most_users: int = 100_000, stream: int = 100_000) -> None:
        self.keys, self.store = UserKeys(f"tally-{uuid.uuid4().hex[:8]}"), store
        self.stream = EventStream(store, self.keys, EntryIndex(store, self.keys, 3600))
        self.history = History(store, self.keys, Retention(stream=stream))
        self.tally = Tally(store, self.keys, self.stream, most_users=most_users)
        self.experiment = Experiment("experiment", OTHER, LIVE, 50, "5" * 16, time.time() - 60, "1" * 16)

    async def send(self, users: Sequence[str], type_: str | None = None) -> None:
        """Store an event of each user."""
        now = time.time_ns() // 1_000_000
        events = [StoredEvent(user, f"i{uuid.uuid4().hex}", now, type=type_, position=1) for user in users]
        await self.history.append(events, TIMEOUT_S)

    async def count(self, experiment: Experiment | None = None, tally: Tally | None = None) -> Counted | None:
        """Count what has come."""
        running = experiment or self.experiment
        return await (tally or self.tally).catch_up(running, Attribution(running, HistoryTypes().effect), TIMEOUT_S)

    def split(self, users: Sequence[str]) -> dict[Version, int]:
        """How many of some users are assigned to each version."""
        n_other = sum(map(Assignment(self.experiment.salt, 50).takes, users))
        return {Version.OTHER: n_other, Version.LIVE: len(users) - n_other}


async def test_each_user_counts_once_over_repeated_looks(store: Store) -> None:
    world = World(store)
    users = [f"u{number}" for number in range(2500)]

    await world.send(users[:1500])
    first = await world.count()
    again = await world.count()
    await world.send(users)
    last = await world.count()

    assert first is not None and last is not None
    assert first == again
    assert first.converted == world.split(users[:1500])
    assert last.users == last.converted == last.hit == world.split(users)
    assert sum(places["1"] for places in last.clicks.values()) == 4000


async def test_nothing_is_counted_twice_by_many_that_count_at_once(store: Store) -> None:
    world = World(store)
    users = [f"u{number}" for number in range(3000)]
    await world.send(users)
    tallies = [Tally(store, world.keys, world.stream) for _ in range(5)]

    await asyncio.gather(*(world.count(tally=tally) for tally in tallies))
    found = await world.count()

    assert found is not None
    assert found.users == world.split(users)
    assert sum(places["1"] for places in found.clicks.values()) == 3000


async def test_erased_user_is_taken_out_and_counted_anew(store: Store) -> None:
    world = World(store)
    await world.send(["one", "two"])
    await world.count()

    is_erased = await world.tally.erase_user("one", TIMEOUT_S)
    is_again = await world.tally.erase_user("one", TIMEOUT_S)
    left = await world.count()
    await world.send(["one"])
    back = await world.count()

    assert (is_erased, is_again) == (True, False)
    assert left is not None and left.users == left.hit == world.split(["two"])
    assert back is not None and back.users == world.split(["one", "two"])


async def test_page_read_before_an_erasure_is_read_again(store: Store) -> None:
    world = World(store)
    await world.send(["kept", "erased"])
    await world.count()
    await world.send(["kept", "erased"])

    class Late(Attribution):
        """Lets the user be erased once a page is read."""

        is_read = False

        def count(self, entries, page):  # type: ignore[no-untyped-def]
            self.is_read = True
            super().count(entries, page)

    late = Late(world.experiment, HistoryTypes().effect)
    pages_after = world.stream.pages_after

    async def pages(*arguments):  # type: ignore[no-untyped-def]
        async for page in pages_after(*arguments):
            if page and not late.is_read:
                await world.stream.erase_user("erased", 5, within_s=5)
                await world.tally.erase_user("erased", TIMEOUT_S)
            yield page

    world.stream.pages_after = pages  # type: ignore[method-assign]
    found = await world.tally.catch_up(world.experiment, late, TIMEOUT_S)

    assert found is not None
    assert found.users == world.split(["kept"])


async def test_users_beyond_the_bound_are_left_out_and_told(store: Store) -> None:
    world = World(store, most_users=3)
    await world.send(["a", "b", "c", "d", "e"])
    await world.send(["a", "e"])

    found = await world.count()

    assert found is not None
    assert sum(found.users.values()) == 3
    assert found.left_out >= 2


async def test_what_came_before_the_beginning_or_after_the_end_is_not_counted(store: Store) -> None:
    world = World(store)
    await world.send(["before"])
    begun = replace(world.experiment, started=time.time() + 0.001, id="2" * 16)
    ended = replace(world.experiment, ended=time.time() - 30)

    later, over = await world.count(begun), None
    other = World(store)
    await other.send(["after"])
    over = await other.count(replace(other.experiment, ended=ended.ended))

    assert later is not None and sum(later.users.values()) == 0
    assert over is not None and sum(over.users.values()) == 0


async def test_events_that_came_later_with_an_older_time_are_told(store: Store) -> None:
    world = World(store)
    late = StoredEvent("late", "i", round((world.experiment.started - 3600) * 1000))
    await world.history.append([late], TIMEOUT_S)

    found = await world.count()

    assert found is not None and found.older == 1 and sum(found.users.values()) == 0


async def test_next_experiment_begins_with_nothing_and_an_earlier_one_is_counted_no_more(store: Store) -> None:
    world = World(store)
    await world.send(["a"])
    await world.count()
    following = replace(world.experiment, started=world.experiment.started + 1, id="2" * 16)

    anew = await world.count(following)
    late = await world.count()

    assert anew is not None and anew.users == world.split(["a"])
    assert late is None
    assert await world.count(following) == anew


async def test_counts_that_begin_in_the_future_stand_in_nobodys_way(store: Store) -> None:
    world = World(store)
    ahead = replace(world.experiment, started=time.time() + 86_400, id="2" * 16)
    await world.count(ahead)
    await world.send(["a"])

    found = await world.count()

    assert found is not None and found.users == world.split(["a"])


async def test_counts_go_on_where_the_same_is_published_again(store: Store) -> None:
    world = World(store)
    again = replace(world.experiment, id="2" * 16)
    users = [f"u{number}" for number in range(10)]

    await world.send(users)
    before = await world.count()
    kept = await world.count(again)
    await world.send(users[:5])
    by_one_that_has_not_heard = await world.count()
    last = await world.count(again)

    assert before is not None and before == kept
    assert by_one_that_has_not_heard == last != before


async def test_keys_of_another_kind_give_way(store: Store) -> None:
    world = World(store)
    await store.call("append", [("SADD", world.keys.tally, b"a"), ("SET", world.keys.tallied, b"b")], TIMEOUT_S)
    await world.send(["a"])

    found = await world.count()

    assert found is not None and found.users == world.split(["a"])


async def test_events_that_were_cut_off_before_they_were_counted_are_told(store: Store) -> None:
    world = World(store, stream=100)
    users = [f"u{number}" for number in range(3000)]
    await world.send(users[:50])
    await world.count()
    await world.send(users[50:])
    n_left = len([entry async for page in world.stream.pages_after(b"0-0", TIMEOUT_S) for entry in page])

    found = await world.count()
    again = await world.count()

    assert found is not None
    assert n_left < 2000
    assert found.gone == 3000 - 50 - n_left
    assert sum(found.users.values()) == 50 + n_left
    assert again == found
