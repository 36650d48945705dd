"""Join the shards of a table, cleaned one by one, into what one shard of the whole table would be.

Shards are ranges of users in the order of their ids, so their events follow each other as they are. What a shard
numbers by itself is numbered anew: users by how many came before, items by the order of all their ids. Beside the
events of one shard, memory holds the joined ones alone.
"""

from collections import Counter
from collections.abc import Iterable
from functools import reduce
from operator import add, itemgetter
from typing import Any

import numpy as np
import polars as pl

from training.data.gathering import Coder
from training.data.interaction_file import Cleaned, order_ids
from training.data.settling import Late
from training.file.account import EXAMPLES

_AT_ONCE = 1 << 22  # events that are numbered anew at a time
_TYPES: dict[str, Any] = {"user": np.int32, "item": np.int32, "timestamp_ms": np.int64, "weight": np.float64}


def join_shards(shards: Iterable[Cleaned], most: int) -> Cleaned:
    """Return the shards as one. shards: in the order of their users; most: rows of the table."""
    joined: dict[str, Any] = {name: np.empty(most, dtype=_TYPES[name]) for name in ("user", "item", "timestamp_ms")}
    users, coder, n, n_users = [pl.Series("user_id", [], dtype=pl.String)], Coder(), 0, 0
    dropped: Counter[str] = Counter()
    lates, malformed = [Late()], 0
    examples: list[tuple[int, int, str]] = []
    heaviest = (0, "")
    for shard in shards:
        codes = coder.encode(shard.items)
        numbers = {
            "user": shard.events["user"].to_numpy() + np.int32(n_users),
            "item": codes[shard.events["item"].to_numpy()] if len(codes) else np.zeros(0, dtype=np.int32),
        }
        for name in shard.events.columns:
            values = numbers[name] if name in numbers else shard.events[name].to_numpy()
            joined.setdefault(name, np.empty(most, dtype=_TYPES[name]))[n : n + len(values)] = values
        n, n_users = n + shard.events.height, n_users + len(shard.users)
        users.append(shard.users)
        dropped.update(shard.dropped)
        lates.append(shard.late)
        malformed += shard.malformed
        heaviest = max(heaviest, shard.heaviest, key=itemgetter(0))  # the first of equals
        examples = sorted([*examples, *shard.examples])[:EXAMPLES]
    items = order_ids(coder.distinct().alias("item_id"))
    for start in range(0, n, _AT_ONCE):
        at = slice(start, min(n, start + _AT_ONCE))
        joined["item"][at] = items.lookup[joined["item"][at]]
    events = pl.DataFrame({name: array[:n] for name, array in joined.items()})
    ids, late = (pl.concat(users, rechunk=True), items.ids), reduce(add, lates)
    return Cleaned(events, *ids, dropped, malformed, examples, late, heaviest)
