"""A small world that goes on: the first events train a model, the rest is what users do afterwards."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.training.world import tiny_settings
from training.__main__ import main

N_ITEMS, N_LATER = 40, 5  # items of the first events, and those that come later


@dataclass(frozen=True)
class Lasting:
    """A finished run of the first events, and the later ones as the service accepts them."""

    run: Path
    later: list[dict]


@pytest.fixture(scope="session")
def lasting(tmp_path_factory) -> Lasting:
    """Users walk along a ring of items at the same time; later, some of them meet new items. Look, do not touch."""
    rng, rows = np.random.default_rng(0), []
    for user in range(90):
        item = int(rng.integers(N_ITEMS))
        for step in range(int(rng.integers(8, 20))):
            rows.append((f"u{user}", f"{item:04d}", 1_700_000_000 + 36_000 * step + int(rng.integers(36_000))))
            n_items = N_ITEMS + (N_LATER if step > 9 else 0)
            item = (item + 1) % n_items if rng.random() < 0.9 else int(rng.integers(n_items))
    rows.sort(key=lambda row: (row[2], row[0]))
    cut = int(0.6 * len(rows))
    place = tmp_path_factory.mktemp("lasting")
    with (place / "first.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "item_id", "timestamp"), *rows[:cut]])
    settings = tiny_settings("teacher.epochs=3", "student.epochs=2", "newcomers.epochs=0", "refresh.judged_least=40")
    assert main(["run", "--interactions", str(place / "first.csv"), "--out", str(place / "run"), *settings]) == 0
    later = [dict(zip(("user_id", "item_id", "timestamp"), row, strict=True)) for row in rows[cut:]]
    return Lasting(place / "run", later)
