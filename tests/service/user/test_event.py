"""Events as the store keeps them: what is written reads back, and what is not ours is refused."""

from hypothesis import given
from hypothesis import strategies as st

from service.bundle import tie_hash
from service.user.event import StoredEvent, read_member

ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128)


@given(ids, st.one_of(st.none(), ids), st.integers(0, 10**14))
def test_member_reads_back(item_id: str, event_id: str | None, timestamp_ms: int) -> None:
    event = StoredEvent("u", item_id, timestamp_ms, event_id)

    assert read_member("u", event.member) == (item_id, event_id if event_id is not None else str(timestamp_ms))


@given(st.binary(max_size=2000))
def test_any_bytes_as_a_member_are_read_or_refused(member: bytes) -> None:
    found = read_member("u", member)

    assert found is None or tie_hash("u", found[0]) == member[:4]
