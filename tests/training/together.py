"""Run a function in several processes that train together, as torchrun would start them."""

import multiprocessing
import os
from pathlib import Path

import torch

from tests.port import free_port
from training import ranks
from training.data.interaction_file import Cleaning
from training.data.prepare import prepare
from training.data.split import SplitRule


def together(count, work, directory: Path) -> list:
    """Return what work(directory) returned in each of the processes. It must be importable, and its result a tensor."""
    spawn = multiprocessing.get_context("spawn")
    port = free_port()
    started = [spawn.Process(target=_enter, args=(number, count, port, work, directory)) for number in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=240)
    left = [process for process in started if process.exitcode is None]
    for process in left:
        process.kill()
    assert [process.exitcode for process in started] == [0] * count
    return [torch.load(directory / f"{count}-{number}.pt") for number in range(count)]


def together_on(world: Path, count, work, directory: Path) -> list:
    """Prepare the events of a world in directory/prepared, and return what together() does."""
    prepare(world, None, directory / "prepared", Cleaning(), SplitRule())
    return together(count, work, directory)


def _enter(number, count, port, work, directory):
    os.environ.update(
        RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    with ranks.join():
        torch.save(work(directory), directory / f"{count}-{number}.pt")
