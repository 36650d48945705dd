"""Ways to store an item table: whole, narrow, of low rank, as codes; and how to train a table that will be stored so.

A kind of storage is float32, float16, int8, rank:R (two factors) or codes:W (product quantisation, Jégou et al. 2011:
one byte for each group of W neighbouring channels, which names one of 256 centroids). Letters: N items, D width, R
rank, M codes an item.
"""

from collections.abc import Mapping
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq
from torch import Tensor, nn

from training.export.rounding import quantise_rows, round_rows

CENTROIDS, ROUNDS = 256, 15


def store_table(weights: NDArray[np.float32], kind: str) -> dict[str, NDArray[Any]]:
    """Return the arrays, by name, as which weights [N, D] are stored."""
    name, _, number = kind.partition(":")
    if name == "int8":
        items, scales = quantise_rows(weights)
        return {"items": items, "scales": scales}
    if name == "rank":
        left, right = factorise(torch.from_numpy(weights), int(number))
        return {"left": left.numpy(), "right": right.numpy()}
    if name == "codes":
        books, codes = quantise_product(torch.from_numpy(weights), int(number))
        return {"codebooks": books.numpy(), "codes": codes.numpy().astype(np.uint8)}
    return {"items": weights.astype(name)}


def stored_bytes(arrays: Mapping[str, NDArray[Any]]) -> int:
    """Return the bytes that stored arrays take."""
    return sum(array.nbytes for array in arrays.values())


def factorise(weights: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return left [N, R] and right [R, D] whose product is nearest to weights (Eckart and Young 1936)."""
    u, s, v = torch.linalg.svd(weights, full_matrices=False)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).contiguous(), (root[:, None] * v[:rank]).contiguous()


def quantise_product(weights: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return codebooks [M, 256, W] and codes int64 [N, M], by k-means on each group of W channels.

    The channels of the last group that are beyond D are zeros.
    """
    padded = nn.functional.pad(weights, (0, -weights.shape[1] % width))
    groups = padded.unflatten(1, (-1, width)).transpose(0, 1).contiguous()  # [M, N, W]
    found = [_cluster(group.numpy()) for group in groups]
    books, codes = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*found, strict=True))
    return books, codes.T.long().contiguous()


def _cluster(points: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return centroids [256, W] of points [N, W] by k-means from random points, and the nearest of each point [N]."""
    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:CENTROIDS]
    start = np.resize(points[chosen.numpy()], (CENTROIDS, points.shape[1]))  # fewer points than centroids repeat
    with catch_warnings():
        simplefilter("ignore")  # a centroid that is nearest to no point stays where it was, which costs nothing
        books, _ = kmeans2(points, start, iter=ROUNDS, minit="matrix")
    return books, vq(points, books)[0]


class Rounded(nn.Module):
    """Rounds a weight to what float16 or int8 will hold; the gradient goes straight through (Bengio et al. 2013)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, weight: Tensor) -> Tensor:
        """Return weight [R, C] rounded."""
        return weight + (round_rows(weight, self.kind) - weight).detach()


class Factors(nn.Module):
    """Makes a table of two factors, which learn."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the product [N, D] of left [N, R] and right [R, D], in float32."""
        with torch.autocast(left.device.type, enabled=False):
            return left @ right

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors that training starts from."""
        return factorise(weight, self.rank)


class Codebook(nn.Module):
    """Makes a table of codes, which stay as they are, and the centroids that they name, which learn."""

    def __init__(self, weights: Tensor, width: int) -> None:
        super().__init__()
        books, codes = quantise_product(weights.detach(), width)
        self.dim = weights.shape[1]
        self.first: Tensor
        self.codes: Tensor
        self.register_buffer("first", books)
        self.register_buffer("codes", codes)

    def forward(self, books: Tensor) -> Tensor:
        """Return the table [N, D] that the centroids books [M, 256, W] make."""
        groups = [book[self.codes[:, number]] for number, book in enumerate(books)]  # M of [N, W]
        return torch.cat(groups, dim=1)[:, : self.dim]

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the centroids that training starts from."""
        return self.first.clone()


class Zeros(nn.Module):
    """Keeps the smallest values of a weight at zero (magnitude pruning, Han et al. 2015). share: how many of them."""

    def __init__(self, weights: Tensor, share: float) -> None:
        super().__init__()
        size = weights.detach().abs().flatten()
        count = int(share * len(size))
        self.mask: Tensor
        self.register_buffer("mask", torch.ones_like(size))
        self.mask[size.topk(count, largest=False).indices] = 0.0
        self.mask = self.mask.view_as(weights)

    def forward(self, weight: Tensor) -> Tensor:
        """Return weight with zeros in the places that were the smallest at the start."""
        return weight * self.mask


def as_stored(weights: Tensor, kind: str) -> nn.Module | None:
    """Return the parametrization under which a table is trained as it will be stored; None for float32."""
    name, _, number = kind.partition(":")
    if name == "rank":
        return Factors(int(number))
    if name == "codes":
        return Codebook(weights, int(number))
    return None if name == "float32" else Rounded(name)
