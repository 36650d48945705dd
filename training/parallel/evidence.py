"""What requests say of the weights of a score, where each of several processes may hold some of the requests.

A process works out what its own requests say, in pieces that are cut alike however many processes there are. So what
all say together has the bits of one process: every piece is one process's alone, and the pieces are added up in their
order. What crosses the network is a few numbers of each piece, and the weights that are asked about.

Letters: U requests of all processes, V of this one, C items of a request that are looked at, K knots, S pieces.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training import ranks
from training.parallel.shard import Shard

AT_ONCE = 1 << 19  # scores that are worked on together: what is made of them stays in the processor's cache
HIDDEN = -1e9  # the score of an item that may not be recommended


@dataclass(frozen=True)
class Form:
    """What a score may consist of. parts: names. knots: how many weights by the gap, 1: constants."""

    parts: tuple[str, ...]
    knots: int
    learns_epsilon: bool = True


@dataclass(frozen=True, eq=False)
class Evidence:
    """The parts of the scores of V requests [V, C], each with a weight of 1; None where a part is not there."""

    target: Tensor  # int64 [V], columns of the others
    gap: Tensor  # [U]
    hidden: Tensor | None  # bool [V, C]
    taste: Tensor | None
    neighbours: Tensor | None
    counts: Tensor | None
    stands_for: Tensor | None = None  # [V, C]: log of how many items each of them stands for; None: for itself
    begin: int = 0  # which of the U requests is the first of the V: see own_requests

    def half(self, first: int) -> "Evidence":
        """Return every second of all requests, from one on: 0 or 1."""
        own = self._rows(slice(first, None, 2))
        return replace(own, gap=self.gap[first::2], begin=-(-self.begin // 2))

    def pieces(self) -> "Iterator[tuple[int, Evidence]]":
        """Return this process's requests some at a time, each piece with its number among those of all."""
        size = piece_size(self._width())
        for at in range(0, len(self.target), size):
            first, stop = self.begin + at, min(self.begin + at + size, self.begin + len(self.target))
            yield first // size, replace(self._rows(slice(at, at + size)), gap=self.gap[first:stop])

    def count_pieces(self) -> int:
        """Return how many pieces the requests of all processes have."""
        return -(-len(self.gap) // piece_size(self._width()))

    def answer(self, what: str, fitted: "Fitted", floor: float) -> Tensor:
        """Return one of ANSWERS by name: what this process's requests say of some weights, zeros for all others."""
        return ANSWERS[what](self, fitted, floor)

    def _width(self) -> int:
        return next(part.shape[1] for part in (self.taste, self.neighbours, self.counts) if part is not None)

    def _rows(self, rows: slice) -> "Evidence":
        parts = self.hidden, self.taste, self.neighbours, self.counts, self.stands_for
        hidden, taste, near, counts, rest = (None if part is None else part[rows] for part in parts)
        return Evidence(self.target[rows], self.gap, hidden, taste, near, counts, rest, self.begin)


class Answering(Protocol):
    """Requests that can be asked what they say of some weights, whoever holds them."""

    @property
    def gap(self) -> Tensor:
        """The gap of each request [U]."""
        ...

    def answer(self, what: str, fitted: "Fitted", floor: float) -> Tensor:
        """Return what all requests say."""
        ...


@dataclass(frozen=True, eq=False)
class Asking:
    """Requests of all processes. ask: gets the number of the evidence that is asked, and what answer() is given."""

    gap: Tensor
    number: int
    ask: Callable[[tuple[int, str, "Fitted", float]], Tensor]

    def answer(self, what: str, fitted: "Fitted", floor: float) -> Tensor:
        """Return what all requests say."""
        return self.ask((self.number, what, fitted, floor))


@dataclass(frozen=True, eq=False)
class Fitted:
    """The weights that were found: at each knot, and those of all requests."""

    form: Form
    knots: Tensor  # [K]
    log_taste: Tensor  # [K]
    trend: Tensor  # [K]
    neighbours: Tensor  # []
    log_epsilon: Tensor  # []

    @property
    def learned(self) -> list[Tensor]:
        """What is learned: all that is no choice."""
        return [self.log_taste, self.trend, self.neighbours, self.log_epsilon]

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the whole scores [V, C] of one process's requests, or of a piece of them."""
        total: Tensor | float = 0.0
        hats = _hats(evidence.gap, self.knots)
        if "taste" in self.form.parts and evidence.taste is not None:
            total = (hats @ self.log_taste.exp())[:, None] * evidence.taste
        if "neighbours" in self.form.parts and evidence.neighbours is not None:
            total = total + self.neighbours * evidence.neighbours
        if "trend" in self.form.parts and evidence.counts is not None:
            total = total + (hats @ self.trend)[:, None] * (evidence.counts + self.log_epsilon.exp()).log()
        assert isinstance(total, Tensor)  # noqa: S101  # a form has a part
        return total if evidence.hidden is None else total.masked_fill(evidence.hidden, HIDDEN)


def piece_size(width: int) -> int:
    """Return how many requests of so many items [C] are worked on together."""
    return max(1, AT_ONCE // width)


def own_requests(count: int, width: int) -> slice:
    """Return which of the requests are this process's: whole pieces of them, and of every second of them.

    count: of the requests of all processes that share the work. width: items of a request that are looked at.
    """
    twice = 2 * piece_size(width)
    own = Shard.of(-(-count // twice), ranks.number(), ranks.sharing())
    return slice(min(count, own.first * twice), min(count, own.stop * twice))


def _slopes(evidence: Evidence, fitted: Fitted, floor: float) -> Tensor:
    """Return for each piece its share of the mean surprise, and the gradients of it, [S, 1 + learned numbers]."""
    learned = [part.detach().requires_grad_() for part in fitted.learned]
    found = torch.zeros(evidence.count_pieces(), 1 + sum(part.numel() for part in learned))
    asked = Fitted(fitted.form, fitted.knots, *learned)
    for number, piece in evidence.pieces():
        loss = _surprises(piece, asked, floor).sum() / len(evidence.gap)
        slopes = torch.autograd.grad(loss, learned, allow_unused=True, materialize_grads=True)
        found[number] = torch.cat([loss.detach()[None], *(slope.ravel() for slope in slopes)])
    return found


@torch.no_grad()
def _sums(evidence: Evidence, fitted: Fitted, floor: float) -> Tensor:
    """Return the sum of the surprises of each piece [S]."""
    found = torch.zeros(evidence.count_pieces())
    for number, piece in evidence.pieces():
        found[number] = _surprises(piece, fitted, floor).sum()
    return found


@torch.no_grad()
def _ranks(evidence: Evidence, fitted: Fitted, floor: float) -> Tensor:  # an order has no floor
    """Return the rank of each target among the items that are looked at [U]; equal scores count against it."""
    found = torch.zeros(len(evidence.gap), dtype=torch.int64)
    at = evidence.begin
    for _, piece in evidence.pieces():
        scores = fitted.scores(piece)
        found[at : at + len(scores)] = (scores >= scores.gather(1, piece.target[:, None])).sum(dim=1)
        at += len(scores)
    return found


ANSWERS: Mapping[str, Callable[[Evidence, Fitted, float], Tensor]] = {
    "slopes": _slopes,
    "sums": _sums,
    "ranks": _ranks,
}
"""What can be asked of evidence: the sum over the processes is what one that held all would say."""


def _surprises(evidence: Evidence, fitted: Fitted, floor: float) -> Tensor:
    """Return -log(p(target) + floor) of each request [V], in nats."""
    scores = fitted.scores(evidence)
    scores = scores if evidence.stands_for is None else scores + evidence.stands_for
    likelihood = -F.cross_entropy(scores, evidence.target, reduction="none")
    if floor == 0:
        return -likelihood
    return -torch.logaddexp(likelihood, torch.full_like(likelihood, float(np.log(floor))))


def _hats(gap: Tensor, knots: Tensor) -> Tensor:
    """Return the share of each knot in each request's weight [V, K], as np.interp has it."""
    eye = np.eye(len(knots))
    shares = [np.interp(gap.numpy(), knots.numpy(), row) for row in eye]
    return torch.from_numpy(np.stack(shares, axis=1)).float()
