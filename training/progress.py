"""What a person sees of long work: a bar with rate and time left on a terminal, plain lines otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from training.log import Log, NoLog

LINE_EVERY_S = 15.0


class Bar:
    """One piece of work being counted."""

    def __init__(self, console: Console, title: str, total: int, rich: RichProgress | None) -> None:
        self._console, self._title, self._total, self._rich = console, title, total, rich
        self._task = rich.add_task(title, total=total, rate="") if rich else None
        self._done = 0
        self._started = self._printed = monotonic()

    def advance(self, count: int) -> None:
        """Count work done."""
        self._done += count
        rate = self._done / max(monotonic() - self._started, 1e-9)
        if self._rich and self._task is not None:
            self._rich.update(self._task, completed=self._done, rate=f"{rate:,.0f}/s")
        elif monotonic() - self._printed >= LINE_EVERY_S:
            self._printed = monotonic()
            left = (self._total - self._done) / rate
            self._console.print(f"  {self._title}: {self._done:,}/{self._total:,}, {rate:,.0f}/s, {left:.0f} s left")


class Progress:
    """Where bars and lines go: stderr, so that stdout keeps results."""

    def __init__(self, log: Log | None = None) -> None:
        self.log: Log = log or NoLog()
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        """Open a bar for total pieces of work."""
        if not self._console.is_terminal:
            yield Bar(self._console, title, total, None)
            return
        rate = TextColumn("{task.fields[rate]}")
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        with RichProgress(*columns, console=self._console, transient=True) as rich:
            yield Bar(self._console, title, total, rich)

    def note(self, line: str) -> None:
        """Print one line."""
        self._console.print(f"  {line}")

    def stage(self, name: str, line: str) -> None:
        """Print the heading of a stage."""
        self._console.print(f"[{name}] {line}")
