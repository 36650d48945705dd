"""A shadow of fake generations: what is compared, and what is dropped so that nobody waits for it."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from service.metrics import Metrics
from service.recommendation.job import Answer
from service.release import shadow as shadow_module
from service.release.shadow import MOST_WAITING, Shadow
from tests.service.running import metric

Work = Callable[["Room"], Awaitable[None]]


class Catalogue:
    item_ids = tuple(f"i{row}" for row in range(10))

    def __len__(self) -> int:
        return len(self.item_ids)


class Room:
    """A shadow, the two generations, and what the other one answers."""

    def __init__(self, share: float = 100) -> None:
        self.is_idle, self.metrics, self.others = True, Metrics("0"), answer([0, 1, 2])
        self.n_answered = 0
        live = SimpleNamespace(catalogue=Catalogue(), recommender=self)
        other = SimpleNamespace(catalogue=Catalogue(), aside=SimpleNamespace(read=self._read, answer=self._answer))
        self.shadow = Shadow(live, other, share, longest_s=1.0, metrics=self.metrics)

    async def ask(self, *answers: Answer) -> None:
        """Answer so many requests at once, as the live version does."""
        for each in answers:
            future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self.shadow.offer(future, lambda other: None, 0.0)
            future.set_result(each)
        await asyncio.sleep(0)

    async def until(self, **counts: int) -> None:
        """Wait until so many requests came to each result."""
        async with asyncio.timeout(20):
            while any(self.count(result) < n for result, n in counts.items()):
                await asyncio.sleep(0.001)

    def count(self, result: str) -> float:
        return self.read("requests_total", result=result)

    def read(self, name: str, **labels: str) -> float:
        return metric(self.metrics.render().decode(), f"retort_shadow_{name}", **labels)

    async def _read(self, query: Any, timeout_s: float) -> None:
        return None

    def _answer(self, query: Any, past: None, budget: Any) -> Answer:
        self.n_answered += 1
        if isinstance(self.others, Exception):
            raise self.others
        return self.others


def answer(rows: list[int], *reasons: str) -> Answer:
    scores = np.arange(len(rows), 0, -1, dtype=np.float32)
    return Answer((rows, scores), "full" if not reasons else "fallback", list(reasons))


def in_room(work: Work, share: float = 100) -> Room:
    async def do() -> Room:
        room = Room(share)
        await work(room)
        await room.shadow.close()
        return room

    return asyncio.run(do())


def test_lists_are_compared_by_overlap_order_coverage_and_score() -> None:
    async def work(room: Room) -> None:
        await room.ask(answer([0, 2, 1]), answer([7, 8, 0]))
        await room.until(compared=2)

    room = in_room(work)

    assert room.read("overlap_sum") == 1 + 1 / 3
    assert (room.read("same_order_count"), room.read("same_order_sum")) == (1, 2 / 3)
    assert (room.read("coverage", version="live"), room.read("coverage", version="other")) == (0.5, 0.3)
    assert room.read("mean_score", version="other") == 2
    assert room.read("levels_total", version="live", level="full") == 2


def test_nothing_is_answered_while_the_live_version_answers_somebody(monkeypatch: Any) -> None:
    monkeypatch.setattr(shadow_module, "_PATIENCE_S", 0.0)

    async def work(room: Room) -> None:
        room.is_idle = False
        await room.ask(answer([0]), answer([1]))
        await room.until(dropped=2)
        room.is_idle = True
        await room.ask(answer([2]))
        await room.until(compared=1)

    assert in_room(work).n_answered == 1


def test_few_wait_and_the_rest_is_dropped_at_once() -> None:
    async def work(room: Room) -> None:
        await room.ask(*[answer([0])] * (MOST_WAITING + 5))
        await room.until(dropped=5, compared=MOST_WAITING)

    assert in_room(work).count("dropped") == 5


def test_answer_that_takes_too_long_or_fails_is_counted_and_compared_with_nothing() -> None:
    async def work(room: Room) -> None:
        room.others = answer([3], "deadline")
        await room.ask(answer([0]))
        await room.until(too_slow=1)
        room.others = ValueError("a bug")
        await room.ask(answer([0]))
        await room.until(failed=1)

    assert in_room(work).read("overlap_count") == 0


def test_share_of_the_requests_is_sampled_and_a_stopped_shadow_answers_no_more() -> None:
    async def work(room: Room) -> None:
        for _ in range(400):
            await room.ask(answer([0]))
        n_sampled = room.count("compared") + room.count("dropped") + len(room.shadow._waiting)
        assert 20 < n_sampled + 1 < 100  # 10 %; one may be on its way

    room = in_room(work, share=10)
    assert room.n_answered < 100
