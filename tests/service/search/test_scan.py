"""Scanning a table in blocks gives what the whole table gives."""

from collections.abc import Callable

import numpy as np
import pytest

from service.bundle import ItemTable
from service.search.scan import read_blocks, scan_best, scan_scores
from tests.service.search.slow import draw_users, slow_best, slow_scores, with_biases
from tests.service.toy import quantised


@pytest.mark.parametrize("change", [lambda table: table, quantised, with_biases], ids=["float32", "int8", "biases"])
def test_blocks_together_are_the_table(
    change: Callable[[ItemTable], ItemTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.search.scan.BLOCK_ROWS", 64)
    table, users = change(ItemTable(draw_users(500, seed=2))), draw_users(3)

    np.testing.assert_array_equal(np.concatenate([block for _, block in read_blocks(table)]), table.dense())
    np.testing.assert_allclose(scan_scores(table, users), slow_scores(table, users), rtol=1e-5, atol=1e-5)
    assert scan_best(table, users, 20).tolist() == [slow_best(table, user, 20) for user in users]
