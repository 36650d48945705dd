"""The items file adds words to the catalogue, never items."""

import csv
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from service.bundle import Item
from training.data.interaction_file import Cleaning
from training.data.item_file import describe_items, likely_cause, read_catalog, to_items
from training.data.prepare import prepare
from training.data.prepared import Prepared
from training.data.split import SplitRule
from training.errors import InputError

LOG = "user_id,item_id,timestamp\na,01,1\na,02,2\na,03,3\nb,01,1\nb,02,2\nb,03,3\n"


def items_of(path: Path, item_ids: list[str], columns: dict[str, str] | None = None) -> list[Item]:
    catalog = read_catalog(path, columns or {}, 0.0)
    return to_items(describe_items(pl.Series("item_id", item_ids), np.ones(len(item_ids), dtype=np.int64), catalog))


def write(folder: Path, text: str, name: str = "items.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def run(folder: Path, items: Path) -> Prepared:
    return prepare(write(folder, LOG, "log.csv"), items, folder / "out", Cleaning(), SplitRule())


def test_items_file_gives_titles_and_attributes_of_several_values(tmp_path: Path) -> None:
    path = write(tmp_path, "item_id,title,genre,year\n01, Frankenstein (1910),Horror| Sci-Fi||Horror,1910\n02,,,\n")

    assert items_of(path, ["01", "02", "03"]) == [
        Item("01", 1.0, "Frankenstein (1910)", {"genre": ["Horror", "Sci-Fi"]}, {"year": 1910.0}),
        Item("02", 1.0),
        Item("03", 1.0),
    ]


def test_columns_of_numbers_and_of_booleans_are_read_as_such_and_named(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "item_id,price,stock,shop,mixed,several,year\n01,-1.5e2,True,007,5,1|2,1999\n02,,false,1,x,3,2000\n03,0,,2,,,\n",
    )

    catalog = read_catalog(path, {}, 0.0, text=["year"])
    frame = describe_items(pl.Series("item_id", ["01", "02", "03"]), np.ones(3, dtype=np.int64), catalog)

    texts = {"shop": ["007"], "mixed": ["5"], "several": ["1", "2"], "year": ["1999"]}
    assert to_items(frame) == [
        Item("01", 1.0, None, texts, {"price": -150.0}, {"stock": True}),
        Item(
            "02", 1.0, None, {"shop": ["1"], "mixed": ["x"], "several": ["3"], "year": ["2000"]}, {}, {"stock": False}
        ),
        Item("03", 1.0, None, {"shop": ["2"]}, {"price": 0.0}),
    ]
    assert (catalog.report["numbers"], catalog.report["booleans"]) == (["price"], ["stock"])


def test_column_that_is_named_as_text_and_not_there_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "item_id,year\n01,1999\n")

    with pytest.raises(InputError, match=r"prepare\.item_text: there is no column 'yeer'; there is year"):
        read_catalog(path, {}, 0.0, text=["yeer"])


def test_items_file_keeps_the_description_beside_the_items(tmp_path: Path) -> None:
    run(tmp_path, write(tmp_path, "item_id,description\n01,long words\n"))

    frame = pl.read_parquet(tmp_path / "out" / "items.parquet")
    assert frame["description"].to_list() == ["long words", None, None]


def test_items_file_reads_the_same_from_parquet_and_json_lines(tmp_path: Path) -> None:
    frame = pl.DataFrame({"item_id": [1.0, 2.0], "title": ["A", None], "genre": [["x", "y"], []], "price": [2.5, 3.0]})
    frame.write_parquet(tmp_path / "items.parquet")
    write(
        tmp_path,
        '{"item_id":1.0,"title":"A","genre":["x","y"],"price":2.5}\n{"item_id":2,"title":null,"genre":[],"price":3.0}\n',
        "items.jsonl",
    )

    expected = [
        Item("1", 1.0, "A", {"genre": ["x", "y"]}, {"price": 2.5}),
        Item("2", 1.0, None, {}, {"price": 3.0}),
    ]
    assert items_of(tmp_path / "items.parquet", ["1", "2"]) == expected
    assert items_of(tmp_path / "items.jsonl", ["1", "2"]) == expected


@pytest.mark.parametrize("header", ["StockCode,Description", "item_id,title"])
def test_items_file_takes_the_mapped_names_or_our_own(tmp_path: Path, header: str) -> None:
    path = write(tmp_path, f"{header}\n01,RED LAMP\n")

    items = items_of(path, ["01"], {"item_id": "StockCode", "title": "Description", "user_id": "CustomerID"})

    assert items == [Item("01", 1.0, "RED LAMP")]


def test_items_file_never_adds_to_the_catalogue_and_says_what_it_lacked(tmp_path: Path) -> None:
    data = run(tmp_path, write(tmp_path, "item_id,title\n01,first\n01,second\n99,unknown\n,nameless\n02,two\n"))

    assert [(item.item_id, item.title) for item in data.items] == [("01", "first"), ("02", "two"), ("03", None)]
    report = data.report["items_file"]
    assert {name: report[name] for name in ("rows_read", "no_item", "duplicate", "not_in_catalogue")} == {
        "rows_read": 5,
        "no_item": 1,
        "duplicate": 1,
        "not_in_catalogue": 1,
    }
    assert report["without_a_line"] == 1
    assert report["source"] == "items.csv"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "id,title\n1,x\n",
            r"items\.csv:1: no column 'item_id'; the file has: id, title\..*--item-columns item_id=id",
        ),
        ("item_id,title\n1,x\n2\n", r"(?s)items\.csv: 1 of 2 rows .*items\.csv:3: 1 fields, the header has 2"),
        ("", r"items\.csv: the file is empty"),
        ('{"01": {"title": "x"}, "02": {"title": "y"}}', r"rows by their names or ids; .*'item_id': name, \*\*row"),
        ("01 1:2 2:3\n02 1:4\n03 1:4\n04 1:2 2:3 3:4\n05 1:1\n", r"no header: .*--item-columns item_id=1"),
    ],
)
def test_items_file_is_refused_with_the_way_out_and_nothing_is_written(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)

    with pytest.raises(InputError, match=message):
        run(tmp_path, path)

    assert not (tmp_path / "out").exists()


def test_columns_that_are_no_text_are_left_out_by_name(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"item_id": ["a"], "image": [b"\xff\xd8\xff"], "length": [timedelta(seconds=5)], "brand": ["x"]}
    )
    frame.write_parquet(path := tmp_path / "items.parquet")

    catalog = read_catalog(path, {}, 0.0)

    assert catalog.report["left_out"] == ["image", "length"]
    assert catalog.frame.columns == ["item_id", "attribute.brand"]


def test_words_for_no_value_are_no_attributes(tmp_path: Path) -> None:
    path = tmp_path / "items.tsv"
    path.write_text("item_id\ttitle\tyear\tbrand\na\tNone\t1995\tNULL\nb\tx\t\\N\tacme\n")

    rows = read_catalog(path, {}, 0.0).frame.to_dicts()

    assert rows[0] == {"item_id": "a", "title": "None", "number.year": 1995.0, "attribute.brand": None}
    assert rows[1] == {"item_id": "b", "title": "x", "number.year": None, "attribute.brand": ["acme"]}


def test_signs_for_no_value_and_what_psql_prints_are_left_out(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        " item_id | price | brand \n---------+-------+-------\n a | - | x\n b | 5 | \u2014\n - | 1 | y\n(3 rows)\n",
    )

    catalog = read_catalog(path, {}, 0.0)

    assert catalog.frame["item_id"].to_list() == ["a", "b"]
    assert catalog.frame["number.price"].to_list() == [None, 5.0]
    assert catalog.frame["attribute.brand"].to_list() == [["x"], None]
    assert catalog.report["no_item"] == 1


def test_title_that_is_a_word_for_no_value_more_than_once_is_none(tmp_path: Path) -> None:
    path = write(tmp_path, "item_id,title\na,nan\nb,None\nc,nan\nd,x\ne,x\n")

    assert read_catalog(path, {}, 0.0).frame["title"].to_list() == [None, "None", None, "x", "x"]


def test_embeddings_are_left_out_and_lists_of_whole_numbers_are_not(tmp_path: Path) -> None:
    vectors = [[(row + place) / 7 for place in range(8)] for row in range(3)]
    frame = pl.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "native": vectors,
            "python": list(map(str, vectors)),
            "numpy": [str(np.array(vector)) for vector in vectors],
            "bars": ["|".join(map(str, vector)) for vector in vectors],
            "years": [list(range(1990 + row, 2000 + row)) for row in range(3)],
            "prices": [[1.5, 2.5]] * 3,
        }
    )
    frame.write_parquet(path := tmp_path / "items.parquet")

    catalog = read_catalog(path, {}, 0.0)

    assert catalog.report["left_out"] == ["native", "python", "numpy", "bars"]
    assert catalog.frame["attribute.prices"].to_list() == [["1.5", "2.5"]] * 3
    assert catalog.frame["attribute.years"].list.len().to_list() == [10] * 3


def test_ids_of_which_some_lost_their_zeros_are_explained() -> None:
    ours, theirs = pl.Series(["007", "12", "008"]), pl.Series(["7", "12", "8"])

    assert "zeros at the start" in likely_cause(ours, theirs, 3)
    assert likely_cause(ours, theirs, 4) == ""


def test_lists_that_were_written_as_text_are_several_values_and_objects_are_left_out(tmp_path: Path) -> None:
    rows = [
        ("item_id", "python", "json", "numpy", "bare", "objects", "named", "tag"),
        ("01", "['a, b', \"it's\", None]", '["x\\"y", "\\u00e9"]', "['p' 'q'\n 'r']", "[k, l m]", "[{'id': 1}]",
         "['a']", "[REC]"),
        ("02", "[]", "[1, 2.5]", "['p']", "[k]", "{\"id\": 2}", "x", "[LIVE]"),
        ("03", "", "", "", "", "", "", ""),
    ]  # fmt: skip
    path = tmp_path / "items.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)

    catalog = read_catalog(path, {}, 0.0)
    frame = describe_items(pl.Series("item_id", ["01", "02", "03"]), np.ones(3, dtype=np.int64), catalog)

    assert to_items(frame) == [
        Item("01", 1.0, None, {
            "python": ["a, b", "it's"], "json": ['x"y', "é"], "numpy": ["p", "q", "r"], "bare": ["k", "l m"],
            "named": ["['a']"], "tag": ["[REC]"],
        }),
        Item("02", 1.0, None, {
            "json": ["1", "2.5"], "numpy": ["p"], "bare": ["k"], "named": ["x"], "tag": ["[LIVE]"],
        }),
        Item("03", 1.0),
    ]  # fmt: skip
    assert catalog.report["lists"] == ["python", "json", "numpy", "bare"]
    assert catalog.report["left_out"] == ["objects"]


def test_a_column_of_lists_can_be_named_as_text(tmp_path: Path) -> None:
    path = write(tmp_path, "item_id;genre\n01;['a', 'b']\n02;['c|d']\n")

    catalog = read_catalog(path, {}, 0.0, text=["genre"])
    frame = describe_items(pl.Series("item_id", ["01", "02"]), np.ones(2, dtype=np.int64), catalog)

    assert [item.attributes["genre"] for item in to_items(frame)] == [["['a', 'b']"], ["['c", "d']"]]


def test_brackets_without_an_end_cost_no_time(tmp_path: Path) -> None:
    path = write(tmp_path, "item_id;genre\n01;[" + "a b " * 20_000 + "{ ,]\n")

    catalog = read_catalog(path, {}, 0.0)

    assert catalog.report["lists"] == []
