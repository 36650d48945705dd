"""The neighbours' table: cut from a matrix in blocks, chosen on validation."""

import numpy as np
import pytest
import torch

from tests.training.world import write_chain_world
from training.data.interaction_file import Cleaning
from training.data.prepare import prepare
from training.data.prepared import load_prepared
from training.data.split import SplitRule
from training.progress import Progress
from training.teacher import neighbour
from training.teacher.linear_model import LinearModel, Setting
from training.teacher.neighbour import Matrix, choose_table, linear_rows, response_rows, strongest

SETTING = Setting(0.5, 1, 1.0, 10.0, 0.0)


def whole(matrix, n_items):
    """The matrix at once."""
    found = np.zeros((n_items, n_items))
    n_rows = 0
    for rows, columns, block in matrix.blocks:
        found[np.ix_(rows, columns)] = block
        n_rows += len(rows)
    assert n_rows == matrix.n_rows
    return found


def every(array):
    """A matrix in one block."""
    return Matrix(len(array), iter([(np.arange(len(array)), np.arange(len(array)), array)]))


def test_the_strongest_entries_of_a_row_are_kept_with_their_signs():
    blocks = [
        (np.array([0]), np.array([0, 2, 3]), np.array([[0.5, -2.0, 0.0]], np.float32)),
        (np.array([3]), np.array([0, 2, 3]), np.zeros((1, 3), np.float32)),
    ]

    rows, weights = strongest(Matrix(2, iter(blocks)), 4, 2, Progress(is_quiet=True))

    assert rows.tolist() == [[2, 0], [-1, -1], [-1, -1], [-1, -1]]
    assert weights.tolist() == [[-2.0, 0.5], [0, 0], [0, 0], [0, 0]]


def test_a_table_may_be_wider_than_what_a_matrix_covers():
    rows, weights = strongest(
        Matrix(1, iter([(np.array([1]), np.array([2]), np.ones((1, 1), np.float32))])), 3, 2, Progress(is_quiet=True)
    )

    assert rows.tolist() == [[-1, -1], [2, -1], [-1, -1]]
    assert weights.tolist() == [[0, 0], [1, 0], [0, 0]]


def test_a_linear_model_is_cut_in_blocks_of_what_it_covers(monkeypatch):
    monkeypatch.setattr(neighbour, "BLOCK", 1)
    weights = np.array([[1, 2], [3, 4]], dtype=np.float16)

    matrix = linear_rows(LinearModel(weights, np.array([0, 2]), 3, SETTING))

    assert whole(matrix, 3).tolist() == [[1, 0, 2], [0, 0, 0], [3, 0, 4]]


def test_responses_are_what_a_history_of_one_item_adds_to_the_usual():
    def score(rows: torch.Tensor) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[rows[:, -1].numpy()] + 5

    np.testing.assert_allclose(whole(response_rows(score, 3), 3), np.eye(3) - 1 / 3, atol=1e-6)


def test_the_narrowest_good_table_of_a_chain_is_the_next_item(tmp_path):
    out = tmp_path / "prepared"
    prepare(write_chain_world(tmp_path / "chain.csv"), None, out, Cleaning(), SplitRule(), "auto")
    prepared = load_prepared(out)
    number = {item.item_id: row for row, item in enumerate(prepared.items)}
    follows = np.zeros((len(number), len(number)), dtype=np.float32)
    for item_id, row in number.items():
        follows[row, number[f"{(int(item_id) + 1) % len(number):04d}"]] = 1.0

    near, about = choose_table(prepared, every(follows), 10, Progress(is_quiet=True))

    assert near.rows.shape == (len(number), 5)
    assert max(trial["ndcg@10"] for trial in about["trials"]) > 0.5
    assert about["weight"] > 0 and about["depth"] == 10
    assert about["decay"] == pytest.approx(0.5, abs=0.5)
