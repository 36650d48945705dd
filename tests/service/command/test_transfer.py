"""import and export: memory stays bounded whatever the file is, and what is written is safe to open and private."""

import csv
import gzip
import json
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from service.child import python_module
from service.store.embedded import socket_path
from tests.service.running import Running, clean_environment, run_command

HEAD = b"user_id,item_id,timestamp\n"
LONG, PIECE = 200 << 20, 5 << 20
BOMBS = {
    "line.jsonl.gz": (b'{"user_id": "', b"a"),
    "field.csv.gz": (HEAD, b"a"),
    "quoted.csv.gz": (HEAD + b'"', b"a\n"),
    "fields.csv.gz": (HEAD, b","),
    "row.csv.gz": (HEAD, b'"a\n",'),
    "header.csv.gz": (b"", b'"a\n",'),
    "blank.jsonl.gz": (b"", b" "),
    "deep.jsonl.gz": (b"", b"["),
    "empty.jsonl.gz": (b"", b"\n"),
    "empty.csv.gz": (HEAD, b"\r\n"),
}
"""Files that are small, and would fill the memory or take minutes if all of a line, a row or the file were read.

Each has a beginning, and what is repeated after it for 200 MB."""
CELLS = ["=1+1", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "'=1"]
PLAIN = ["-5", "+7.25", "a=b", "'quoted'"]


def import_bounded(path: Path, data_dir: Path, url: str) -> "subprocess.CompletedProcess[str]":
    """Import with so much memory as the command needs for any good file."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (400 << 20, 400 << 20))

    return subprocess.run(
        [sys.executable, "-m", "service", "import", str(path), "--data-dir", str(data_dir)],
        env=clean_environment({"redis_url": url}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=bound,  # of a test that has no thread
    )


def url_of(service: Running) -> str:
    return f"unix://{socket_path(service.data_dir)}"


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_cannot_fill_the_memory(tmp_path: Path, shared_service: Running, name: str) -> None:
    begin, repeated = BOMBS[name]
    piece = gzip.compress(repeated * (PIECE // len(repeated)))  # a gzip file may have many such members
    (tmp_path / name).write_bytes(gzip.compress(begin) + piece * (LONG // PIECE))

    done = import_bounded(tmp_path / name, tmp_path / "data", url_of(shared_service))

    assert done.returncode == 2, done.stderr
    assert f"{name}:" in done.stderr and ("characters" in done.stderr or "lines are empty" in done.stderr)
    assert "Traceback" not in done.stderr and len(done.stderr) < 1000


def test_a_file_that_is_cut_off_or_no_gzip_is_refused_in_a_line(tmp_path: Path, shared_service: Running) -> None:
    whole = gzip.compress(b'{"user_id": "u", "item_id": "i1", "timestamp": 1}\n' * 99)
    files = {"cut.jsonl.gz": whole[:-9], "bad.jsonl.gz": whole[:20] + b"\xff" * 20, "no.jsonl.gz": b"{}"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        done = import_bounded(tmp_path / name, tmp_path / "data", url_of(shared_service))

        assert done.returncode == 2
        assert name in done.stderr and "Traceback" not in done.stderr


def test_a_disk_that_is_full_ends_an_export_in_a_line_and_leaves_nothing(
    tmp_path: Path, shared_service: Running
) -> None:
    export = python_module("service", "export", str(tmp_path / "out.jsonl"), "--data-dir", str(shared_service.data_dir))
    shared_service.send({"user_id": "full", "item_id": "i1"})

    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *export],  # no file may have a byte
        env=clean_environment({}), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip

    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "make room, and run the command again" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_spreadsheet_runs_nothing_of_a_csv_and_nobody_else_reads_it(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path / "data") as service:
        service.send(*[
            {"user_id": cell.strip("\t"), "item_id": "i1", "event_id": cell.strip("\t"), "timestamp": n + 1}
            for n, cell in enumerate([*CELLS, *PLAIN])
        ])  # fmt: skip
        for name in ("out.csv", "out.jsonl"):
            run_command("export", str(tmp_path / name), "--data-dir", str(tmp_path / "data"))

    table = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    lines = [json.loads(line)["user_id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    said = [cell.strip("\t") for cell in [*CELLS, *PLAIN]]
    assert [row["user_id"] for row in table] == [row["event_id"] for row in table]
    assert [row["user_id"] for row in table] == [f"'{each}" if each not in PLAIN else each for each in said]
    assert lines == said
    for name in ("out.csv", "out.jsonl"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
