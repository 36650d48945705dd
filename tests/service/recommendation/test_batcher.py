"""Natural batching: nothing waits for a timer, and whatever waits while a batch runs forms the next."""

import asyncio

from service.recommendation.batcher import Batcher


class Recorder:
    """Runs batches that end when they are told to."""

    def __init__(self, *, max_batch: int = 8, max_running: int = 1, patience_s: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.may_end = asyncio.Event()
        self.batcher: Batcher[int] = Batcher(
            self._run, max_batch=max_batch, max_running=max_running, patience_s=patience_s
        )

    async def _run(self, jobs: list[int]) -> None:
        self.batches.append(jobs)
        await self.may_end.wait()


async def turn() -> None:
    """Let everything that is due happen."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_job_meets_an_idle_batcher_and_runs_in_the_next_turn_of_the_loop() -> None:
    recorder = Recorder()

    recorder.batcher.submit(1)
    await turn()

    assert recorder.batches == [[1]]


async def test_jobs_of_one_turn_run_together() -> None:
    recorder = Recorder()

    for job in (1, 2, 3):
        recorder.batcher.submit(job)
    await turn()

    assert recorder.batches == [[1, 2, 3]]


async def test_what_waits_while_a_batch_runs_forms_the_next() -> None:
    recorder = Recorder()
    recorder.batcher.submit(1)
    await turn()
    for job in (2, 3, 4):
        recorder.batcher.submit(job)
        await turn()
    waiting = recorder.batcher.depth

    recorder.may_end.set()
    await turn()

    assert waiting == 3
    assert recorder.batches == [[1], [2, 3, 4]]


async def test_no_batch_is_larger_than_allowed() -> None:
    recorder = Recorder(max_batch=2)
    recorder.may_end.set()

    for job in range(5):
        recorder.batcher.submit(job)
    await turn()
    await turn()

    assert recorder.batches == [[0, 1], [2, 3], [4]]


async def test_no_more_batches_run_at_once_than_allowed() -> None:
    recorder = Recorder(max_batch=1, max_running=2)

    for job in range(5):
        recorder.batcher.submit(job)
    await turn()

    assert recorder.batches == [[0], [1]]


async def test_next_batch_waits_for_the_one_that_runs_unless_that_is_slow() -> None:
    recorder = Recorder(max_running=2, patience_s=3600)

    recorder.batcher.submit(1)
    await turn()
    recorder.batcher.submit(2)
    await turn()

    assert recorder.batches == [[1]]


async def test_job_does_not_wait_for_the_end_of_a_slow_batch() -> None:
    recorder = Recorder(max_running=2, patience_s=0.01)
    recorder.batcher.submit(1)
    await turn()

    recorder.batcher.submit(2)
    async with asyncio.timeout(10):
        while len(recorder.batches) < 2:
            await turn()

    assert recorder.batches == [[1], [2]]  # the first still runs
    assert not recorder.may_end.is_set()
