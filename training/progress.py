"""What a person sees of long work: bars on a terminal, plain lines elsewhere, and learning curves.

Everything is printed on stderr, because stdout is for results. Curves are written for TensorBoard where `--tensorboard`
names a directory, and nowhere otherwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from time import monotonic, time
from typing import Any, Protocol
from weakref import finalize

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from training.errors import InputError

LINE_EVERY_S = 15.0  # between two lines of a bar, where there is no terminal


class Log(Protocol):
    """Where learning curves go."""

    def write(self, name: str, step: int, value: float) -> None:
        """Add a value to the curve of that name."""
        ...


class NoLog:
    """A log that keeps nothing."""

    def write(self, name: str, step: int, value: float) -> None:
        """Forget the value."""


class TensorBoardLog:
    """A directory of event files that TensorBoard reads.

    Raises InputError where tensorboardX is not installed or the directory cannot be made. tensorboardX's own
    SummaryWriter is not used: it writes later, from a thread, and loses what is not written when the process exits.
    """

    def __init__(self, directory: Path) -> None:
        try:  # an optional dependency, which only --tensorboard needs
            self._events, self._summary, self._file = (
                import_module(f"tensorboardX.{name}") for name in ("proto.event_pb2", "summary", "event_file_writer")
            )
        except ImportError as exc:
            raise InputError("--tensorboard needs tensorboardX: pip install 'retort[train,tensorboard]'") from exc
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise InputError(f"{directory}: {exc.strerror}; --tensorboard takes a directory") from exc
        self._writer: Any = self._file.EventsWriter(str(directory / "events"))
        finalize(self, self._writer.close)

    def write(self, name: str, step: int, value: float) -> None:
        """Add a value to the curve of that name. It is in the file when this returns."""
        summary = self._summary.scalar(name, value)
        self._writer.write_event(self._events.Event(step=step, wall_time=time(), summary=summary))
        self._writer.flush()


class Bar:
    """The progress of one piece of work. rich: the bar's display on a terminal; None: lines are printed instead."""

    def __init__(self, console: Console, title: str, total: int, rich: RichProgress | None) -> None:
        self._console, self._title, self._total, self._rich = console, title, total, rich
        self._task = rich.add_task(title, total=total, rate="") if rich else None
        self._done = 0
        self._started = self._printed = monotonic()

    def advance(self, count: int) -> None:
        """Count work as done, and show the rate and the time left."""
        self._done = min(self._done + count, self._total)
        rate = self._done / max(monotonic() - self._started, 1e-9)
        if self._rich and self._task is not None:
            self._rich.update(self._task, completed=self._done, rate=f"{rate:,.0f}/s")
        elif monotonic() - self._printed >= LINE_EVERY_S:
            self._printed = monotonic()
            left = f", {(self._total - self._done) / rate:.0f} s left" if self._done else ""  # nobody knows before
            self._console.print(f"  {self._title}: {self._done:,}/{self._total:,}, {rate:,.0f}/s{left}")


class Progress:
    """Prints headings, lines and bars on stderr, and holds the log of learning curves. is_quiet: it prints nothing."""

    def __init__(self, log: Log | None = None, *, is_quiet: bool = False) -> None:
        self.log: Log = log or NoLog()
        self._console = Console(stderr=True, quiet=is_quiet, highlight=False, soft_wrap=True, markup=False)
        self._skipped: set[Path] = set()

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        """Show a bar while the block runs. total: how much its advance() will count."""
        if not self._console.is_terminal:
            yield Bar(self._console, title, total, None)
            return
        rate = TextColumn("{task.fields[rate]}")
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        with RichProgress(*columns, console=self._console, transient=True) as rich:
            yield Bar(self._console, title, total, rich)

    def note(self, line: str) -> None:
        """Print one line below the heading of the stage."""
        self._console.print(f"  {line}")

    def stage(self, name: str, line: str) -> None:
        """Print the heading of a stage."""
        self._console.print(f"[{name}] {line}")

    def skipped(self, out: Path) -> None:
        """Print once that what a stage made is there already. out: its directory."""
        if out not in self._skipped:
            self._skipped.add(out)
            self.stage(out.name, "unchanged, skipped")
