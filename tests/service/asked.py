"""Random requests, and whether two answers are the same: for what answers as the service does."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle import Bundle, ItemTable, write_bundle
from tests.service.toy import (
    DIM,
    MAX_HISTORY,
    N_ITEMS,
    golden_of,
    golden_sum,
    mean_encoder,
    quantised,
    toy_items,
    toy_parts,
    write_toy,
    write_toy_sum,
)

KINDS = ("float32", "int8", "float16", "sum", "int8 sum")


def write_kind(out: Path, kind: str) -> Bundle:
    """Write a toy bundle whose table is of a kind; a sum's counts do not fade between two answers."""
    if kind == "float32":
        return write_toy(out)
    as_of = round(time.time()) + 3600.0
    if kind == "sum":
        return write_toy_sum(out, parts=toy_parts(as_of=as_of))
    table = ItemTable(np.random.default_rng(3).normal(size=(N_ITEMS, DIM)).astype(np.float32))
    table = ItemTable(table.embeddings.astype(np.float16)) if kind == "float16" else quantised(table)
    golden = golden_of(table, [[], [1], [1, 2, 3, 4, 5, 6, 2]])
    if kind == "int8 sum":
        table = replace(table, parts=toy_parts(as_of=as_of))
        golden = [golden_sum(table, [1], as_of + 5, 60.0), golden_sum(table, [], as_of, None, {3: 9.0})]
    manifest = {"created_at": "2026-01-01T00:00:00+00:00", "max_history": MAX_HISTORY, "repeat_consumption": True}
    return write_bundle(out, encoder=mean_encoder(), table=table, items=toy_items(), golden=golden, manifest=manifest)


def questions(seed: int, n_questions: int, ids: Sequence[str], *, has_trend: bool = False) -> Iterator[dict[str, Any]]:
    """Yield random requests, also with an id that nobody knows. has_trend: whether scores have one."""
    rng = random.Random(seed)
    known = [*ids, "unknown"]
    for _ in range(n_questions):
        asked = {"history": rng.choices(known, k=rng.choice([0, 1, 2, 3, 12, 200])), "k": rng.choice([1, 5, 10, 200])}
        if rng.random() < 0.3:
            asked["exclude"] = rng.choices(known, k=rng.choice([1, 4, 500]))
        if rng.random() < 0.3:
            asked["candidates"] = rng.choices(known, k=rng.choice([1, 6, 500]))
        if rng.random() < 0.5:
            asked["exclude_seen"] = rng.random() < 0.5
        if has_trend and rng.random() < 0.4:
            asked["trend"] = rng.choice([0, 0.3, 1, 2.5, 10])
        yield asked


def assert_same(answer: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Two answers are the same, but for the order of items whose scores tie, and for what is of the moment."""
    scores = {item["item_id"]: item["score"] for item in answer["items"]}
    wanted = {item["item_id"]: item["score"] for item in expected["items"]}
    near = 1e-4 * max([0.1, *map(abs, wanted.values())])
    assert list(scores.values()) == pytest.approx(list(wanted.values()), abs=near)
    for item_id in scores.keys() & wanted.keys():
        assert scores[item_id] == pytest.approx(wanted[item_id], abs=near)
    for item_id in scores.keys() ^ wanted.keys():  # one that ties with the last may stand in its place
        assert scores.get(item_id, wanted.get(item_id)) == pytest.approx(min(wanted.values()), abs=near)
    for field in ("quality", "ignored_ids", "model_version"):
        assert answer[field] == expected[field]
    if "funnel" in answer:  # the edge build has none
        assert answer["funnel"] == expected["funnel"]
    assert answer.keys() - {"funnel"} == expected.keys() - {"funnel"}
