"""The network that makes an item's vector of its features: a bag of embeddings, then a small MLP beside a linear map.

A feature weighs what was learned of it; rare features weigh more at first. Features that no item of the training had
weigh nothing, so an item of which only such are known has the vector of an ordinary item, and no confidence.

The table holds the known features alone; place says which row of it is that of each number, 0 for none.

Letters: n items, F features of the longest, B buckets, K known features, H width inside, D width of item vectors.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from service.bundle import pad_features
from training.data.event import Int64
from training.newcomer.text import BUCKETS

WIDTH = 64
DROPOUT = 0.2
AT_ONCE = 512
LEAST_NORM = 1e-6


class ItemNetwork(nn.Module):
    """Makes vectors of features, and says how sure it is of them.

    scale is what the vectors were multiplied with when they were calibrated. certainty: the weights of the confidence,
    float32 [4]: of the vector's distance from an ordinary item's, of the log of the number of known features, of their
    share, and a constant.
    """

    def __init__(self, place: Tensor, weight: Tensor, mean: Tensor) -> None:
        """place: int64 [1 + B], from 0 to K. weight: what each known feature weighs at first [1 + K]; row 0 is none's.

        mean: an ordinary item's vector [D].
        """
        super().__init__()
        self.table = nn.Embedding(len(weight), WIDTH, padding_idx=0)
        nn.init.normal_(self.table.weight, std=0.05)
        with torch.no_grad():
            self.table.weight[0] = 0
        self.log_weight = nn.Parameter(weight.log())
        self.mean = nn.Parameter(mean.clone())
        self.linear = nn.Linear(WIDTH, len(mean), bias=False)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, len(mean), bias=False)
        self.dropout = nn.Dropout(DROPOUT)
        nn.init.zeros_(self.down.weight)
        self.place: Tensor
        self.scale: Tensor
        self.certainty: Tensor
        self.register_buffer("place", place)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("certainty", torch.zeros(4))

    def forward(self, features: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the vectors [n, D] of features int64 [n, F]. keep: which of them are seen, float [n, F]; None: all."""
        return self.vectors_of(self.bag(features, keep))

    def bag(self, features: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return what an item's features say together [n, H]; see forward."""
        rows = self.place[features]
        known = (rows > 0).float() if keep is None else (rows > 0) * keep
        weight = self.log_weight[rows].exp() * known  # [n, F]
        total = (weight**2).sum(dim=1, keepdim=True).clamp(min=LEAST_NORM**2).sqrt()  # the root of 0 has no gradient
        return self.dropout(self._sum(rows, weight) / total)

    def vectors_of(self, bag: Tensor) -> Tensor:
        """Return the vectors [n, D] of items whose bags [n, H] are given."""
        return (self.mean + self.linear(bag) + self.down(self.dropout(F.relu(self.up(bag))))) * self.scale

    def _sum(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the weighed sums [n, H] of the table's rows [n, F], without those that weigh nothing."""
        seen = weight > 0
        starts = seen.sum(dim=1).cumsum(dim=0)
        starts = torch.cat([starts.new_zeros(1), starts[:-1]])
        return F.embedding_bag(rows[seen], self.table.weight, starts, mode="sum", per_sample_weights=weight[seen])

    def signs(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Return what the confidence in vectors is read from [n, 4]; see certainty."""
        known = (self.place[features] > 0).float().sum(dim=1)
        share = known / (features > 0).float().sum(dim=1).clamp(min=1)
        distance = (vectors - self.mean * self.scale).norm(dim=1)
        return torch.stack([distance, known.log1p(), share, torch.ones_like(share)], dim=1)

    def confidence(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Return how sure it is of vectors [n], from 0 to 1; 0 where no feature is known."""
        signs = self.signs(features, vectors)
        return (signs @ self.certainty).sigmoid() * (signs[:, 1] > 0)

    @torch.no_grad()
    def encode(self, features: Sequence[Int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return vectors float32 [n, D] and confidences float32 [n] of the features of items. It must be in eval()."""
        vectors = np.zeros((len(features), len(self.mean)), dtype=np.float32)
        confidences = np.zeros(len(features), dtype=np.float32)
        for start in range(0, len(features), AT_ONCE):
            batch = torch.from_numpy(pad_features(features[start : start + AT_ONCE]))
            found = self(batch)
            vectors[start : start + AT_ONCE] = found.numpy()
            confidences[start : start + AT_ONCE] = self.confidence(batch, found).numpy()
        return vectors, confidences

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that the exported graph is made of, float32 by name."""
        return {name: value.detach().numpy() for name, value in self.state_dict().items()}


def make_network(features: Sequence[Int64], mean: NDArray[np.float32], seed: int) -> ItemNetwork:
    """Return an untrained network for items with such features. mean: an ordinary item's vector [D]."""
    torch.manual_seed(seed)
    counts = np.bincount(np.concatenate([*features, np.zeros(0, dtype=np.int64)]), minlength=1 + BUCKETS)
    known = np.flatnonzero(counts)
    place = np.zeros(1 + BUCKETS, dtype=np.int64)
    place[known] = np.arange(1, 1 + len(known))
    rarity = np.log((1 + len(features)) / (1 + counts[known])).clip(min=0.3)
    weight = np.concatenate([[1.0], rarity]).astype(np.float32)
    return ItemNetwork(*map(torch.from_numpy, (place, weight, mean)))


def load_network(arrays: dict[str, NDArray[Any]]) -> ItemNetwork:
    """Return the network whose arrays() these are, in eval()."""
    weight = torch.ones(len(arrays["log_weight"]))
    network = ItemNetwork(torch.from_numpy(arrays["place"]), weight, torch.from_numpy(arrays["mean"]))
    network.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()})
    return network.eval()
