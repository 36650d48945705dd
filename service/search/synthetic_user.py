"""User vectors made for a catalogue: its codes are learned from them and measured by them.

A bundle comes with only a few histories, so others are drawn at random. One half is drawn by popularity. The other half
is drawn from what the model recommends to the first half: these users have a taste, and their vectors differ more.
"""

from collections.abc import Sequence

import numpy as np

from service.bundle import Bundle, Float32, Int64
from service.search.protocol import Encode

_N_POOL = 20_000
_N_LIKED = 100


def draw_users(bundle: Bundle, encode: Encode, n_users: int) -> Float32:
    """Return user vectors, float32 [at most n_users, dim]; see draw_known_users()."""
    return draw_known_users(bundle, encode, n_users)[0]


def draw_known_users(bundle: Bundle, encode: Encode, n_users: int) -> tuple[Float32, Sequence[Sequence[int]]]:
    """Return user vectors, float32 [at most n_users, dim], and their histories; those that are not finite are left out.

    Users drawn by popularity and users with a taste take turns. The same bundle always gives the same users.
    Raises ModelError.
    """
    rng = np.random.default_rng(0)
    popularity = np.sqrt(np.maximum(0.0, bundle.items.popularity)) + 1e-9
    n_items = len(popularity)
    drawn = rng.choice(n_items, size=(-(-n_users // 2), bundle.manifest.max_history), p=popularity / popularity.sum())
    strange = _cut(drawn, rng)
    strangers = encode(strange)
    pool = np.sort(rng.choice(n_items, size=min(n_items, _N_POOL), replace=False))
    liked = pool[_best(bundle, strangers, pool)]
    chosen = rng.integers(liked.shape[1], size=(len(liked), bundle.manifest.max_history))
    following = _cut(np.take_along_axis(liked, chosen, axis=1), rng)
    users = np.stack([strangers, encode(following)], axis=1).reshape(-1, bundle.manifest.dim)[:n_users]
    histories = [rows for pair in zip(strange, following, strict=True) for rows in pair][:n_users]
    is_finite = [bool(np.isfinite(user).all()) for user in users]
    return users[np.flatnonzero(is_finite)], [
        rows for rows, is_good in zip(histories, is_finite, strict=True) if is_good
    ]


def _cut(drawn: Int64, rng: np.random.Generator) -> Sequence[Sequence[int]]:
    """Return histories of 1 to all of the drawn rows, int64 [n_users, max_history]."""
    lengths = rng.integers(1, drawn.shape[1] + 1, size=len(drawn))
    return [rows[:length].tolist() for rows, length in zip(drawn, lengths, strict=True)]


def _best(bundle: Bundle, users: Float32, pool: Int64) -> Int64:
    """Return for each user the places in pool of its best rows, int64 [n_users, n_liked], in no order."""
    scores = users @ bundle.table.pick(pool).T
    if bundle.table.biases is not None:
        scores += bundle.table.biases[pool]
    n_liked = min(_N_LIKED, len(pool))
    return np.argpartition(-scores, n_liked - 1, axis=1)[:, :n_liked]
