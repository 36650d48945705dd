"""JSON lines on stderr, written by a thread of their own, so that a slow reader of the log never slows an answer.

The thread looks every FLUSH_S and writes what has gathered at once: waking it for each line cost a busy service a third
of its core. A full queue drops lines and says how many. Faults that repeat are logged at most once a second. Never
logged: bodies, headers, keys. Ids are JSON strings, so that no id can forge a line.
"""

import logging
import sys
import threading
import time
from collections import deque
from typing import Any, TextIO

import orjson

FLUSH_S = 0.05
_MAX_QUEUED = 10_000
_PIPE_BYTES = 4096
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Log:
    """The log of one process. Close it last."""

    def __init__(self, level: str = "info", stream: TextIO | None = None) -> None:
        self._least = _LEVELS[level]
        self._stream = stream or sys.stderr
        self._lines: deque[bytes] = deque()
        self._n_dropped = 0
        self._last_fault: dict[str, float] = {}
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def write(self, level: str, event: str, /, **fields: Any) -> None:
        """Queue one line."""
        if _LEVELS[level] < self._least:
            return
        if len(self._lines) >= _MAX_QUEUED:
            self._n_dropped += 1
            return
        line = {"time": round(time.time(), 3), "severity": level, "event": event, **fields}
        self._lines.append(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))

    def fault(self, event: str, /, **fields: Any) -> None:
        """Write a warning, unless the same event was written within the last second."""
        now = time.monotonic()
        if now - self._last_fault.get(event, -1.0) >= 1.0:
            self._last_fault[event] = now
            self.write("warning", event, **fields)

    def close(self) -> None:
        """Write what is queued and stop."""
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
                self._emit(_take_piece(lines))

    def _emit(self, lines: list[bytes]) -> None:
        try:
            self._stream.write(b"".join(lines).decode())
            self._stream.flush()
        except (OSError, ValueError):
            self._n_dropped += len(lines)  # nobody reads: go on serving


def _take_piece(lines: list[bytes]) -> list[bytes]:
    """Take lines off the front, as many as a pipe takes in one piece, so that no worker's line cuts another's."""
    piece = [lines.pop(0)]
    room = _PIPE_BYTES - len(piece[0])
    while lines and len(lines[0]) <= room:
        room -= len(lines[0])
        piece.append(lines.pop(0))
    return piece


class LogHandler(logging.Handler):
    """Brings the lines of the standard logging module (uvicorn's) into the Log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; tracebacks as one field."""
        level = "error" if record.levelno >= 40 else "warning" if record.levelno >= 30 else "info"
        fields: dict[str, Any] = {"logger": record.name, "message": _printable(record.getMessage())}
        if record.exc_info:
            fields["traceback"] = _printable(logging.Formatter().formatException(record.exc_info))
        self._log.write(level if record.levelno > 20 else "debug", "message", **fields)


def _printable(text: str) -> str:
    """Return text that can be written as UTF-8: an error may quote anything, and must not fail again here."""
    return text.encode("utf-8", "backslashreplace").decode()
