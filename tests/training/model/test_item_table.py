"""The item table that a model starts from."""

import numpy as np
import pytest

from training.model.encoder import Size, make_model
from training.model.item_table import TABLE_STD, Start, start_table


def test_table_is_white_keeps_empty_rows_empty_and_fits_any_width():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(200, 12)) * np.arange(1, 13) + 5).astype(np.float32)
    vectors[3] = 0

    table = start_table(vectors, 8, is_frozen=True)
    known = np.delete(table, 3, axis=0)
    covariance = np.cov(known, rowvar=False)

    assert not table[3].any()
    np.testing.assert_allclose(covariance, covariance[0, 0] * np.eye(8), atol=1e-5)
    assert np.linalg.norm(known, axis=1).mean() == pytest.approx(1, rel=1e-5)
    assert not start_table(vectors, 32, is_frozen=False)[:, 12:].any()
    assert np.isfinite(start_table(vectors[:2], 8, is_frozen=False)).all()


def test_a_table_that_learns_has_rows_as_long_as_a_random_ones():
    vectors = np.random.default_rng(0).normal(size=(200, 40)).astype(np.float32)

    table = start_table(vectors, 16, is_frozen=False)

    assert np.linalg.norm(table, axis=1).mean() == pytest.approx(TABLE_STD * 4, rel=1e-5)


@pytest.mark.parametrize("is_unit", [False, True])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_model_starts_from_a_given_table_and_learns_it_unless_it_is_frozen(is_unit, is_frozen):
    table = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)
    size = Size(dim=8, blocks=("pool",), heads=1, dropout=0.0, max_history=4, is_unit=is_unit)

    model = make_model(9, size, seed=1, start=Start(table, is_frozen))

    held = model.items.parametrizations.weight.original if is_unit else model.items.weight
    np.testing.assert_array_equal(held.detach().numpy(), table)
    assert held.requires_grad is not is_frozen
