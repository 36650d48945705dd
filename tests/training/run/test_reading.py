"""What a person is told of the files: how they were read, what was left out, and which setting says otherwise."""

from pathlib import Path

import pytest

from training.data.prepare import prepare
from training.data.split import SplitRule
from training.errors import InputError
from training.run import reading
from training.run.config import Prepare
from training.run.reading import data_lines, open_cleaning

ROWS = [
    (f"u{user}", f"i{(user + step) % 9}", 1_600_000_000 + 86_400 * step + user)
    for user in range(9)
    for step in range(6)
]


def said(tmp_path: Path, text: str, items: str = "", **settings: object) -> list[str]:
    (tmp_path / "log.csv").write_text(text)
    (tmp_path / "items.csv").write_text(items)
    place = tmp_path / "items.csv" if items else None
    data = prepare(tmp_path / "log.csv", place, tmp_path / "out", open_cleaning(Prepare(**settings)), SplitRule())
    return data_lines(data.report)


def log(header: str = "user_id,item_id,timestamp", row: str = "{},{},{}") -> str:
    return "\n".join([header, *(row.format(*each) for each in ROWS)]) + "\n"


def test_the_form_the_span_and_the_counts_are_said(tmp_path: Path) -> None:
    lines = said(tmp_path, log() + "u1,i1,soon\n,i1,1600000000\n", max_malformed=0.1)

    assert lines == [
        "read as: encoding utf-8, format text, delimiter ,, header yes; times: Unix seconds",
        "columns: user_id, item_id, timestamp",
        "from 2020-09-13 to 2020-09-18, 9 items, 9 users, median 6 events",
        "54 events, 0.0% repeats (seen items are not recommended)",
        f"56 rows read; dropped: 1 no_user; malformed: 1 (first: {tmp_path}/log.csv:56: unreadable timestamp 'soon')",
        "to learn: 27 events that follow another; asked: 9 users of validation, 9 of the test",
    ]


def test_a_column_of_ratings_is_named_with_a_way_to_use_it_that_works(tmp_path: Path) -> None:
    text = log("user_id,item_id,timestamp,rating", "{},{},{},4").replace(",4\n", ",2\n", 5)

    line = next(line for line in said(tmp_path, text) if "looks like ratings" in line)

    assert line.startswith("rating looks like ratings from 2 to 4, and is not used.")
    assert line.endswith("--columns weight=rating --set prepare.min_weight=3.5")
    assert "49 events" in said(tmp_path, text, columns="weight=rating", min_weight=3.5)[3]


def test_what_the_items_file_describes_is_said(tmp_path: Path) -> None:
    lines = said(tmp_path, log(), "parent,name\ni1,One\nx,Ex\n", item_columns="item_id=parent,title=name")

    assert lines[-1] == "items.csv: describes 1 of 9 items (11.1%); 1 of its items have no events"


def test_how_many_are_asked_of_a_large_catalogue_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "most_asked", lambda n_items: 5)

    assert "of each, 5 are drawn to be asked: scoring 9 items for everybody would take hours" in said(tmp_path, log())


def test_a_report_of_before_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(log())
    report = prepare(tmp_path / "log.csv", None, tmp_path / "out", open_cleaning(Prepare()), SplitRule()).report
    for name in ("form", "fallback", "training_targets", "median_events"):
        del report[name]

    assert data_lines(report)[0].startswith("from 2020-09-13")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"earliest": "soon"}, "prepare.earliest must be a date"),
        ({"event_weights": "buy"}, "prepare.event_weights"),
        ({"item_columns": "item=x"}, "--item-columns 'item=x'"),
    ],
)
def test_a_setting_that_cannot_be_read_is_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_cleaning(Prepare(**settings))
