"""Every format says the same: ids stay text, times become milliseconds, bad rows are known by their line."""

import gzip
from pathlib import Path

import pytest

from training.errors import InputError
from training.file.account import Form
from training.file.choice import Choice
from training.file.table import Table, read_table

NAMES = ("user_id", "item_id", "timestamp")
ROWS = [("0017", "0444778", "1"), ("b", "x,y", "2")]


def read(path: Path, **columns: str) -> Table:
    return read_table(path, Choice(columns, NAMES, ("weight",)), Form())


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
    assert table.account.malformed == 0


def test_read_table_keeps_only_the_wanted_columns_under_our_names(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "When,note,Customer,Stock\n1,hm,a,x\n")

    table = read(path, user_id="Customer", item_id="Stock", timestamp="When")

    assert table.frame.to_dicts() == [{"line": 2, "user_id": "a", "item_id": "x", "timestamp": "1"}]


def test_read_table_counts_physical_lines_over_quoted_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", 'user_id,item_id,timestamp\na,"x\ny",1\nb,z\nc,w,3\n')

    table = read(path)

    assert table.frame["line"].to_list() == [2, 5]
    assert table.account.examples == [f"{path}:4: 2 fields, the header has 3"]
    assert table.account.counts == {"lines_in_records_of_several_lines": 2}


def test_read_table_keeps_quotes_that_do_not_fit_csv_as_text_and_counts_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", 'user_id,item_id,timestamp\na,"x"y,1\nb,z,2\n')

    table = read(path)

    assert table.frame.select(NAMES).rows() == [("a", '"x"y', "1"), ("b", "z", "2")]
    assert table.account.firsts == {"lines_with_stray_quotes": f"{path}:2"}


def test_read_table_takes_half_a_pair_of_quotes_in_an_id_for_damage_of_its_line_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", 'user_id,item_id,timestamp\na,x,1\nb,"z,2\n' + "c,w,3\n" * 7)

    table = read(path)

    assert table.frame.height == 8
    assert table.account.examples == [f"{path}:3: a quote that is not closed, or goes on after it is"]
    assert table.account.rows == 9


def test_read_table_joins_no_lines_that_are_rows_by_themselves(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", 'user_id,item_id,timestamp,t\na,x,1,"p\nb,y,2,q\nc,z,3,r"\n')

    table = read(path)

    assert table.frame["user_id"].to_list() == ["a", "b", "c"]
    assert table.account.counts == {"lines_with_stray_quotes": 1}


def test_read_table_reports_json_lines_that_are_no_object(tmp_path: Path) -> None:
    table = read(write(tmp_path / "log.jsonl", JSON + '{"user_id": \n[1]\n{"user_id":"\\ud800"}\n'))

    assert table.frame.height == 2
    assert table.account.rows == 5
    assert [example.partition(": ")[2] for example in table.account.examples] == [
        "not JSON: unexpected end of data",
        "not a JSON object",
        "not JSON: no low surrogate in string",
    ]


def test_read_table_leaves_out_a_list_of_objects_by_name(tmp_path: Path) -> None:
    table = read(write(tmp_path / "log.jsonl", '{"user_id":"a","item_id":[{"b":1}],"timestamp":1}\n'))

    assert table.account.left_out == ["item_id"]


def test_read_table_prints_json_numbers_as_a_csv_would(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", '{"user_id":17850.0,"item_id":42,"timestamp":1362062307.5}\n')

    assert read(path).frame.select(NAMES).rows() == [("17850", "42", "1362062307.5")]


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "empty": ("log.csv", b"", "log.csv: the file is empty"),
    "header only": ("log.csv", b"user_id,item_id,timestamp\n", "log.csv: no rows below the header"),
    "missing column": ("log.csv", b"user,item,when\na,x,1\n", r"no column 'user_id'; the file has: user, item, when"),
    "twice": ("log.csv", b"user_id,user_id,item_id,timestamp\n1,2,3,4\n", "log.csv:1: two columns are named user_id"),
    "cut gzip": ("log.csv.gz", gzip.compress(CSV.encode() * 99)[:-9], "log.csv.gz: the gzip data is damaged"),
    "no json": ("log.jsonl", b'{"user_id"\n{"item_id"\n', "log.jsonl:2: not JSON"),
    "json keys": ("log.jsonl", b'{"user":1}\n', "no column 'user_id'; the file has: user"),
}


@pytest.mark.parametrize(("name", "content", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_read_table_refuses_a_file_that_is(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / name, content))


def test_read_table_refuses_a_missing_file_and_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()

    with pytest.raises(InputError, match=r"nowhere\.csv: No such file"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match=r"folder\.csv: no file with rows in it"):
        read(tmp_path / "folder.csv")


def test_read_table_reads_past_a_latin1_column_that_nobody_wants(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", b"user_id,item_id,timestamp,note\na,x,1,caf\xe9\n")

    assert read(path).frame.height == 1
