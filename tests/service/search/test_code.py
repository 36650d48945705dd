"""What is coded of the items, and what is not."""

from pathlib import Path

import numpy as np

from service.search.code import CodeBuilder, Codes, open_codes
from tests.service.search.slow import draw_users
from tests.service.toy import DIM

N_ITEMS = 5000


def make_codes(items: np.ndarray, users: np.ndarray) -> Codes:
    builder = CodeBuilder(users, items, dims_per_code=2, n_lists=16)
    builder.add(items)
    return builder.finish()


def test_directions_in_which_items_hardly_differ_are_not_coded() -> None:
    items, users = draw_users(N_ITEMS, seed=4), draw_users(50)
    items[:, DIM // 2 :] *= 0.01

    codes = make_codes(items, users)

    assert codes.n_bytes < make_codes(draw_users(N_ITEMS), users).n_bytes
    for scores, nearest in zip(users @ items.T, codes.nearest(users, 500, is_thorough=True), strict=True):
        assert len(set(np.argsort(-scores)[:100]) & set(nearest)) >= 99


def test_opened_codes_find_what_the_saved_ones_find(tmp_path: Path) -> None:
    codes, users = make_codes(draw_users(N_ITEMS), draw_users(50)), draw_users(5, seed=2)
    codes.share = 0.5

    codes.save(tmp_path)
    opened = open_codes(tmp_path)

    assert (len(opened), opened.share) == (N_ITEMS, 0.5)
    np.testing.assert_array_equal(opened.nearest(users, 200), codes.nearest(users, 200))


def test_thorough_search_looks_at_all_lists_once() -> None:
    codes, users = make_codes(draw_users(N_ITEMS), draw_users(50)), draw_users(5, seed=2)
    codes.share = 0.1

    assert (codes.nearest(users, N_ITEMS, is_thorough=True) >= 0).all()
    assert (codes.nearest(users, N_ITEMS) < 0).any()
