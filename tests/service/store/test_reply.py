"""Replies: flat lists as what they stand for, errors as kinds, and a key of another type as nothing."""

import pytest
from redis import exceptions

from service.errors import StoreError
from service.store import reply
from service.store.connection import ConnectionFullError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.ResponseError("WRONGTYPE Operation against a key"), "wrongtype"),
        (exceptions.ResponseError("OOM command not allowed"), "oom"),
        (exceptions.ResponseError("ERR script: WRONGTYPE the event stream"), "wrongtype"),
        (exceptions.ResponseError("ERR unknown command"), "other"),
        (exceptions.NoScriptError("NOSCRIPT no"), "noscript"),
        (exceptions.ConnectionError("gone"), "connection"), (ConnectionResetError(), "connection"),
        (TimeoutError(), "timeout"), (ConnectionFullError(), "pool_exhausted"), (AttributeError("x"), "other"),
    ],
)  # fmt: skip
def test_errors_are_named_by_the_server_s_prefix_and_else_by_their_class(error: Exception, kind: str) -> None:
    assert reply.kind_of(error) == kind


def test_flat_lists_are_read_as_what_they_stand_for() -> None:
    assert reply.read_scores([b"a", b"1", b"b", b"2.5"]) == [(b"a", b"1"), (b"b", b"2.5")]
    assert reply.read_hash([b"name", b"value"]) == {b"name": b"value"}
    assert reply.read_entries([[b"1-0", [b"event", b"{}"]]]) == [(b"1-0", {b"event": b"{}"})]
    assert reply.read_info(b"# Memory\r\nused_memory:7\r\n\r\nrole:master\r\n") == {
        "used_memory": "7",
        "role": "master",
    }
    assert reply.read_time([b"10", b"250000"]) == 10.25


def test_key_of_another_type_is_as_good_as_none_and_other_errors_are_raised() -> None:
    assert reply.unless_wrong_type([b"a"], []) == [b"a"]
    assert reply.unless_wrong_type(StoreError("wrongtype"), []) == []
    with pytest.raises(StoreError, match="connection"):
        reply.unless_wrong_type(StoreError("connection"), [])
