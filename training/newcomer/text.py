"""What is said of the items, as the numbers of features that the service will compute of new ones."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from service.bundle import ItemText, hash_text
from training.data.event import Int64
from training.data.item_file import PREFIX

BUCKETS = 1 << 15
"""How many numbers features have: the known features of 12,600 films then share few of them."""


def item_texts(frame: pl.DataFrame) -> list[ItemText]:
    """Return what is said of each item. frame: items.parquet, or other rows with its columns."""
    names = [name for name in frame.columns if name.startswith(PREFIX)]
    return [
        ItemText(
            row.get("title"),
            row.get("description"),
            {name.removeprefix(PREFIX): row[name] for name in names if row[name]},
        )
        for row in frame.iter_rows(named=True)
    ]


def hash_items(texts: Sequence[ItemText]) -> list[Int64]:
    """Return the numbers of the features of each item, from 1 to BUCKETS; none where nothing is said of it."""
    return [np.array(hash_text(text, BUCKETS), dtype=np.int64) for text in texts]
