"""Learning curves for TensorBoard: what is written, and what is refused."""

import pytest

from training import progress
from training.errors import InputError
from training.progress import NoLog, Progress, TensorBoardLog

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


def read_values(directory):
    """Every (name, step, value) in the event files of a directory."""
    values = []
    for path in directory.iterdir():
        data = path.read_bytes()
        while data:  # records: length (8 bytes), its checksum (4), the event, its checksum (4)
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            values += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return values


def test_values_are_in_the_file_as_soon_as_they_are_written(tmp_path):
    log = TensorBoardLog(tmp_path / "log")

    log.write("student/alone/loss", 1, 2.5)
    log.write("student/alone/loss", 2, 1.5)

    assert read_values(tmp_path / "log") == [("student/alone/loss", 1, 2.5), ("student/alone/loss", 2, 1.5)]


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(InputError, match="--tensorboard takes a directory"):
        TensorBoardLog(tmp_path / "file")


def test_without_a_log_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    NoLog().write("loss", 1, 2.0)

    assert list(tmp_path.iterdir()) == []


def test_a_bar_that_counts_nothing_for_long_says_no_time_left(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)

    with Progress().bar("bytes read", 1_000) as bar:
        bar.advance(0)
        bar.advance(500)

    first, second = capsys.readouterr().err.splitlines()
    assert first == "  bytes read: 0/1,000, 0/s"
    assert second.startswith("  bytes read: 500/1,000, ") and second.endswith(" s left")
