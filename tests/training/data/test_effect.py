"""Rows that hide, undo or only go to the stream: left out, counted by reason, and undone as the service does."""

from pathlib import Path
from typing import Any

import pytest

from training.data.interaction_file import Cleaning, read_interactions
from training.data.prepare import parse_effects
from training.errors import InputError

ROWS = [
    ("a", "x", 1, "view"), ("a", "y", 2, "impression"), ("a", "y", 3, "view"), ("a", "y", 4, "remove"),
    ("a", "z", 5, "hide"), ("a", "z", 6, "remove"), ("a", "z", 7, "view"), ("b", "x", 1, "view"), ("b", "y", 9, "like"),
]  # fmt: skip


def read(folder: Path, **chosen: Any) -> tuple[list[tuple[str, str, int]], dict[str, int]]:
    path = folder / "log.csv"
    path.write_text("user_id,item_id,timestamp,event\n" + "".join(",".join(map(str, row)) + "\n" for row in ROWS))
    found = read_interactions(path, Cleaning(**chosen))
    kept = found.frame.select("user_id", "item_id", "timestamp_ms").rows()
    return [(user, item, ms // 1000) for user, item, ms in kept], dict(found.dropped)


def test_built_in_types_do_what_they_do_in_the_service(tmp_path: Path) -> None:
    kept, dropped = read(tmp_path)

    assert kept == [("a", "x", 1), ("a", "z", 7), ("b", "x", 1), ("b", "y", 9)]
    assert dropped == {"event_only_in_stream": 1, "event_hides_item": 1, "event_undoes": 2, "undone": 1}


def test_settings_say_otherwise(tmp_path: Path) -> None:
    kept, dropped = read(tmp_path, event_effects={"remove": "stream", "impression": "history", "like": "hide"})

    assert kept == [("a", "x", 1), ("a", "y", 2), ("a", "y", 3), ("a", "z", 7), ("b", "x", 1)]
    assert dropped == {"event_only_in_stream": 2, "event_hides_item": 2}


def test_removal_has_its_effect_where_only_some_events_count_and_whatever_its_weight(tmp_path: Path) -> None:
    rows = ["a,x,1,view,1", "a,y,2,view,1", "a,y,3,remove,0", "a,z,4,like,1", "b,x,1,view,1"]
    text = "\n".join(["user_id,item_id,timestamp,event,weight", *rows])
    (tmp_path / "log.csv").write_text(text)

    found = read_interactions(tmp_path / "log.csv", Cleaning(events=["view"]))

    assert found.frame["item_id"].to_list() == ["x", "x"]
    assert found.dropped == {"event_not_wanted": 1, "event_undoes": 1, "undone": 1}


def test_type_that_counts_and_hides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'view' cannot both enter"):
        read(tmp_path, events=["view"], event_effects={"view": "hide"})


def test_effects_are_read_and_nonsense_is_refused_by_name() -> None:
    assert parse_effects(" unlike = undo, a=b=hide,") == {"unlike": "undo", "a=b": "hide"}
    for text in ("unlike", "=undo", "unlike=", "unlike=gone", "a=hide,a=undo"):
        with pytest.raises(InputError, match=r"prepare\.event_effects"):
            parse_effects(text)
