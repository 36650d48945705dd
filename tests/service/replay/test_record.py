"""Records of kept answers: packed and unpacked they are the same, and nothing else is taken for one."""

import json
import math
import zlib
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.replay.record import KeptAnswer, Surroundings, without_times

ids = st.lists(st.text(max_size=8), max_size=5)
answers = st.builds(
    KeptAnswer,
    *[st.text(max_size=8)] * 4,
    at=st.floats(0, 1e10),
    user_id=st.none() | st.text(max_size=8),
    seen=ids,
    hidden=ids,
    last_at=st.floats(0, 1e10) | st.just(math.nan),
    vector=st.none() | st.lists(st.floats(width=32), max_size=4).map(lambda each: np.array(each, dtype=np.float32)),
    level=st.text(max_size=8),
    reasons=ids,
    explore=st.lists(st.integers(0, 1 << 128), max_size=2),
    surroundings=st.text(max_size=8),
    answer=ids.map(lambda found: json.dumps({"items": [{"item_id": each} for each in found], "quality": {}})),
)


def comparable(kept: KeptAnswer) -> dict[str, object]:
    vector = None if kept.vector is None else kept.vector.tobytes()
    return {**asdict(kept), "vector": vector, "last_at": repr(kept.last_at), "explore": list(kept.explore)}


@given(answers)
def test_answer_is_unpacked_as_it_was_packed(kept: KeptAnswer) -> None:
    assert comparable(KeptAnswer.unpack(kept.pack())) == comparable(kept)


@given(ids, st.lists(st.tuples(st.text(max_size=4), st.integers(0, 1 << 53))), st.lists(st.floats(0, 1e9, width=32)))
def test_surroundings_are_unpacked_as_they_were_packed(live: list[str], places: list, counts: list[float]) -> None:
    made = Surroundings(live, places, np.array(counts, dtype=np.float32))

    found = Surroundings.unpack(made.pack())

    assert (found.live_ids, found.places) == (live, places)
    assert np.array_equal(found.counts, made.counts)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b"null", b"not json", b'{"at": 1}', b'{"live_ids": 3, "places": []}', b'{"places": [1]}'],
)
def test_what_is_no_record_is_refused(text: bytes) -> None:
    for kind in (KeptAnswer, Surroundings):
        for packed in (text, zlib.compress(text), zlib.compress(text)[:-3], zlib.compress(text) + b"x"):
            with pytest.raises(ValueError):
                kind.unpack(packed)


def test_record_that_grows_beyond_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        KeptAnswer.unpack(zlib.compress(bytes(65 << 20)))


def test_times_are_left_out() -> None:
    assert without_times(b'{"items":[{"score":0.1}],"took_ms":1.25,"debug":{"x":1}}') == '{"items":[{"score":0.1}]}'
