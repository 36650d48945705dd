"""What servers say, in a log: their own words, bounded, printable, without passwords, addresses and users."""

import ssl

import pytest
from redis import exceptions

from service.store.words import MAX_WORDS, printable, words_of


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (exceptions.ResponseError("WRONGTYPE Operation against a key"), "WRONGTYPE Operation against a key"),
        (
            exceptions.ClusterCrossSlotError("Keys in request don't hash to the same slot", status_code="CROSSSLOT"),
            "CROSSSLOT Keys in request don't hash to the same slot",
        ),
        (
            exceptions.ResponseError("ERR unknown command 'X', with args beginning with: 'retort:{anna}:h' 'i1' "),
            "ERR unknown command 'X'",
        ),
        (
            exceptions.NoPermissionError("No permissions to access the 'retort:{anna}:h' key", status_code="NOPERM"),
            "NOPERM No permissions to access the 'retort:{...}:h' key",
        ),
        (
            exceptions.ResponseError("Command # 1 (ZADD retort:{anna}:h i1) of pipeline caused error: OOM full"),
            "OOM full",
        ),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (TimeoutError(), ""),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "TLS failed: no reason given"),
    ],
)  # fmt: skip
def test_error_is_told_in_the_words_of_the_server_or_the_system(exc: Exception, expected: str) -> None:
    assert words_of(exc) == expected


def test_address_that_could_not_be_reached_is_not_told() -> None:
    try:
        try:
            raise ConnectionRefusedError(111, "Connect call failed ('10.1.2.3', 6379)")
        except OSError as cause:
            raise exceptions.ConnectionError("Error 111 connecting to secret-host:6379") from cause
    except exceptions.ConnectionError as exc:
        said = words_of(exc)

    assert "secret-host" not in said


def test_secret_that_the_server_repeats_is_taken_out() -> None:
    said = words_of(exceptions.ResponseError("ERR wrong password hunter2!"), ["hunter2!"])

    assert said == "ERR wrong password ***"


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[31mb", "a\u2028b", "a\u202eb", "a\x00b", "a\udc80b"])
def test_what_is_no_letter_or_sign_becomes_an_escape(text: str) -> None:
    said = printable(text)

    assert said.isprintable() and said.startswith("a\\") and said.endswith("b")


def test_a_long_text_is_cut() -> None:
    assert len(words_of(exceptions.ResponseError("ERR " + "\n" * (10 << 20)))) <= 2 * MAX_WORDS
