"""A softmax over a large catalogue, estimated from some of its items: those that score high, and a sample of the rest.

The items that make up most of a softmax's sum are taken as they are. Of the others some are drawn, each as likely, and
each of these stands for as many of them, so that the expected sum is that of the whole catalogue (a stratified sample).

Letters: U requests, N items, C items of a request that are looked at.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Sample(NamedTuple):
    """The items of each request that are looked at."""

    columns: Tensor  # int64 [U, C], the target first
    is_again: Tensor  # bool [U, C]: the item stands in an earlier column too, and this one does not count
    stands_for: Tensor  # float32 [U, C]: the logarithm of the number of items that each stands for


def draw_columns(scores: Sequence[Tensor], target: Tensor, n_first: int, drawn: Tensor) -> Sample:
    """Return the target, the n_first highest of each kind of score, and others that were drawn, C in all.

    scores: tensors [U, N]. target: int64 [U]. drawn: items, each as likely, int64 [U, at least 1].
    """
    n_items = scores[0].shape[1]
    firsts = [each.topk(min(n_first, n_items), dim=1).indices for each in scores]
    own = torch.cat([target[:, None], *firsts], dim=1)
    columns = torch.cat([own, drawn], dim=1)
    by_item = columns.argsort(dim=1, stable=True)
    ordered = columns.gather(1, by_item)
    is_again = torch.zeros(columns.shape, dtype=torch.bool)
    is_again.scatter_(1, by_item[:, 1:], ordered[:, 1:] == ordered[:, :-1])
    n_own = (~is_again[:, : own.shape[1]]).sum(dim=1)
    n_drawn = (~is_again[:, own.shape[1] :]).sum(dim=1)
    stands_for = torch.zeros(columns.shape)
    stands_for[:, own.shape[1] :] = ((n_items - n_own) / n_drawn.clamp(min=1)).log()[:, None]
    return Sample(columns, is_again, stands_for)
