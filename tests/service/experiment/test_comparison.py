from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.experiment.comparison import overlap, rank_correlation

LISTS = st.lists(st.sampled_from([f"i{row}" for row in range(30)]), max_size=20, unique=True)


@pytest.mark.parametrize(
    ("one", "other", "share", "tau"),
    [
        ("abcd", "abcd", 1.0, 1.0),
        ("abcd", "dcba", 1.0, -1.0),
        ("abcd", "abdc", 1.0, 4 / 6),
        ("abcd", "efgh", 0.0, None),
        ("abcd", "axyz", 0.25, None),
        ("abcd", "ba", 0.5, -1.0),
        ("", "", 1.0, None),
        ("", "a", 0.0, None),
    ],
)
def test_lists_worked_out_by_hand(one, other, share, tau):
    assert overlap(list(one), list(other)) == share
    assert rank_correlation(list(one), list(other)) == (tau if tau is None else pytest.approx(tau))


@given(LISTS, LISTS)
def test_correlation_is_that_of_counting_every_pair(one, other):
    common = [item for item in one if item in other]
    pairs = list(combinations(common, 2))
    same = sum(other.index(before) < other.index(after) for before, after in pairs)

    tau = rank_correlation(one, other)

    assert tau == (pytest.approx((same - (len(pairs) - same)) / len(pairs)) if pairs else None)
    assert 0 <= overlap(one, other) == overlap(other, one) <= 1
