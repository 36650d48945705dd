"""Taking events: each once, whatever stops it in between."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.loop.log import LogService
from training.errors import InputError
from training.loop.event_file import events_of, read_event_files, take_events


def numbers_in(directory):
    parts = [gzip.decompress(each.path.read_bytes()).splitlines() for each in read_event_files(directory)]
    return [json.loads(line)["n"] for lines in parts for line in lines]


@given(st.lists(st.sampled_from(["send", "take", "fail", "stop"]), max_size=25))
def test_every_event_is_taken_once(tmp_path_factory, steps):
    directory, service = tmp_path_factory.mktemp("events"), LogService(None)
    (directory / "..taking.99.jsonl.gz.x1y2").mkdir()  # of an export that was killed
    for step in [*steps, "take"]:
        if step == "send":
            service.events += [{"n": len(service.events) + k} for k in range(3)]
        elif step == "stop":  # after the export, before the file got its name
            service.export(directory / ".taking.99.jsonl.gz", None)
        elif step == "fail":
            service.fails.add("export")
            with pytest.raises(InputError):
                take_events(directory, service)
        else:
            take_events(directory, service)

    assert numbers_in(directory) == list(range(len(service.events)))
    assert not list(directory.glob(".*"))


def test_nothing_new_leaves_no_file_and_other_files_are_no_events(tmp_path):
    service = LogService(None)
    (tmp_path / "notes.jsonl.gz").write_bytes(b"")

    assert take_events(tmp_path, service).events == 0
    assert read_event_files(tmp_path) == []


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-12], lambda content: b"junk"])
def test_a_damaged_file_is_refused_and_taken_again_once_it_is_removed(tmp_path, damage):
    service = LogService(None)
    service.events += [{"n": n} for n in range(5)]
    take_events(tmp_path, service)
    service.events += [{"n": n} for n in range(5, 9)]
    take_events(tmp_path, service)
    files = read_event_files(tmp_path)
    files[0].path.write_bytes(damage(files[0].path.read_bytes()))

    with pytest.raises(InputError, match=r"damaged .*; remove it, and those of a higher number"):
        list(events_of(files[0]))

    for each in files:
        each.path.unlink()
    take_events(tmp_path, service)
    assert numbers_in(tmp_path) == list(range(9))
