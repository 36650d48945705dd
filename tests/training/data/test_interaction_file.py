"""Every format says the same: ids stay text, times become milliseconds, bad rows are known by their line."""

import gzip
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from training.data.table import Table, as_id, as_text, choose_columns, read_table
from training.data.timestamp import parse_timestamps
from training.errors import InputError

NAMES = ("user_id", "item_id", "timestamp")
ROWS = [("0017", "0444778", "1"), ("b", "x,y", "2")]


def read(path: Path, **columns: str) -> Table:
    return read_table(path, choose_columns(path, columns, required=NAMES, optional=("weight",)))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


CSV = 'user_id,item_id,timestamp\n0017,0444778,1\nb,"x,y",2\n'
JSON = '{"user_id":"0017","item_id":"0444778","timestamp":1}\n\n{"timestamp":2,"item_id":"x,y","user_id":"b"}\n'
TEXTS = {
    "log.csv": CSV.encode(),
    "log.CSV": CSV.encode(),
    "bom.csv": b"\xef\xbb\xbf" + CSV.encode(),
    "crlf.csv": CSV.replace("\n", "\r\n").encode(),
    "blank_lines.csv": CSV.replace("\n", "\n\n").encode(),
    "no_last_newline.csv": CSV.rstrip().encode(),
    "log.csv.gz": gzip.compress(CSV.encode()),
    "zipped_but_not_named_so.csv": gzip.compress(CSV.encode()),
    "log.tsv": CSV.replace('"x,y"', "x;y").replace(",", "\t").replace(";", ",").encode(),
    "log.jsonl": JSON.encode(),
    "log.ndjson.gz": gzip.compress(JSON.encode()),
}


@pytest.mark.parametrize(("name", "content"), TEXTS.items())
def test_read_table_reads_the_same_rows_from(tmp_path: Path, name: str, content: bytes) -> None:
    table = read(write(tmp_path / name, content))

    assert table.frame.select(NAMES).rows() == ROWS
    assert table.malformed.count == 0


def test_read_table_keeps_only_the_wanted_columns_under_our_names(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "When,note,Customer,Stock\n1,hm,a,x\n")

    table = read(path, user_id="Customer", item_id="Stock", timestamp="When")

    assert table.frame.to_dicts() == [{"line": 2, "user_id": "a", "item_id": "x", "timestamp": "1"}]


def test_read_table_counts_physical_lines_over_quoted_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", 'user_id,item_id,timestamp\na,"x\ny",1\nb,z\nc,w,3\n')

    table = read(path)

    assert table.frame["line"].to_list() == [2, 5]
    assert table.malformed.examples == [(4, "2 fields, the header has 3")]


def test_read_table_goes_on_after_a_record_that_is_not_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", 'user_id,item_id,timestamp\na,"x"y,1\nb,z,2\n')

    table = read(path)

    assert table.frame["user_id"].to_list() == ["b"]
    assert table.malformed.examples[0][0] == 2


def test_read_table_counts_every_line_that_an_open_quote_swallows(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", 'user_id,item_id,timestamp\na,x,1\nb,"z,2\n' + "c,w,3\n" * 7)

    table = read(path)

    assert table.frame.height == 1
    assert table.malformed.count == 8
    assert table.n_rows == 9


def test_read_table_reports_json_lines_that_are_no_object_or_hold_one(tmp_path: Path) -> None:
    bad = (
        '{"user_id": \n[1]\n{"user_id":{"a":1},"item_id":"x","timestamp":1}\n{"user_id":"\\ud800"}\n{"timestamp":NaN}\n'
    )

    table = read(write(tmp_path / "log.jsonl", JSON + bad))

    assert table.frame.height == 2
    assert [line for line, _ in table.malformed.examples] == [4, 5, 6, 7, 8]


def test_read_table_prints_json_numbers_as_a_csv_would(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", '{"user_id":17850.0,"item_id":42,"timestamp":1362062307.5}\n')

    assert read(path).frame.select(NAMES).rows() == [("17850", "42", "1362062307.5")]


Write = Callable[[Path], Path]
REFUSED: dict[str, tuple[str, bytes, str]] = {
    "empty": ("log.csv", b"", "log.csv: the file is empty"),
    "header only": ("log.csv", b"user_id,item_id,timestamp\n", "log.csv: no rows below the header"),
    "missing column": (
        "log.csv",
        b"user,item,when\na,x,1\n",
        r"no column 'user_id'; the file has: user, item, when.*--columns",
    ),
    "semicolons": ("log.csv", b"user_id;item_id;timestamp\na;x;1\n", "separated by commas"),
    "twice": ("log.csv", b"user_id,user_id,item_id,timestamp\n1,2,3,4\n", "log.csv:1: two columns are named user_id"),
    "latin-1": ("log.csv", CSV.encode() + "b,caf\u00e9,3\n".encode("latin-1"), r"log.csv:4: not UTF-8 text.*iconv"),
    "unknown kind": ("log.xlsx", b"PK", r"log.xlsx: unknown kind of file.*\.csv.*\.parquet"),
    "no parquet": ("log.parquet", b"user_id,item_id\n", "log.parquet: not a Parquet file"),
    "gzipped parquet": ("log.parquet.gz", b"\x1f\x8b", "unknown kind of file"),
    "cut gzip": ("log.csv.gz", gzip.compress(CSV.encode() * 99)[:-9], "log.csv.gz: the gzip data is damaged"),
    "no json": ("log.jsonl", b"user_id,item_id\n", "log.jsonl:1: not JSON"),
    "json keys": ("log.jsonl", b'{"user":1}\n', "no column 'user_id'; the file has: user"),
}


@pytest.mark.parametrize(("name", "content", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_read_table_refuses_a_file_that_is(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / name, content))


def test_read_table_refuses_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()

    with pytest.raises(InputError, match=r"nowhere\.csv: no such file"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match=r"folder\.csv: not a file"):
        read(tmp_path / "folder.csv")


def test_read_table_reads_past_a_latin1_column_that_nobody_wants(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", b"user_id,item_id,timestamp,note\na,x,1,caf\xe9\n")

    assert read(path).frame.height == 1


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([17850.0, None, float("nan"), 1.5], pl.Float64, ["17850", None, None, "1.5"]),
        ([17850.0], pl.Float32, ["17850"]),
        ([444778, None], pl.Int64, ["444778", None]),
        (["0444778", "", None], pl.String, ["0444778", None, None]),
        (["17850.0", "", "13047.0"], pl.String, ["17850", None, "13047"]),
        (["17850.0", "85123A"], pl.String, ["17850.0", "85123A"]),
        (["1.00", "2.50"], pl.String, ["1.00", "2.50"]),
        ([" a", "é", "é"], pl.String, [" a", "é", "é"]),
        (["a", "b"], pl.Categorical, ["a", "b"]),
    ],
)
def test_as_id_keeps_text_and_prints_whole_floats_as_integers(
    values: list[Any], dtype: Any, expected: list[Any]
) -> None:
    assert as_id(pl.Series("user_id", values, dtype), Path("f")).to_list() == expected


@pytest.mark.parametrize("values", [[True], [date(2020, 1, 1)], [["a"]]])
def test_as_id_refuses_what_is_neither_text_nor_number(values: list[Any]) -> None:
    with pytest.raises(InputError, match=r"f: the user_id column is of type .*ids are text or whole numbers"):
        as_id(pl.Series("user_id", values), Path("f"))


def test_as_text_joins_lists_by_a_bar() -> None:
    assert as_text(pl.Series("genre", [["a", "b"], None, []]), Path("f")).to_list() == ["a|b", None, ""]


MOMENT = datetime(2010, 12, 1, 8, 26, tzinfo=UTC)
MS = int(MOMENT.timestamp()) * 1000


@pytest.mark.parametrize(
    "text",
    [
        "2010-12-01 08:26:00",
        "2010-12-01T08:26",
        "2010-12-01T08:26:00Z",
        "2010-12-01T09:26:00+01:00",
        "20101201T082600",
        " 2010-12-01 08:26:00.0004 ",
        "1291191960",
        "1291191960.0",
        "1.29119196e9",
    ],
)
def test_parse_timestamps_reads_seconds_and_any_iso_form(text: str) -> None:
    series = pl.Series("timestamp", [text, "2010-12-01"])

    assert parse_timestamps(series, str).to_list() == [MS, MS - (8 * 60 + 26) * 60_000]


@pytest.mark.parametrize(
    "text", ["soon", "NaN", "inf", "2010-13-01", "01/12/2010", "", None, "-1e300", "2010-12-01 25:00"]
)
def test_parse_timestamps_leaves_unreadable_text_empty(text: str | None) -> None:
    assert parse_timestamps(pl.Series("timestamp", [text, "5"], pl.String), str).to_list() == [None, 5000]


@pytest.mark.parametrize(
    "series",
    [
        pl.Series([MS // 1000]),
        pl.Series([MS / 1000]),
        pl.Series([MS // 1000], dtype=pl.UInt32),
        pl.Series([MOMENT.replace(tzinfo=None)]),
        pl.Series([MOMENT], dtype=pl.Datetime("ns", "Europe/Berlin")),
        pl.Series([MOMENT], dtype=pl.Datetime("ms", "UTC")),
    ],
)
def test_parse_timestamps_reads_typed_columns(series: pl.Series) -> None:
    assert parse_timestamps(series, str).to_list() == [MS]


def test_parse_timestamps_reads_dates_as_midnight() -> None:
    assert parse_timestamps(pl.Series([date(1970, 1, 2), None]), str).to_list() == [86_400_000, None]


def test_parse_timestamps_leaves_nan_and_infinity_empty() -> None:
    values = pl.Series([float("nan"), float("inf"), float("-inf"), -1e300, None, 1.5])

    assert parse_timestamps(values, str).to_list() == [None, None, None, None, None, 1500]


@pytest.mark.parametrize(
    "values", [[1, 1362062307000], [1.0, 1362062307000.0], ["1970-01-01", "1362062307000"], ["1", "1e30"]]
)
def test_parse_timestamps_asks_about_milliseconds_and_names_the_row(values: list[Any]) -> None:
    with pytest.raises(InputError, match=r"^file:2: .*are these milliseconds\?.*divide the column by 1000"):
        parse_timestamps(pl.Series(values), lambda position: f"file:{position + 1}")


def test_parse_timestamps_refuses_a_type_that_is_no_time() -> None:
    with pytest.raises(InputError, match="a timestamp of type Boolean"):
        parse_timestamps(pl.Series([True]), str)


@given(st.integers(-62_135_596_800_000, 99_999_999_999_000))
def test_parse_timestamps_keeps_every_millisecond_of_text_and_numbers(milliseconds: int) -> None:
    assume(not 19_000_101 <= milliseconds // 1000 <= 21_001_231)  # a column of nothing else looks like dates
    text = pl.Series([f"{milliseconds // 1000}.{milliseconds % 1000:03d}"]) if milliseconds >= 0 else None
    number = pl.Series([milliseconds / 1000])

    assert parse_timestamps(number, str).to_list() == [milliseconds]
    assert text is None or parse_timestamps(text, str).to_list() == [milliseconds]
