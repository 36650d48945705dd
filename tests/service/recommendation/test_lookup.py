"""What is found of the users of a batch: every job once, and those in a hurry before the store has answered."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from service.errors import StoreError
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.recommendation.budget import BudgetRule
from service.recommendation.job import Found, Job, Query, Ranking, Taste
from service.recommendation.lookup import Lookup
from service.recommendation.memory import Memory
from service.user.erasure import share_of
from service.user.record import Past, Record, Sight
from tests.service.toy import write_toy

RULE = BudgetRule(default_s=10.0, store_share=0.5)
KNOWN = Record(np.array([1, 2], dtype=np.int32), np.ones(8, dtype=np.float32))


class Caller:
    """Waits for ever."""

    is_gone = False


class Users:
    """Answers when it is told to: known users have a record, read ones a history, all others nothing."""

    def __init__(self) -> None:
        self.may_look, self.may_read = asyncio.Event(), asyncio.Event()
        self.kept: list[str] = []
        self.error: StoreError | None = None

    async def look(self, user_ids: Sequence[str], timeout_s: float, *, is_whole: bool = False) -> list[Sight]:
        await self.may_look.wait()
        if self.error is not None:
            raise self.error
        sights = {"known": Sight("hit", KNOWN), "read": Sight("miss", mark=b"12345678")}
        return [sights.get(user_id.split("-")[0], Sight("none")) for user_id in user_ids]

    async def read(self, user_ids: Sequence[str], timeout_s: float) -> list[Past]:
        await self.may_read.wait()
        return [Past(["i3", "i4", "gone"]) for _ in user_ids]

    async def keep(self, records: Sequence[tuple[str, Sight, Record]], timeout_s: float) -> None:
        self.kept += [user_id for user_id, _, _ in records]


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(write_toy(tmp_path / "bundle"))


def job(user_id: str, budget_ms: int | None = None, arrived: float | None = None) -> Job:
    budget = RULE.start(time.monotonic() if arrived is None else arrived, budget_ms)
    query = Query(user_id, 5, None, (), True, None, Caller(), budget)
    return Job(query, asyncio.get_running_loop().create_future(), None, None, (), ())


def open_lookup(users: Users, catalogue: Catalogue, memory: Memory) -> Lookup:
    return Lookup(users, users, catalogue, memory, Metrics("0"))  # type: ignore[arg-type]


def said(found: Sequence[Found]) -> dict[str | None, tuple[str, tuple[str, ...], list[int]]]:
    return {each.job.query.user_id: (each.level, each.reasons, each.taste.seen.tolist()) for each in found}


async def test_records_histories_and_strangers_are_found_together(catalogue: Catalogue) -> None:
    users = Users()
    users.may_look.set()
    users.may_read.set()

    (found,) = [
        each async for each in open_lookup(users, catalogue, Memory(9)).find([job("known"), job("read"), job("x")])
    ]

    assert said(found) == {"known": ("full", (), [1, 2]), "read": ("full", (), [3, 4]), "x": ("full", (), [])}


async def test_job_in_a_hurry_is_given_back_with_what_is_remembered_while_the_others_wait(
    catalogue: Catalogue,
) -> None:
    users, memory = Users(), Memory(9)
    memory.note("known-hurried", Taste(np.array([7], dtype=np.int32)))
    now = time.monotonic()
    hurried = [job(user_id, 20, now) for user_id in ("known-hurried", "x-hurried")]
    finding = open_lookup(users, catalogue, memory).find([*hurried, job("known"), job("read")])

    first = await anext(finding)
    users.may_look.set()
    users.may_read.set()
    rest = await anext(finding)

    assert said(first) == {
        "known-hurried": ("degraded", ("store_timeout", "stale_profile"), [7]),
        "x-hurried": ("fallback", ("store_timeout",), []),
    }
    assert said(rest) == {"known": ("full", (), [1, 2]), "read": ("full", (), [3, 4])}


async def test_job_in_a_hurry_whose_record_is_there_does_not_wait_for_the_histories_of_others(
    catalogue: Catalogue,
) -> None:
    users = Users()
    users.may_look.set()
    finding = open_lookup(users, catalogue, Memory(9)).find([job("known-hurried", 40), job("read")])

    first = await anext(finding)
    users.may_read.set()

    assert said(first) == {"known-hurried": ("full", (), [1, 2])}
    assert said(await anext(finding)) == {"read": ("full", (), [3, 4])}


async def test_failing_store_gives_every_job_what_is_remembered(catalogue: Catalogue) -> None:
    users, memory = Users(), Memory(9)
    users.error = StoreError("connection")
    users.may_look.set()
    memory.note("known", Taste(np.array([7], dtype=np.int32)))

    (found,) = [each async for each in open_lookup(users, catalogue, memory).find([job("known"), job("x")])]

    assert said(found) == {
        "known": ("degraded", ("store_error", "stale_profile"), [7]),
        "x": ("fallback", ("store_error",), []),
    }


@pytest.mark.parametrize("is_elsewhere", [False, True])
async def test_only_what_was_read_before_no_erasure_is_kept(catalogue: Catalogue, is_elsewhere: bool) -> None:
    users, memory = Users(), Memory(9)
    users.may_look.set()
    users.may_read.set()
    lookup = open_lookup(users, catalogue, memory)

    (kept,) = [each async for each in lookup.find([job("read-1")])]
    (erased,) = [each async for each in lookup.find([job("read-2")])]
    lookup.keep([Ranking(each, None, KNOWN.user, 0.0) for each in kept])  # type: ignore[arg-type]
    await lookup.flush()
    if is_elsewhere:
        lookup.forget_share(share_of("read-2"))
    else:
        await lookup.forget("read-2")
    lookup.keep([Ranking(each, None, KNOWN.user, 0.0) for each in erased])  # type: ignore[arg-type]
    await lookup.flush()

    assert users.kept == ["read-1"]
    assert memory.recall("read-1") is not None
    assert memory.recall("read-2") is None
