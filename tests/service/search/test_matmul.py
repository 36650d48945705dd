"""Products with rounded users, against float32's."""

import numpy as np
import pytest

from service.bundle import ItemTable
from service.search.matmul import Int8MatMul, MatMul
from tests.service.search.slow import slow_scores
from tests.service.toy import quantised


@pytest.fixture
def table() -> ItemTable:
    return quantised(ItemTable(np.random.default_rng(5).normal(size=(1000, 384)).astype(np.float32)))


@pytest.fixture
def users() -> np.ndarray:
    return np.random.default_rng(6).normal(size=(40, 384)).astype(np.float32)


def int8_matmul(table: ItemTable) -> Int8MatMul:
    assert table.scales is not None
    return Int8MatMul(np.ascontiguousarray(table.embeddings.T), table.scales)


@pytest.mark.parametrize("most_bytes", [0, 1 << 30], ids=["numpy", "onnxruntime"])
def test_float32_product_is_the_product(
    table: ItemTable, users: np.ndarray, monkeypatch: pytest.MonkeyPatch, most_bytes: int
) -> None:
    monkeypatch.setattr("service.search.matmul._MAX_BYTES", most_bytes)

    found = MatMul(np.ascontiguousarray(table.dense().T)).multiply(users)[0]

    np.testing.assert_allclose(found, slow_scores(table, users), rtol=1e-4, atol=1e-4)


def test_int8_product_overflows_nowhere() -> None:
    """The worst that there is: every product of one sign and full size."""
    table = ItemTable(np.full((64, 2000), 127, dtype=np.int8), np.ones(64, dtype=np.float32))
    table.embeddings[1::2] *= -1
    users = np.full((3, 2000), 2.0, dtype=np.float32)
    users[1] *= -1

    found, _ = int8_matmul(table).multiply(users)

    np.testing.assert_allclose(found, slow_scores(table, users), rtol=2e-4)


def test_int8_product_errs_little(table: ItemTable, users: np.ndarray) -> None:
    scores = slow_scores(table, users)

    found, _ = int8_matmul(table).multiply(users)

    assert np.abs(found - scores).max() < 2e-4 * np.abs(scores).max()


def test_what_int8_product_lost_makes_up_for_its_error(table: ItemTable, users: np.ndarray) -> None:
    found, lost = int8_matmul(table).multiply(users)

    np.testing.assert_allclose(found + lost @ table.dense().T, slow_scores(table, users), rtol=1e-5, atol=1e-4)
