"""Users made up for a catalogue, to learn and to measure a search by: no histories come with a bundle but a few.

Half of the histories are drawn by popularity, as strangers' would be. The other half are drawn from what the model
itself recommends to the first half: users with a taste, whose vectors reach further out.
"""

from collections.abc import Sequence

import numpy as np

from service.bundle import Bundle, Float32, Int64
from service.search.protocol import Encode

_N_POOL = 20_000
_N_LIKED = 100


def sample_users(bundle: Bundle, encode: Encode, n_users: int) -> Float32:
    """Return user vectors, float32 [n_users, dim], the same ones for the same bundle: both halves take turns."""
    rng = np.random.default_rng(0)
    popularity = np.sqrt(np.maximum(0.0, bundle.items.popularity)) + 1e-9
    n_items = len(popularity)
    drawn = rng.choice(n_items, size=(-(-n_users // 2), bundle.manifest.max_history), p=popularity / popularity.sum())
    strangers = encode(_cut(drawn, rng))
    pool = np.sort(rng.choice(n_items, size=min(n_items, _N_POOL), replace=False))
    liked = pool[_best(bundle, strangers, pool)]
    chosen = rng.integers(liked.shape[1], size=(len(liked), bundle.manifest.max_history))
    followers = encode(_cut(np.take_along_axis(liked, chosen, axis=1), rng))
    users = np.stack([strangers, followers], axis=1).reshape(-1, bundle.manifest.dim)[:n_users]
    return users[np.isfinite(users).all(axis=1)]


def _cut(drawn: Int64, rng: np.random.Generator) -> Sequence[Sequence[int]]:
    """Give the histories lengths from 1 to all."""
    lengths = rng.integers(1, drawn.shape[1] + 1, size=len(drawn))
    return [line[:length].tolist() for line, length in zip(drawn, lengths, strict=True)]


def _best(bundle: Bundle, users: Float32, pool: Int64) -> Int64:
    scores = users @ bundle.table.pick(pool).T
    if bundle.table.biases is not None:
        scores += bundle.table.biases[pool]
    n_liked = min(_N_LIKED, len(pool))
    return np.argpartition(-scores, n_liked - 1, axis=1)[:, :n_liked]
