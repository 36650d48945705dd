"""What the lists did to the clicks: counted by place and by popularity, and shown; where nothing tells, it is said."""

import gzip
import json

import numpy as np
import pytest

from service.bundle import Item
from training.data.prepared import Prepared
from training.loop.bias import by_popularity, count_items, measure_bias
from training.loop.event_file import read_event_files
from training.loop.propensity import UNWEIGHED, given
from training.report.page import _template

ANSWER = "0" * 32


def prepared_of(**popularity):
    none = np.zeros(0)
    items = [Item(name, popularity=count) for name, count in popularity.items()]
    return Prepared([], items, none, none, none, none, {})


def files_of(folder, *events):
    with gzip.open(folder / "000001.1-1@1.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"user_id": "u", "timestamp": 1, **event}) + "\n" for event in events)
    return read_event_files(folder)


def shown(item, *places):
    return [{"item_id": item, "event": "impression", "position": place} for place in places]


def clicked(item, *places, event="view"):
    return [
        {"item_id": item, "event": event, "recommendation_id": ANSWER, **({"position": place} if place else {})}
        for place in places
    ]


@pytest.fixture
def files(tmp_path):
    return files_of(
        tmp_path,
        *shown("a", 1, 1, 1, 1), *shown("b", 2, 2, 12), *shown("d", 3), *shown("late", 2),
        *clicked("a", 1, 1), *clicked("b", 2), *clicked("late", None), *clicked("a", 1, event="remove"),
        {"item_id": "c", "event": "view"},
    )  # fmt: skip


def test_places_and_popularity_are_counted_from_what_names_a_list_alone(files):
    before = prepared_of(a=10, b=10, c=10, d=10, e=10)

    found = measure_bias(files, None, before, given(1.0))

    assert found["slope"] == 1.0
    assert [tuple(row.values()) for row in found["places"]] == [
        (1, 1, 4, 2, 4.0), (2, 2, 3, 1, 1.5), (3, 3, 1, 0, pytest.approx(1 / 3)), (11, 20, 1, 0, pytest.approx(1 / 12)),
    ]  # fmt: skip
    assert measure_bias(files, None, before, UNWEIGHED)["places"][0]["looked_at"] is None
    assert "c" not in count_items(files, None).clicks, "it was found without a list"


def test_each_group_of_popularity_makes_a_fifth_of_the_training_events(files):
    rows = by_popularity(count_items(files, None), prepared_of(a=40, b=30, c=20, d=6, e=4))

    assert [(row["group"], row["items"], row["impressions"], row["clicks"]) for row in rows] == [
        ("1", 1, 4, 2), ("2", 0, 0, 0), ("3", 1, 3, 1), ("4", 1, 0, 0), ("5", 2, 1, 0), ("new", None, 1, 1),
    ]  # fmt: skip


def test_events_that_name_no_list_tell_nothing_and_the_page_says_so(tmp_path):
    files = files_of(tmp_path, {"item_id": "a", "event": "view"})

    found = measure_bias(files, None, prepared_of(a=1), UNWEIGHED)

    assert found is None
    page = render([{"number": 1, "bias": found}, {"number": 2}])
    assert "nothing can be said of position bias and popularity bias" in page and "<table>" not in page


def test_the_page_shows_places_of_the_last_refresh_and_popularity_of_each(files):
    before = prepared_of(a=40, b=30, c=20, d=6, e=4)
    known, unknown = (measure_bias(files, None, before, each) for each in (given(1.0), UNWEIGHED))

    page = render([{"number": 1, "bias": unknown}, {"number": 2, "bias": None}, {"number": 3, "bias": known}])

    assert "<tr><td>2</td><td>3</td><td>1</td>\n<td>33.3 %</td><td>33.3 %</td><td>66.7 %</td></tr>" in page
    assert "11 to 20" in page and "place ** -1.00" in page
    assert page.count("<td>44.4 % / 50.0 %</td>") == 2 and "In 1 of 3 refreshes no event was of a list" in page
    assert "cannot be told apart" in render([{"number": 1, "bias": unknown}])


def render(refreshes):
    return _template("bias.html.j2").module.bias(refreshes)
