"""Taking events: each once, whatever stops it in between."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.loop.log import LogService
from training.errors import InputError
from training.loop.event_file import read_event_files, take_events


def numbers_in(directory):
    parts = [gzip.decompress(each.path.read_bytes()).splitlines() for each in read_event_files(directory)]
    return [json.loads(line)["n"] for lines in parts for line in lines]


@given(st.lists(st.sampled_from(["send", "take", "fail", "stop"]), max_size=25))
def test_every_event_is_taken_once(tmp_path_factory, steps):
    directory, service = tmp_path_factory.mktemp("events"), LogService(None)
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
    assert not list(directory.glob(".taking*"))


def test_nothing_new_leaves_no_file_and_other_files_are_no_events(tmp_path):
    service = LogService(None)
    (tmp_path / "notes.jsonl.gz").write_bytes(b"")

    assert take_events(tmp_path, service).events == 0
    assert read_event_files(tmp_path) == []
