"""The items that each of several processes holds: neighbouring rows of the table, as even as they come."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training import ranks


@dataclass(frozen=True)
class Shard:
    """The rows of one process, from first up to stop, out of n_items. Without items it takes part all the same."""

    first: int
    stop: int
    n_items: int

    @classmethod
    def of(cls, n_items: int, number: int | None = None, count: int | None = None) -> "Shard":
        """Return the rows of a process; of this one among all that train together where it is not said."""
        number, count = ranks.number() if number is None else number, ranks.count() if count is None else count
        return cls(n_items * number // count, n_items * (number + 1) // count, n_items)

    @property
    def columns(self) -> slice:
        """What it takes of logits [P, N] of all items."""
        return slice(self.first, self.stop)

    def place(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of the rows are its own, bool, and the place of each among its own; that of others is 0."""
        is_own = (rows >= self.first) & (rows < self.stop)
        return is_own, torch.where(is_own, rows - self.first, 0)


def joined(own: Tensor, begin: int, length: int) -> Tensor:
    """Return the rows of all processes in one tensor, whose rows from begin on are those of this one [length, ...]."""
    whole = own.new_zeros(length, *own.shape[1:])
    whole[begin : begin + len(own)] = own
    return ranks.total(whole)


def gathered(own: Tensor, shard: Shard) -> Tensor:
    """Return all rows of a table [n_items, ...] in the first process, and its own rows in every other.

    The table comes part by part, so no other process ever holds more than its own rows and one other's.
    """
    whole = own.new_empty(shard.n_items, *own.shape[1:]) if ranks.is_first() else own
    for number in range(ranks.count()):
        of = Shard.of(shard.n_items, number)
        if of.stop > of.first:
            part = own.contiguous() if number == ranks.number() else own.new_empty(of.stop - of.first, *own.shape[1:])
            ranks.agree([part], number)
            if ranks.is_first():
                whole[of.columns] = part
    return whole
