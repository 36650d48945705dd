"""The log against what libraries may bring into it."""

import io
import logging

import orjson

from service.logs import Log, LogHandler, printable


def test_error_that_quotes_what_is_no_text_is_logged_all_the_same() -> None:
    stream = io.StringIO()
    log = Log(stream=stream)
    logger = logging.Logger("library")
    logger.addHandler(LogHandler(log))
    try:
        raise ValueError("\ud800")
    except ValueError:
        logger.exception("cannot read %s", "\udfff")
    log.close()

    line = orjson.loads(stream.getvalue())

    assert line["message"] == "cannot read \\udfff"
    assert "ValueError: \\ud800" in line["traceback"]


HIDDEN = "\n\x1b\x7f\x85\xad\u200b\u200e\u202e\u2028\u2029\u2066\ufeff\U000e0001"


def test_no_character_that_hides_or_turns_the_text_reaches_the_log_and_none_is_lost() -> None:
    stream = io.StringIO()
    log = Log(stream=stream)

    log.write("info", "request", user_id=f"a{HIDDEN}b", names=[f"é{HIDDEN}"])
    log.close()

    written = stream.getvalue()
    assert written[:-1].isprintable() and written.endswith("\n") and "é" in written
    assert orjson.loads(written)["user_id"] == f"a{HIDDEN}b"
    assert orjson.loads(written)["names"] == [f"é{HIDDEN}"]


def test_log_takes_whatever_it_is_given() -> None:
    stream = io.StringIO()
    log = Log(stream=stream)

    log.write("error", "model_refused", message="\ud800", number=1 << 70, names={"\udfff": ["\ud800", {1, 2}]}, at=b"x")
    log.close()

    line = orjson.loads(stream.getvalue())
    assert line["message"] == "\\ud800"
    assert line["names"]["\\udfff"] == ["\\ud800", [1, 2]]


def test_text_for_a_terminal_is_escaped() -> None:
    assert printable("naïve 🙂 a\x1b[2Jb\u202e\n\ud800") == "naïve 🙂 a\\x1b[2Jb\\u202e\\n\\ud800"
