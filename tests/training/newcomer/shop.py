"""A made-up shop whose titles say what an item is: of kinds, each taken by its own users, with words of its own."""

import numpy as np
import torch

from service.bundle import Item, ItemText
from training.data.prepared import Prepared
from training.data.split import TEST, TRAIN, VAL
from training.model.encoder import SequenceModel, Size, make_model

KINDS = ("lamp", "chair", "candle", "basket")
N_ITEMS, N_USERS, LENGTH, DIM = 120, 80, 12, 8


def kind_of(row: int) -> int:
    return row % len(KINDS)


def shop_texts() -> list[ItemText]:
    """Titles of all items; every tenth has none."""
    return [
        ItemText()
        if row % 10 == 9
        else ItemText(f"a {KINDS[kind_of(row)]} number {row}", None, {"kind": [KINDS[kind_of(row)]]})
        for row in range(N_ITEMS)
    ]


def make_shop() -> Prepared:
    """Each user takes items of one kind; the last event is for testing, and the one before it for validation."""
    rng = np.random.default_rng(0)
    items = [
        rng.choice(np.arange(kind_of(user), N_ITEMS, len(KINDS)), LENGTH, replace=False) for user in range(N_USERS)
    ]
    item = np.concatenate(items).astype(np.int32)
    part = np.tile([TRAIN] * (LENGTH - 2) + [VAL, TEST], N_USERS).astype(np.uint8)
    counts = np.bincount(item[part == TRAIN], minlength=N_ITEMS)
    return Prepared(
        users=[f"u{user}" for user in range(N_USERS)],
        items=[Item(f"i{row}", float(counts[row])) for row in range(N_ITEMS)],
        user=np.repeat(np.arange(N_USERS), LENGTH).astype(np.int32),
        item=item,
        timestamp_ms=np.tile(np.arange(LENGTH), N_USERS).astype(np.int64) * 1000,
        part=part,
        report={"repeat_consumption": False, "split": {"test": "last", "val": "last"}, "fingerprint": "shop"},
    )


def make_student(rows: np.ndarray | None = None) -> SequenceModel:
    """A student that knows the kinds: an item's vector says its kind. rows: of its items; None: all."""
    kinds = [kind_of(row) for row in (range(N_ITEMS) if rows is None else rows.tolist())]
    model = make_model(len(kinds), Size(DIM, ("pool",), 1, 0.0, 10), seed=0).eval()
    rng = np.random.default_rng(1)
    table = 0.1 * rng.normal(size=(len(kinds), DIM))
    table[np.arange(len(kinds)), kinds] += 2
    model.items.weight.data.copy_(torch.from_numpy(table.astype(np.float32)))
    return model
