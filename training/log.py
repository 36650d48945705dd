"""Learning curves for TensorBoard, while a training goes on: the only place that knows the writer."""

from importlib import import_module
from pathlib import Path
from time import time
from typing import Any, Protocol
from weakref import finalize

from training.errors import InputError


class Log(Protocol):
    """Where the values of finished epochs go."""

    def write(self, name: str, step: int, value: float) -> None:
        """Note a value of a curve."""
        ...


class NoLog:
    """Keeps nothing."""

    def write(self, name: str, step: int, value: float) -> None:
        """As Log says."""


class TensorBoardLog:
    """Event files that TensorBoard reads, in a directory. Raises InputError.

    The package's own SummaryWriter writes from a thread some time later, and loses what was not written at an exit.
    """

    def __init__(self, directory: Path) -> None:
        try:  # an extra: only those who ask for logs need it
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
        """As Log says; it is in the file when this returns."""
        summary = self._summary.scalar(name, value)
        self._writer.write_event(self._events.Event(step=step, wall_time=time(), summary=summary))
        self._writer.flush()
