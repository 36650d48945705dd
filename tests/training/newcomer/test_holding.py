"""Items that are held out whole: no event of them is left, and each of their later events is asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.newcomer.shop import N_ITEMS, make_shop
from training.data.split import TRAIN
from training.newcomer.holding import hold_items

SHOP = make_shop()


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0.0, 1.0), seed=st.integers(0, 100))
def test_what_is_left_has_all_other_events_and_no_more(share: float, seed: int) -> None:
    held = hold_items(SHOP, share, seed)

    assert 1 <= len(held.rows) < N_ITEMS
    assert sorted([*held.rows, *held.known_rows]) == list(range(N_ITEMS))
    left = [
        (user, row, ms, part)
        for user, row, ms, part in zip(SHOP.user, SHOP.item, SHOP.timestamp_ms, SHOP.part, strict=True)
        if row not in set(held.rows.tolist())
    ]
    known = held.known
    assert left == list(zip(known.user, held.known_rows[known.item], known.timestamp_ms, known.part, strict=True))
    assert [item.item_id for item in known.items] == [f"i{row}" for row in held.known_rows]


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0.05, 0.9), seed=st.integers(0, 100))
def test_each_request_knows_the_users_earlier_events_of_known_items(share: float, seed: int) -> None:
    held = hold_items(SHOP, share, seed)
    places = [place for place in range(len(SHOP.item)) if SHOP.item[place] in held.rows and SHOP.part[place] != TRAIN]

    question = held.ask()

    assert question.users.tolist() == [SHOP.user[place] for place in places]
    assert held.rows[question.target].tolist() == [SHOP.item[place] for place in places]
    histories = question.histories(np.arange(len(places)))
    for place, history in zip(places, histories, strict=True):
        before = [
            row for user, row in zip(SHOP.user[:place], SHOP.item[:place], strict=True) if user == SHOP.user[place]
        ]
        assert held.known_rows[history].tolist() == [row for row in before if row not in held.rows]


def test_all_requests_have_no_target_when_their_item_is_known() -> None:
    held = hold_items(SHOP, 0.25)

    question = held.ask_all(10_000)

    later = SHOP.item[SHOP.part != TRAIN]
    expected = [held.rows.tolist().index(row) if row in held.rows else -1 for row in later]
    assert question.target.tolist() == expected
    assert len(held.ask_all(7).users) == 7


def test_equal_seeds_hold_out_the_same_items() -> None:
    assert hold_items(SHOP, 0.3, 4).rows.tolist() == hold_items(SHOP, 0.3, 4).rows.tolist()
    assert hold_items(SHOP, 0.3, 4).rows.tolist() != hold_items(SHOP, 0.3, 5).rows.tolist()


def test_share_is_kept() -> None:
    assert len(hold_items(SHOP, 0.25).rows) == pytest.approx(0.25 * N_ITEMS)
