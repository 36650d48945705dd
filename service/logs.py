"""The log: lines of JSON on stderr, written by a thread of its own, so that a slow reader never slows an answer.

Every 50 ms the thread writes what has gathered since (tests/bench/README.md, "The log is written in batches"). If too
much has gathered, lines are dropped, and how many is logged. Bodies, headers and keys are never logged. All texts are
written as JSON strings in which every character that does not print is escaped: no id can pose as a line of its own,
turn the direction of what follows it, or hide.
"""

import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import orjson

FLUSH_S = 0.05
_MAX_QUEUED = 10_000
_PIPE_BYTES = 4096
"""The most that is written to a pipe in one go: the lines of several workers never mix within a line."""
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Log:
    """The log of one process. Whoever opens it closes it, last of all."""

    def __init__(self, level: str = "info", stream: TextIO | None = None) -> None:
        """level: the least severe level that is written, a key of _LEVELS. stream: stderr if none is given."""
        self._least = _LEVELS[level]
        self._stream = stream or sys.stderr
        self._lines: deque[bytes] = deque()
        self._n_dropped = 0
        self._last_fault: dict[str, float] = {}
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def write(self, level: str, event: str, /, **fields: Any) -> None:
        """Queue a line. level: debug, info, warning or error. fields: whatever orjson or str() can write."""
        if _LEVELS[level] < self._least:
            return
        if len(self._lines) >= _MAX_QUEUED:
            self._n_dropped += 1
            return
        self._lines.append(_as_line({"time": round(time.time(), 3), "severity": level, "event": event, **fields}))

    def fault(self, event: str, /, **fields: Any) -> None:
        """Queue a warning, unless one of the same event was queued within the last second."""
        now = time.monotonic()
        if now - self._last_fault.get(event, -1.0) >= 1.0:
            self._last_fault[event] = now
            self.write("warning", event, **fields)

    def close(self) -> None:
        """Write what is queued and end the thread; give up after 5 s if nobody reads."""
        self._is_closing.set()
        self._thread.join(timeout=5)

    def _write(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._is_closing.wait(FLUSH_S)
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if self._n_dropped:
                dropped, self._n_dropped = self._n_dropped, 0
                lines.append(orjson.dumps({"severity": "warning", "event": "log_lines_dropped", "n": dropped}) + b"\n")
            while lines:
                self._emit(_take_some(lines))

    def _emit(self, lines: list[bytes]) -> None:
        try:
            self._stream.write(b"".join(lines).decode())
            self._stream.flush()
        except (OSError, ValueError):
            self._n_dropped += len(lines)  # the reader is gone: go on serving


def _take_some(lines: list[bytes]) -> list[bytes]:
    """Remove lines from the front and return them: as many as a pipe takes at once, and at least one."""
    taken = [lines.pop(0)]
    room = _PIPE_BYTES - len(taken[0])
    while lines and len(lines[0]) <= room:
        room -= len(lines[0])
        taken.append(lines.pop(0))
    return taken


class LogHandler(logging.Handler):
    """Passes records of the standard logging module, which uvicorn uses, to a Log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; a traceback is one field of its line. Records of level INFO are queued as debug."""
        level = "error" if record.levelno >= 40 else "warning" if record.levelno >= 30 else "info"
        fields: dict[str, Any] = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            fields["traceback"] = logging.Formatter().formatException(record.exc_info)
        self._log.write(level if record.levelno > 20 else "debug", "message", **fields)


@contextmanager
def counted_bugs(count: Callable[[], None]) -> Iterator[None]:
    """Count what is logged as an error by the standard logging module: nobody foresaw it. count: called once for each.

    That is what our borders log, asyncio of a task or a callback that nobody looks at, and uvicorn.
    """

    class Counting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            count()

    handler = Counting(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def printable(text: str) -> str:
    """Return a text for a terminal: what does not print, and would act on the terminal or hide, is escaped."""
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _as_line(fields: dict[str, Any]) -> bytes:
    """Return a line of JSON. Whatever the fields are, it can be written: a log that fails would end what logs."""
    try:
        line = orjson.dumps(fields, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a lone surrogate, or a number of more than 64 bits
        line = orjson.dumps(_plain(fields), option=orjson.OPT_APPEND_NEWLINE)
    if line.isascii() and b"\x7f" not in line:
        return line
    text = line.decode()
    if text[:-1].isprintable():
        return line
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(str(name)): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()
