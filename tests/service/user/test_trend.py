"""How events are counted: by the rules of training, and against what can be made up."""

import math
from collections import defaultdict

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle import TrendRule
from service.user.trend import KEPT_WINDOWS, TrendCounter

NOW = 1_000_000_000.0
HALF_LIFE_S = 1000.0
RULE = TrendRule(HALF_LIFE_S, 0.05, NOW - 5000)
N_ITEMS = 6
VETERANS = [f"v{number}" for number in range(40)]


class Rows:
    """Items i0, i1, ..."""

    def __init__(self) -> None:
        self.item_ids = [f"i{row}" for row in range(N_ITEMS)]

    def find_row(self, item_id: str) -> int | None:
        """As Rows says."""
        return self.item_ids.index(item_id) if item_id in self.item_ids else None


def counter(bundle: float = 0.0, rule: TrendRule = RULE) -> TrendCounter:
    """A counter for users of whom the veterans are known for long, though they did nothing with any item."""
    made = TrendCounter(rule, np.full(N_ITEMS, bundle, dtype=np.float32), Rows(), NOW)
    long_ago = NOW - 2 * HALF_LIFE_S
    made.count([entry(user, "elsewhere", long_ago, number) for number, user in enumerate(VETERANS)], NOW)
    return made


def entry(user: str, item: str, arrived: float, number: int = 0, **fields) -> tuple[bytes, bytes]:
    event = {"user_id": user, "item_id": item, "timestamp": arrived, **fields}
    return b"%d-%d" % (round(arrived * 1000), number), orjson.dumps(event)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(VETERANS[:4]),
        st.integers(0, N_ITEMS),
        st.floats(NOW - 4500, NOW),
        st.floats(-3000, 1000),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(EVENTS, st.floats(0, 3000))
def test_counts_are_those_of_the_formula(events, later) -> None:
    """Late, doubled and future events of users who are known."""
    made, rule = counter(bundle=3.0), RULE
    events = sorted(events, key=lambda each: each[2])
    entries = [
        entry(user, f"i{row}", arrived, number + 1, timestamp=arrived + shift)
        for number, (user, row, arrived, shift) in enumerate(events)
    ]

    for start in range(0, len(entries), 7):
        made.count(entries[start : start + 7], NOW)
        made.count(entries[start : start + 7], NOW)  # repeats drop out

    expected, counted = np.full(N_ITEMS, 3.0 * rule.fade(later)), set()
    for user, row, arrived, shift in events:
        at = min(arrived + shift, arrived)
        key = (user, row, math.floor(at / HALF_LIFE_S))
        if row < N_ITEMS and at > RULE.as_of and key not in counted:
            counted.add(key)
            expected[row] += rule.fade(NOW + later - at)
    assert np.allclose(made.counts(NOW + later), expected, rtol=1e-4, atol=1e-3)


def test_event_of_the_future_counts_at_its_arrival() -> None:
    made = counter()

    made.count([entry(VETERANS[0], "i0", NOW, timestamp=NOW + 300)], NOW)

    assert made.counts(NOW)[0] == pytest.approx(1.0)
    assert made.counts(NOW + HALF_LIFE_S)[0] == pytest.approx(0.5)


def test_what_is_no_event_is_passed_over() -> None:
    made = counter()
    odd = [
        b"", b"{", b"[]", b"null", b'{"user_id": 1, "item_id": "i0", "timestamp": 1}',
        b'{"user_id": "u", "item_id": "i0", "timestamp": "x"}', b'{"user_id": "u", "item_id": "i0", "timestamp": 1e99}',
        b'{"user_id": "u", "item_id": "i0", "timestamp": 1e9, "source": 5}',
    ]  # fmt: skip

    made.count([(b"%d-0" % (NOW * 1000), event) for event in odd], NOW)

    assert not made.counts(NOW).any()


def test_very_late_event_does_not_count_and_so_cannot_be_repeated_for_ever() -> None:
    made = TrendCounter(TrendRule(HALF_LIFE_S, 0.05, 0), np.zeros(N_ITEMS, np.float32), Rows(), NOW)
    old = [NOW - (KEPT_WINDOWS + back) * HALF_LIFE_S for back in range(2, 50)]

    made.count([entry("u", "i0", NOW, number, timestamp=at) for number, at in enumerate(old)], NOW)

    assert made.counts(NOW)[0] == 0


@pytest.mark.parametrize("n_fakes", [10, 100])
def test_made_up_users_count_as_the_square_root_of_their_number(n_fakes: int) -> None:
    made = counter()

    made.count([entry(f"fake{n}", "i0", NOW, n) for n in range(n_fakes)], NOW)

    assert made.counts(NOW)[0] == pytest.approx(math.sqrt(n_fakes), rel=0.01)


def test_new_users_count_in_full_where_others_are_too() -> None:
    made = counter()
    made.count([entry(user, "i0", NOW, n) for n, user in enumerate(VETERANS)], NOW)

    made.count([entry(f"new{n}", "i0", NOW, 100 + n) for n in range(20)], NOW)

    assert made.counts(NOW)[0] == pytest.approx(len(VETERANS) + 20)


def test_nobody_becomes_known_by_claiming_to_have_been_there_earlier() -> None:
    made = counter()
    early = [entry(f"fake{n}", "i5", NOW, n, timestamp=NOW - 3000) for n in range(30)]

    made.count([*early, *(entry(f"fake{n}", "i0", NOW, 100 + n) for n in range(30))], NOW)

    assert made.counts(NOW)[0] == pytest.approx(math.sqrt(30), rel=0.01)


def test_who_was_there_for_a_while_is_known() -> None:
    made, later = counter(), NOW + HALF_LIFE_S + 1
    made.count([entry(f"u{n}", "i5", NOW, n) for n in range(30)], NOW)

    made.count([entry(f"u{n}", "i0", later, n) for n in range(30)], later)

    assert made.counts(later)[0] == pytest.approx(30)


def test_small_key_cannot_lift_an_item_alone() -> None:
    made = counter()
    by_row = [
        entry(user, f"i{row}", NOW, 100 * row + n, source="big") for n, user in enumerate(VETERANS) for row in (1, 2)
    ]
    made.count(by_row, NOW)

    made.count([entry(user, "i0", NOW, 900 + n, source="small") for n, user in enumerate(VETERANS)], NOW)

    assert made.counts(NOW)[1] == pytest.approx(len(VETERANS))
    assert made.counts(NOW)[0] == pytest.approx(1.0, abs=0.01)
    masses = made.masses()
    assert masses["big"] == pytest.approx(80)
    assert masses["small"] == pytest.approx(1.0, abs=0.01)


def test_small_key_counts_beside_others() -> None:
    made = counter()
    made.count([entry(user, "i1", NOW, n, source="big") for n, user in enumerate(VETERANS)], NOW)

    made.count([entry(user, "i1", NOW, 900 + n, source="small") for n, user in enumerate(["a", "b", "c"])], NOW)

    assert made.counts(NOW)[1] == pytest.approx(len(VETERANS) + 3)


def test_only_key_is_not_bounded_by_itself() -> None:
    made = counter()

    made.count([entry(user, "i0", NOW, n, source="one") for n, user in enumerate(VETERANS)], NOW)

    assert made.counts(NOW)[0] == pytest.approx(len(VETERANS))


def test_another_process_goes_on_where_the_first_one_was() -> None:
    first, entries = counter(bundle=2.0), [entry(user, "i0", NOW, n) for n, user in enumerate(VETERANS)]
    fakes = [entry(f"fake{n}", "i1", NOW, 100 + n) for n in range(9)]
    first.count([*entries, *fakes], NOW)
    described = orjson.loads(orjson.dumps(first.describe()))
    second = counter(bundle=1.0)

    second.restore(described, NOW + 10)
    more = [
        entry(VETERANS[0], "i0", NOW + 20),
        entry(VETERANS[0], "i3", NOW + 20, 1),
        entry("fake20", "i1", NOW + 20, 2),
    ]
    for made in (first, second):
        made.count([*entries, *fakes, *more] if made is second else more, NOW + 20)

    assert np.allclose(first.counts(NOW + 20), second.counts(NOW + 20), atol=1e-3)
    assert first.counts(NOW + 20)[3] == pytest.approx(3, abs=0.05)


def test_snapshot_is_not_made_before_all_that_it_counts_was_looked_at() -> None:
    first = counter()
    first.count([entry(VETERANS[0], "i0", NOW)], NOW)
    second = counter()

    second.restore(first.describe(), NOW)

    assert second.describe() is None


@pytest.mark.parametrize(
    "changed",
    [
        {"at": None}, {"at": "x"}, {"at": 1e999}, {"cursor": "x"}, {"cursor": None}, {"items": []},
        {"items": {"i0": 1}},
        {"items": {"i0": [-1, 0]}}, {"items": {"i0": [1e30, 0]}}, {"items": {"i0": [float("nan"), 0]}}, {"sources": 5},
        {"sources": {"a": -1}},
    ],
)  # fmt: skip
def test_snapshot_that_cannot_be_true_is_refused(changed) -> None:
    made = counter(bundle=1.0)
    before = made.counts(NOW).tolist()

    with pytest.raises(ValueError, match=r"trend|invalid|convert"):
        made.restore({**made.describe(), **changed}, NOW)

    assert made.counts(NOW).tolist() == before


def test_very_many_users_and_events_are_counted_once_each() -> None:
    made, seen = counter(), defaultdict(int)
    rng = np.random.default_rng(0)
    users = rng.integers(0, 20_000, size=30_000)
    entries = []
    for number, user in enumerate(users.tolist()):
        seen[user] += 1
        entries.append(entry(f"w{user}", "elsewhere", NOW - 1500, number))
    made.count(entries, NOW)

    made.count([entry(f"w{user}", "i0", NOW, number) for number, user in enumerate(users.tolist())], NOW)

    assert made.counts(NOW)[0] == pytest.approx(len(seen))
