"""Searching by the obvious formula, and users to search for."""

from collections.abc import Collection

import numpy as np

from service.bundle import ItemTable
from tests.service.toy import DIM


def draw_users(n_users: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_users, DIM)).astype(np.float32)


def slow_scores(table: ItemTable, users: np.ndarray) -> np.ndarray:
    scores = users @ table.dense().T
    return scores if table.biases is None else scores + table.biases


def slow_best(table: ItemTable, user: np.ndarray, k: int, masked: Collection[int] = ()) -> list[int]:
    scores = slow_scores(table, user)
    allowed = [row for row in range(len(scores)) if row not in set(masked)]
    return sorted(allowed, key=lambda row: (-scores[row], row))[:k]


def with_biases(table: ItemTable) -> ItemTable:
    biases = np.random.default_rng(3).normal(size=len(table.embeddings)).astype(np.float32)
    return ItemTable(table.embeddings, table.scales, biases)
