"""The processes that train together: which one is the first, what it alone does, and sums over all of them.

torchrun starts them, and torch.distributed carries what they tell each other: gloo between processors, NCCL between
GPUs. Every process runs the same command. What is written, printed or judged is the first one's alone, while the others
wait. A command of one process is the first of one, and nothing here costs it anything.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.errors import InputError, TrainingError

LONGEST_WAIT = timedelta(days=7)  # of all others for the first; a process that died is seen by torchrun at once
Found = TypeVar("Found")


class FollowedError(TrainingError):
    """The first process failed, and has said why. The others end with its exit code and say nothing."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("the first process failed")
        self.exit_code = exit_code


class LostError(TrainingError):
    """Another process ended before its time, so that this one cannot go on. All can be started again."""

    exit_code = 75  # "try again" among the exit codes of sysexits.h


def count() -> int:
    """Return how many processes train together; 1 where this one trains alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Return which of them this one is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def count_here() -> int:
    """Return how many of them run on this machine."""
    return min(count(), int(os.environ.get("LOCAL_WORLD_SIZE", str(count()))))


def is_first() -> bool:
    """Return whether this process is the one that writes, prints and judges."""
    return number() == 0


def started() -> int:
    """Return how many processes torchrun started; 1 where it started none."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextmanager
def join() -> Iterator[None]:
    """Meet the other processes that torchrun started, and part from them where the context ends without an error.

    Raises InputError where a machine has fewer GPUs than processes.
    """
    if started() == 1:
        yield
        return
    if torch.cuda.is_available():
        here, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if here >= gpus:
            raise InputError(
                f"process {here + 1} of this machine has no GPU of its own: start {gpus} here, one for each, or train "
                "on the processors with CUDA_VISIBLE_DEVICES= before the command"
            )
        torch.cuda.set_device(here)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=LONGEST_WAIT)
    yield
    dist.destroy_process_group()


def alone(work: Callable[[], Found]) -> Found:
    """Run work in the first process while the others wait. Return in all of them what it returned.

    Raises FollowedError in the others where it raised in the first.
    """
    if count() == 1:
        return work()
    told: list[Any] = [None, 0]
    if is_first():
        try:
            told[0] = work()
        except Exception as error:  # whatever it is, the others must not wait for ever, and it is raised again
            told[1] = getattr(error, "exit_code", TrainingError.exit_code)
            _tell(told)
            _part()
            raise
    _tell(told)
    found, exit_code = told
    if exit_code:
        _part()
        raise FollowedError(exit_code)
    return found


def agree(tensors: Iterable[Tensor], source: int = 0) -> None:
    """Give tensors the values that they have in one process, the first unless another is named, in place."""
    if count() > 1:
        with _needing_all():
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=source)


def hand_over(own: Tensor, source: int) -> None:
    """Give a tensor in the first process the values that it has in another, in place. These two call it, on the CPU."""
    with _needing_all():
        if is_first():
            dist.recv(own, source)
        else:
            dist.send(own, 0)


def total(own: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place, and return it."""
    return _reduce(own, dist.ReduceOp.SUM)


def largest(own: Tensor) -> Tensor:
    """Take the largest of each value of a tensor over all processes, in place, and return it."""
    return _reduce(own, dist.ReduceOp.MAX)


def sum_gradients(weights: Sequence[nn.Parameter], value: float) -> float:
    """Replace the gradient of each weight by its sum over all processes; return the sum of value.

    A process whose slice of a batch was empty has no gradients, and takes part with zeros. A weight that has none in
    any process is left without, so that the optimiser passes it over as it does in one process.
    """
    if count() == 1:
        return value
    told = torch.tensor([value, *(weight.grad is not None for weight in weights)], dtype=torch.float64)
    with _needing_all():
        dist.all_reduce(told)
        sums = []
        for weight, has_gradient in zip(weights, told[1:].tolist(), strict=True):
            if has_gradient:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                sums.append(dist.all_reduce(weight.grad, async_op=True))
        for each in sums:
            each.wait()
    return float(told[0])


def _reduce(own: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
    if count() > 1:
        with _needing_all():
            dist.all_reduce(own, how)
    return own


def _tell(told: list[Any]) -> None:
    """Give the objects of a list the values that they have in the first process."""
    with _needing_all():
        dist.broadcast_object_list(told, device=torch.device("cpu"))


def _part() -> None:
    """Wait until all processes know that they are to end, or an end would cut off what they have not read yet."""
    with suppress(RuntimeError):  # another has ended already, so it knew
        dist.barrier()


@contextmanager
def _needing_all() -> Iterator[None]:
    """Raise LostError where a process that takes part is gone; torch says so by RuntimeErrors of many kinds."""
    try:
        yield
    except RuntimeError as exc:
        raise LostError(f"another process ended before its time ({str(exc).splitlines()[0]})") from exc
