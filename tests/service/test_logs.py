"""The log against what libraries may bring into it."""

import io
import logging

import orjson

from service.logs import Log, LogHandler


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
