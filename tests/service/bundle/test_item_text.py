"""Features of what is said of an item: the same everywhere, in an order that says what counts most, and bounded."""

from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import MOST_FEATURES, ItemText, hash_text, pad_features

BUCKETS = 1 << 20
ANY = st.text(max_size=60)
TEXTS = st.builds(
    ItemText, st.none() | ANY, st.none() | ANY, st.dictionaries(ANY, st.lists(ANY, max_size=4), max_size=4)
)


def number(feature: str) -> int:
    return 1 + crc32(feature.encode()) % BUCKETS


def test_features_of_a_small_item_are_these() -> None:
    text = ItemText("Oak lamp", "A lamp", {"room": ["Den"], "colour": ["red"]})

    assert hash_text(text, BUCKETS) == [
        number(feature)
        for feature in (
            "acolour=red", "aroom=den", "wred", "wden", "toak", "tlamp", "woak", "wlamp",
            "g<oa", "goak", "gak>", "g<oak", "goak>", "g<la", "glam", "gamp", "gmp>", "g<lam", "glamp", "gamp>",
            "wa", "g<a>",
        )
    ]  # fmt: skip


@given(text=TEXTS, buckets=st.integers(1, 1 << 24))
def test_features_are_different_numbers_in_range(text: ItemText, buckets: int) -> None:
    features = hash_text(text, buckets)

    assert len(set(features)) == len(features) <= MOST_FEATURES
    assert all(1 <= feature <= buckets for feature in features)
    assert features == hash_text(text, buckets)


@pytest.mark.parametrize(
    "text",
    [ItemText(), ItemText("", ""), ItemText(" -- ", "!?"), ItemText(attributes={"genre": []}), ItemText(attributes={})],
)
def test_nothing_said_is_no_features(text: ItemText) -> None:
    assert hash_text(text, BUCKETS) == []


def test_accents_capitals_and_signs_do_not_matter() -> None:
    assert hash_text(ItemText("CAFÉ--Crème!"), BUCKETS) == hash_text(ItemText("cafe creme"), BUCKETS)
    assert hash_text(ItemText("東京"), BUCKETS) != hash_text(ItemText("京都"), BUCKETS)


def test_order_of_attributes_does_not_matter() -> None:
    one, other = {"a": ["x"], "b": ["y"]}, {"b": ["y"], "a": ["x"]}

    assert hash_text(ItemText(attributes=one), BUCKETS) == hash_text(ItemText(attributes=other), BUCKETS)


def test_long_texts_are_cut() -> None:
    words = " ".join(f"word{place}" for place in range(100_000))
    text = ItemText(words, words, {f"name{place}": [words] for place in range(200)})

    assert len(hash_text(text, BUCKETS)) == MOST_FEATURES


def test_lone_surrogates_are_features_too() -> None:
    assert hash_text(ItemText(attributes={"\ud800": ["\udfff"]}), BUCKETS)


def test_padding_stands_on_the_right() -> None:
    assert pad_features([[3, 1], [], [2]]).tolist() == [[3, 1], [0, 0], [2, 0]]
    assert pad_features([[], []]).shape == (2, 1)
    assert pad_features([[5]], 4).tolist() == [[5, 0, 0, 0]]
    assert pad_features([]).dtype == np.int64
