"""Which items have certain words in their titles: an index of SQLite (FTS5), in memory, made when it is first asked.

All words must be in the title, each whole or as its beginning, without regard to case and accents. Items come in the
order of their popularity. Titles of live items are kept beside those of the bundle, which then count no more.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3  # 1 MB, which service.library does without

MOST_LOOKED_AT = 100_000
"""How many items with the words are looked at, the most popular ones, until enough pass a filter."""
_AT_ONCE, _PAUSE_S = 1000, 0.001
_CREATE = (
    "CREATE VIRTUAL TABLE made USING fts5(title, content='', columnsize=0, tokenize=\"unicode61\")",
    'CREATE VIRTUAL TABLE live USING fts5(title, tokenize="unicode61")',
)
_FIND = "SELECT rowid FROM {} WHERE {} MATCH ? ORDER BY rowid LIMIT ?"


class TitleIndex:
    """The titles of one catalogue. Its methods but note() may be called from any thread, and take their time."""

    def __init__(
        self, rows: Callable[[], Sequence[int]], titles: Callable[[Iterable[int]], Iterable[str | None]]
    ) -> None:
        """rows: of the bundle, the most popular first. titles: those that the bundle gives to rows."""
        self._popular, self._titles = rows, titles
        self._turn = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._rows: Sequence[int] = ()
        self._noted: dict[int, str | None] = {}
        self._changed: set[int] = set()

    def note(self, row: int, title: str | None) -> None:
        """Let a row have another title than the bundle gave it."""
        self._noted[row] = title

    def find(self, text: str) -> Iterator[int]:
        """Yield the rows with all words of a text in their titles, the most popular first, live ones after others."""
        words = ["".join(letter if letter.isalnum() else " " for letter in word).strip() for word in text.split()]
        query = " AND ".join(f'"{part}" *' for word in words for part in word.split())
        if not query:
            return
        with self._turn:
            database = self._database or self._make()
            self._take_noted(database)
            made = [number for (number,) in database.execute(_FIND.format("made", "made"), (query, MOST_LOOKED_AT))]
            live = [row for (row,) in database.execute(_FIND.format("live", "live"), (query, MOST_LOOKED_AT))]
            changed = set(self._changed)
        yield from (row for number in made if (row := self._rows[number]) not in changed)
        yield from live

    def _make(self) -> "sqlite3.Connection":
        """Index the titles of the bundle, with pauses in which other threads run."""
        database: sqlite3.Connection = import_module("sqlite3").connect(
            ":memory:", check_same_thread=False, isolation_level=None
        )
        for statement in _CREATE:
            database.execute(statement)
        self._rows = self._popular()
        for first in range(0, len(self._rows), _AT_ONCE):
            titles = self._titles(self._rows[first : first + _AT_ONCE])
            database.execute("BEGIN")
            database.executemany(
                "INSERT INTO made(rowid, title) VALUES (?, ?)",
                [(number, _whole(title)) for number, title in enumerate(titles, first) if title],
            )
            database.execute("COMMIT")
            time.sleep(_PAUSE_S)
        self._database = database
        return database

    def _take_noted(self, database: "sqlite3.Connection") -> None:
        while self._noted:
            row, title = self._noted.popitem()  # in one step, because note() is called by another thread
            database.execute("DELETE FROM live WHERE rowid = ?", (row,))
            self._changed.add(row)
            if title:
                database.execute("INSERT INTO live(rowid, title) VALUES (?, ?)", (row, _whole(title)))


def _whole(title: str) -> str:
    """Return a title without lone surrogates, which are no text to SQLite."""
    return title.encode("utf-8", "replace").decode()
