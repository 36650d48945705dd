"""The processes that train together: which one is the first, what it alone does, and sums over all of them.

torchrun starts them, and torch.distributed carries what they tell each other: gloo between processors, NCCL between
GPUs. Every process runs the same command. What is written or printed is the first one's alone, while the others wait. A
command of one process is the first of one, and nothing here costs it anything.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.errors import InputError, TrainingError

LONGEST_WAIT = timedelta(days=7)  # of all others for the first; a process that died is seen by torchrun at once
Found = TypeVar("Found")
Piece = TypeVar("Piece")
Asked = TypeVar("Asked")
_IS_ALONE: ContextVar[bool] = ContextVar("is_alone", default=False)  # inside of alone


class FollowedError(TrainingError):
    """Another process failed, and has said why. This one ends with its exit code and says nothing."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process failed")
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
    """Return whether this process is the one that writes and prints."""
    return number() == 0


def sharing() -> int:
    """Return among how many processes by_turns and led share work: those that train together, and 1 inside of alone."""
    return 1 if _IS_ALONE.get() else count()


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

    What work would share with the others, it does alone. Raises FollowedError in the others where it raised in the
    first.
    """
    return work() if sharing() == 1 else _told(0, _attempt(work) if is_first() else None)


def has_room(bytes_each: float, available: int | None) -> bool:
    """Return whether this machine has room for what each of its processes would hold; the first decides for all.

    available: bytes of free memory, None where not known.
    """
    return alone(lambda: available is None or bytes_each * count_here() <= available)


def by_turns(
    pieces: Iterable[Piece], work: Callable[[Piece], Found], *, by_first: bool = False
) -> Iterator[tuple[Piece, Found]]:
    """Yield each piece of work and what was made of it: the processes take turns, and all get all.

    All must have the same pieces. by_first: the first does every piece. Raises FollowedError in the others where work
    raised in one.
    """
    if sharing() == 1:
        yield from ((piece, work(piece)) for piece in pieces)
        return
    left = iter(pieces)
    while some := list(islice(left, 1 if by_first else count())):
        own = _attempt(lambda: work(some[number()])) if number() < len(some) else None
        for source, piece in enumerate(some):
            yield piece, _told(source, own)


def led(work: Callable[[Callable[[Asked], Tensor]], Found], answer: Callable[[Asked], Tensor]) -> Found:
    """Run work in the first process, and return in all of them what it returned. All answer what it asks.

    work is given a function that returns the sum of all answers, so each process may answer for what it holds.
    """
    if sharing() == 1:
        return work(answer)

    def ask(asked: Asked) -> Tensor:
        _tell([asked])
        return total(answer(asked))

    def lead() -> Found:
        try:
            return work(ask)
        finally:
            _tell([None])

    while not is_first():
        told: list[Any] = [None]
        _tell(told)
        if told[0] is None:
            break
        total(answer(told[0]))
    return alone(lead)


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


def _attempt(work: Callable[[], Found]) -> tuple[Found | None, Exception | None]:
    """Return what work returned, or what it raised: whatever that is, the others must not wait for ever."""
    token = _IS_ALONE.set(True)
    try:
        return work(), None
    except Exception as error:  # it is raised again, once the others know
        return None, error
    finally:
        _IS_ALONE.reset(token)


def _told(source: int, own: tuple[Any, Exception | None] | None) -> Any:
    """Return in all processes what one attempted. own: what _attempt returned here, where this one did."""
    found, error = own if own is not None and number() == source else (None, None)
    told = [found, 0 if error is None else getattr(error, "exit_code", TrainingError.exit_code)]
    _tell(told, source)
    if told[1]:
        _part()
        raise FollowedError(told[1]) if error is None else error
    return told[0]


def _tell(told: list[Any], source: int = 0) -> None:
    """Give the objects of a list the values that they have in one process, the first unless another is named."""
    with _needing_all():
        dist.broadcast_object_list(told, src=source, device=torch.device("cpu"))


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
