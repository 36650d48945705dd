"""The columns of a square matrix, dealt to the processes that train together, and how the first one gets them all.

A column of a Gram matrix, and of a solution, does not depend on the other columns. So each process computes some, and
nothing is summed: what comes together is the same to the bit, whoever computed it. Only the factor of the Gram matrix
is made by the first process and sent to all. That is a seventh of the work of a solution.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from training import ranks

SOLVED = 512  # columns that are solved for at once, in any number of processes, so that the bits are the same

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Deal:
    """Which columns of a matrix [side, side] each process computes: neighbouring blocks. among: 1, the first alone."""

    side: int
    among: int = 1

    @classmethod
    def where_it_fits(cls, side: int, bytes_each: float, available: int | None) -> "Deal":
        """Return a deal to all processes where this machine has room for what each of its own holds.

        All must call it; the first decides. available: bytes of free memory, None where not known.
        """
        return cls(side, ranks.count() if ranks.has_room(bytes_each, available) else 1)

    def of(self, number: int) -> slice:
        """Return the columns of a process, which may be none."""
        if number >= self.among:
            return slice(0, 0)
        blocks = -(-self.side // SOLVED)
        first, stop = (min(self.side, SOLVED * (blocks * place // self.among)) for place in (number, number + 1))
        return slice(first, stop)

    @property
    def own(self) -> slice:
        """The columns of this process."""
        return self.of(ranks.number())

    def blocks(self, most: int) -> list[slice]:
        """Return the own columns in blocks of at most so many."""
        return [slice(first, min(first + most, self.own.stop)) for first in range(self.own.start, self.own.stop, most)]

    def zeros(self) -> Float32:
        """Return a matrix of zeros with contiguous columns, as LAPACK has them: the own ones [side, own]."""
        return np.zeros((self.side, self.own.stop - self.own.start), dtype=np.float32, order="F")

    def gather(self, whole: NDArray[np.generic], own: NDArray[np.generic]) -> None:
        """Fill whole [side, side] of the first process with what all have: own [side, own]. Others need no whole."""
        if ranks.is_first():
            whole[:, self.own] = own
        for number in range(1, self.among):
            columns = self.of(number)
            width = columns.stop - columns.start
            if width and ranks.number() == number:
                ranks.hand_over(torch.from_numpy(own.T), number)
            elif width and ranks.is_first():
                part = np.empty((width, self.side), dtype=whole.dtype)
                ranks.hand_over(torch.from_numpy(part), number)
                whole[:, columns] = part.T

    def factor(self, gram: Float32) -> Float32:
        """Return the Cholesky factor of the first process's matrix, in its memory there, in all that have columns."""
        ranks.alone(lambda: _factorise(gram))
        if self.among == 1:
            return gram
        factor = gram if ranks.is_first() else np.empty((self.side, self.side), dtype=np.float32, order="F")
        ranks.agree([torch.from_numpy(factor.T)])
        return factor

    def solve(self, factor: Float32, target: Float32) -> None:
        """Replace the own columns of a target [side, own] by those of the solution."""
        for block in self.blocks(SOLVED):
            at = slice(block.start - self.own.start, block.stop - self.own.start)
            target[:, at] = scipy.linalg.cho_solve((factor, False), target[:, at], overwrite_b=True, check_finite=False)


def _factorise(gram: Float32) -> None:
    factor, _ = scipy.linalg.cho_factor(gram, overwrite_a=True, check_finite=False)
    assert factor is gram or np.shares_memory(factor, gram)  # noqa: S101  # a copy would be lost, and take as much
