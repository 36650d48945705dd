"""export --after: what came since is written once, whatever happened to the stream, and what is gone is said."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.running import Running, run_command


@pytest.fixture
def service(toy_bundle: Path, tmp_path: Path) -> Iterator[Running]:
    with Running(toy_bundle, tmp_path / "data", event_stream_max="200") as running:
        yield running


def send(service: Running, first: int, last: int, user: str = "u") -> None:
    service.send(
        *[{"user_id": f"{user}{n % 7}", "item_id": f"i{n % 9}", "timestamp": 1000 + n} for n in range(first, last)]
    )


def export(service: Running, name: str, *arguments: str) -> tuple[list[int], dict[str, Any], str]:
    """Return the times that were written, the last line, and what was said."""
    path = service.data_dir.parent / name
    done = run_command("export", str(path), "--data-dir", str(service.data_dir), *arguments)
    assert done.returncode == 0, done.stderr
    times = [json.loads(line)["timestamp"] for line in path.read_text().splitlines()]
    return times, json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_two_exports_write_every_event_once_and_an_empty_one_stays_where_it_is(service: Running) -> None:
    send(service, 0, 30)
    first, ended, _ = export(service, "1.jsonl")
    send(service, 30, 50)
    second, ended_later, _ = export(service, "2.jsonl", "--after", ended["position"])
    third, ended_last, _ = export(service, "3.jsonl", "--after", ended_later["position"])

    assert sorted(first) == list(range(1000, 1030)) and ended["events"] == 30
    assert sorted(second) == list(range(1030, 1050)) and ended_later["gone"] == 0
    assert third == [] and ended_last == {"events": 0, "position": ended_later["position"], "gone": 0, "anew": False}


def test_what_the_cap_has_cut_is_counted_and_what_was_erased_is_not(service: Running) -> None:
    send(service, 0, 100)
    _, ended, _ = export(service, "1.jsonl")
    send(service, 100, 200, "v")
    assert service.client.delete("/users/v3").status_code == 200
    kept, _, said = export(service, "2.jsonl", "--after", ended["position"])
    assert 80 < len(kept) < 100 and "gone" not in said

    send(service, 200, 1200)
    left, ended_later, said = export(service, "3.jsonl", "--after", ended["position"])

    assert ended_later["gone"] == 1100 - len(left) > 500
    assert f"up to {ended_later['gone']} events after {ended['position']} are gone" in said


def test_a_first_export_says_what_the_cap_had_cut_before_it(service: Running) -> None:
    send(service, 0, 900)
    send(service, 900, 1200)

    kept, ended, said = export(service, "1.jsonl")

    assert ended["gone"] == 1200 - len(kept) > 500
    assert f"up to {ended['gone']} events of all are gone" in said and "none of erased users" in said


def test_a_stream_that_was_made_anew_is_taken_whole(service: Running) -> None:
    send(service, 0, 30)
    _, ended, _ = export(service, "1.jsonl")
    service.store().flushall()
    send(service, 40, 50)

    taken, _, said = export(service, "2.jsonl", "--after", ended["position"])

    assert sorted(taken) == list(range(1040, 1050))
    assert f"the stream is not the one of {ended['position']}" in said


def test_what_is_no_event_of_ours_in_the_stream_ends_no_export(service: Running) -> None:
    send(service, 0, 5)
    store = service.store()
    (stream,) = store.scan_iter("*", _type="stream")
    good = {"user_id": "u", "item_id": "i", "timestamp": 5}
    for entry in ({"a": 1}, [], "x", good | {"timestamp": "x"}, good | {"event": [1]}, good | {"weight": None}, good):
        store.xadd(stream, {"event": json.dumps(entry)})
    store.xadd(stream, {"other": "x"})

    times, _, _ = export(service, "1.jsonl")

    assert sorted(times) == [5, *range(1000, 1005)]


@pytest.mark.parametrize("text", ["yesterday", "12", "1-1", "1-1@-4", "1-1@3 "])
def test_what_is_no_position_is_refused_in_a_line(tmp_path: Path, text: str) -> None:
    done = run_command("export", str(tmp_path / "out.jsonl"), "--after", text)

    assert done.returncode == 2
    assert f"retort: --after: {text!r} is no position" in done.stderr and len(done.stderr.splitlines()) == 1
