"""The files that people have: each is read to the same events, or refused with a fault and a way out that works.

The same 20 users with 6 events each are written in every form. A case says how, and what is to come of it.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.contract.document import DOCUMENTS
from training.__main__ import main

Event = tuple[str, str, int]
START = datetime(2020, 9, 16, 18, 43, 1, tzinfo=UTC)
EVENTS = [
    (f"u{user}", f"i{(user + 3 * step) % 17:02d}", int((START + timedelta(days=step, hours=user)).timestamp()))
    for user in range(20)
    for step in range(6)
]
DAYS = [(user, item, second - second % 86_400) for user, item, second in EVENTS]
"""The same at midnight, for forms that hold a date alone."""
FUTURE = [(user, item, second + 40 * 365 * 86_400) for user, item, second in EVENTS]
PAST = [(user, item, second - 60 * 365 * 86_400) for user, item, second in EVENTS]
NUMBERED = [(user[1:], str(int(item[1:]) + 100), second) for user, item, second in EVENTS]
"""The same with whole numbers for ids."""


def moment(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


def table(
    separator: str = ",",
    header: str | None = "user_id,item_id,timestamp",
    events: list[Event] = EVENTS,
    time: Callable[[int], Any] = str,
    row: str = "{u},{i},{t}",
    end: str = "\n",
) -> str:
    """Write events as text, a row each; commas of header and row become the separator."""
    lines = [] if header is None else [header.replace(",", separator)]
    lines += [row.replace(",", separator).format(u=u, i=i, t=time(t)) for u, i, t in events]
    return end.join(lines) + end


def time_table(form: str, events: list[Event] = EVENTS) -> str:
    return table(time=lambda second: moment(second).strftime(form), row='{u},{i},"{t}"', events=events)


def objects(events: list[Event] = EVENTS, **more: Any) -> list[dict[str, Any]]:
    return [{"user_id": u, "item_id": i, "timestamp": t} | more for u, i, t in events]


def lines(found: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(one) + "\n" for one in found)


def parquet(frame: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.write_parquet(file)
    return file.getvalue()


def frame(events: list[Event] = EVENTS) -> pl.DataFrame:
    return pl.DataFrame(objects(events))


def zipped(**members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name.replace("_csv", ".csv").replace("]_xml", "].xml"), text)
    return file.getvalue()


def zstd(text: str) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=text.encode(), capture_output=True, check=True).stdout


@dataclass
class Case:
    """A file, how it is given, and what is to come of it."""

    name: str  # of the file; a directory where content is a mapping
    content: Any  # text, bytes, or {name: text or bytes}
    options: tuple[str, ...] = ()
    expected: list[Event] | None = field(default_factory=lambda: EVENTS)
    says: str = ""  # a pattern of the output
    refused: str = ""  # a pattern of the error
    then: tuple[str, ...] | None = None  # options that the error names, with which it is read
    glob: str = ""
    address: str = ""  # what stands before the path


TWO_COLUMNS = frame().select(
    "user_id",
    "item_id",
    (pl.col("timestamp") * 1_000_000).cast(pl.Datetime("us")).dt.date().alias("day"),
    (pl.col("timestamp") * 1_000_000).cast(pl.Datetime("us")).dt.time().alias("time"),
)
"""The same with the day and the time of day in two columns."""


def setting(text: str) -> tuple[str, str]:
    return ("--set", f"prepare.{text}")


def columns(text: str) -> tuple[str, str]:
    return ("--columns", text)


PLACES = columns("user_id=1,item_id=2,timestamp=3")
MIDNIGHTS = {"expected": DAYS}
QUOTES = '{u},{i},{t},"Heroes" (Live)'
TWO = "user_id,item_id,day,clock time"
NAMED = "user_id,item_id,timestamp,name"
CASES: dict[str, Case] = {
    "comma": Case("log.csv", table()),
    "tab": Case("log.tsv", table("\t"), says="delimiter tab"),
    "texts over several lines in every row": Case(
        "log.csv",
        table(header="user_id,item_id,timestamp,text", row='{u},{i},{t},"one; two\n\nthree ""and"" four,\nfive"'),
        says="lines are parts of records over several lines",
    ),
    "texts over several lines before other names": Case(
        "log.csv",
        table(header="Text,UserId,ProductId,Time", row='"one\ntwo\nthree",{u},{i},{t}'),
        refused="--columns user_id=UserId,item_id=ProductId,timestamp=Time",
        then=columns("user_id=UserId,item_id=ProductId,timestamp=Time"),
    ),
    "a quote that nothing closes in every row": Case(
        "log.tsv", table("\t", header="user_id,item_id,timestamp,title", row='{u},{i},{t},"Heroes')
    ),
    "ids with colons": Case(
        "log.csv",
        table(header=None, row="user:{u},item:{i},{t}"),
        says="user_id is column 1",
        expected=[(f"user:{u}", f"item:{i}", t) for u, i, t in EVENTS],
    ),
    "names between points": Case(
        "log.jsonl",
        lines([{"Item": {"user": {"S": u}, "item": {"S": i}, "time": {"N": str(t)}}} for u, i, t in EVENTS]),
        refused="--columns user_id=Item.user.S,item_id=Item.item.S,timestamp=Item.time.N",
        then=columns("user_id=Item.user.S,item_id=Item.item.S,timestamp=Item.time.N"),
    ),
    "addresses with queries": Case(
        "log.csv",
        table(header=None, row="{u},{i},{t},http://a.b/c?d=1&e=2&f=3&g=4"),
    ),
    "tab under another name": Case("log.txt", table("\t"), says="delimiter tab"),
    "semicolon": Case("log.csv", table(";"), says="delimiter ;"),
    "pipe": Case("log.csv", table("|")),
    "two colons": Case("log.dat", table("::")),
    "control-A of Hive": Case("000000_0", table("\x01")),
    "space": Case("log.txt", table(" ")),
    "given delimiter": Case("log.csv", table("~"), setting("delimiter=~")),
    "windows line ends": Case("log.csv", table(end="\r\n")),
    "old mac line ends": Case("log.csv", table(end="\r")),
    "blank lines": Case("log.csv", table(end="\n\n")),
    "all quoted": Case("log.csv", table(header='"user_id","item_id","timestamp"', row='"{u}","{i}","{t}"')),
    "quoted semicolons with crlf": Case("log.csv", table(";", row='"{u}","{i}","{t}"', end="\r\n")),
    "sep line of Excel": Case("log.csv", "sep=;\n" + table(";")),
    "comments above": Case("log.csv", "# made by hand\n# twice\n" + table()),
    "a title above": Case("log.csv", "Sales of 2020, by day\n\n" + table(), says="header line 3"),
    "a title padded by a spreadsheet": Case("log.csv", "Sales,,\nof 2020,,\n,,\n" + table(), says="header line 4"),
    "hash before the header": Case("log.csv", "#" + table()),
    "blanks after commas": Case("log.csv", table(row="{u}, {i}, {t}", header="user_id, item_id, timestamp")),
    "row names of R": Case("log.csv", table(row='"{u}/{t}",{u},{i},{t}'), says="as R writes it"),
    "unquoted commas in a title": Case(
        "log.csv", table(header=NAMED, row="{u},{i},{t},a, b"), refused="5 fields, the header has 4"
    ),
    "blanks before quotes": Case("log.csv", table(row='{u}, "{i}", {t}', header='user_id, "item_id", timestamp')),
    "commas in quotes after blanks": Case("log.csv", table(header=NAMED, row='{u}, "{i}", {t}, "a, b"')),
    "empty rows of a spreadsheet": Case("log.csv", table() + ",,\n" * 40, says="40 lines hold delimiters alone.*:122"),
    "old mac line ends and a newer end": Case("log.csv", table(end="\r") + "\n"),
    "header again with a mark": Case(
        "log.csv", table(events=EVENTS[:60]) + "\ufeff" + table(events=EVENTS[60:]), says="the header stands 1 more"
    ),
    "header of another order": Case(
        "log.csv",
        table(events=EVENTS[:60]) + table(events=EVENTS[60:], header="item_id,user_id,timestamp", row="{i},{u},{t}"),
        refused=":62: another header, item_id, user_id, timestamp: .*tail -n [+]62",
    ),
    "whole floats beside integers": Case(
        "log.csv", table(events=NUMBERED[:60], row="{u}.0,{i},{t}") + table(events=NUMBERED[60:]), expected=NUMBERED
    ),
    "ids as formulas": Case("log.csv", table(row='"=""{u}""",="{i}",{t}')),
    "ids that differ in blanks": Case(
        "log.csv",
        table(events=(blank := [(u + " " * (n == 7), i, t) for n, (u, i, t) in enumerate(EVENTS)])),
        expected=blank,
        says="1 user ids differ from another only in .*first: 'u1' and 'u1 '",
    ),
    "years of two digits": Case(
        "log.csv", time_table("%y-%m-%d %H:%M:%S"), refused="20-09-16 may have the year first.*four digits", then=None
    ),
    "days before years of two digits": Case(
        "log.csv", time_table("%d-%m-%y %H:%M:%S"), refused="=day-first", then=setting("times=day-first")
    ),
    "days before years of two digits, with the last of a month": Case(
        "log.csv",
        time_table("%d/%m/%y %H:%M:%S", month := [(u, i, t + 10 * 86_400) for u, i, t in EVENTS]),
        expected=month,
        says="text, day first",
    ),
    "day and time in two columns": Case(
        "log.csv",
        table(header=TWO, time=lambda t: moment(t).strftime("%d/%m/%Y,%I:%M:%S %p"), events=month),
        expected=month,
        refused="--columns 'timestamp=day[+]clock time'",
        then=columns("timestamp=day+clock time"),
    ),
    "day and time in two places": Case(
        "log.csv",
        table(header=None, time=lambda t: moment(t).strftime("%Y-%m-%d 00:00:00,%H:%M:%S")),
        columns("user_id=1,item_id=2,timestamp=3+4"),
    ),
    "day and time of other types": Case(
        "log.parquet",
        parquet(TWO_COLUMNS),
        columns("timestamp=day+time"),
    ),
    "day alone, with a time beside it": Case(
        "log.parquet",
        parquet(TWO_COLUMNS),
        columns("timestamp=day"),
        **MIDNIGHTS,
        says="--columns timestamp='day[+]time'",
    ),
    "day and a missing time": Case(
        "log.parquet",
        parquet(TWO_COLUMNS.with_columns(pl.when(pl.int_range(pl.len()) != 7).then("time"))),
        (*columns("timestamp=day+time"), *setting("max_malformed=0.02")),
        expected=[event for at, event in enumerate(EVENTS) if at != 7],
        says="malformed: 1",
    ),
    "day and a time that is not there": Case(
        "log.parquet", parquet(TWO_COLUMNS), columns("timestamp=day+hour"), refused="timestamp=day[+]COLUMN", then=None
    ),
    "thousands or decimal commas": Case(
        "log.csv",
        table(";", header="user_id,item_id,timestamp,weight", row="{u},{i},{t},").replace(";\n", ";2,500\n"),
        refused="unreadable weight '2,500'.*with a point.*prepare.weights=ignore",
        then=setting("weights=ignore"),
    ),
    "times of a web server": Case("log.csv", time_table("[%d/%b/%Y:%H:%M:%S +0000]")),
    "dump of tables": Case("log.sql", "CREATE TABLE e (a int);\n", refused="a dump of SQL"),
    "records of TensorFlow": Case("log.tfrecord", b"\x14" + bytes(7) + b"abcd" * 99, refused="TFRecord"),
    "yaml": Case("log.yaml", "".join(f"- user_id: {u}\n  item_id: {i}\n" for u, i, _ in EVENTS), refused="YAML.*yq"),
    "a list of items as json": Case(
        "log.jsonl",
        lines([{"user_id": "a", "item_id": ["i", "k"], "timestamp": 5}]),
        refused="item_id is a list, and each row needs one item_id; .*: python -c",
    ),
    "several items in an id": Case(
        "log.csv",
        table(events=(several := [(u, f"{i}|{i}|1", t) for u, i, t in EVENTS])),
        expected=several,
        says="17 item ids look like several .first: 'i..[|]i..[|]1'",
    ),
    "japanese that is not UTF-8": Case(
        "log.csv",
        table(events=(named := [(f"ユーザ{u}", i, t) for u, i, t in EVENTS])).encode("shift_jis"),
        refused="control_character.*--set prepare.encoding=NAME, for example shift_jis",
        then=setting("encoding=shift_jis"),
        expected=named,
    ),
    "rounded times": Case(
        "log.csv",
        table(time=lambda t: f"{t:.5E}", row="{u},{i}{t},{t}"),
        expected=None,
        says="120 timestamps look like 1.60028E.09 .*a spreadsheet",
    ),
    "json objects one after the other": Case("log.json", "".join(map(json.dumps, objects()))),
    "json with an infinite id": Case(
        "log.jsonl", lines([*objects(), objects()[0] | {"user_id": float("inf")}]), says="1 no_user"
    ),
    "fields between circumflexes": Case(
        "log.csv", table("^"), refused="--set prepare.delimiter=", then=setting("delimiter=^")
    ),
    "fields between two bars and a tilde": Case(
        "log.csv", table("~!~"), refused="--set prepare.delimiter='~!~'", then=setting("delimiter=~!~")
    ),
    "quoted by apostrophes": Case(
        "log.csv",
        table(header="'user_id','item_id','timestamp'", row="'{u}','{i}','{t}'"),
        refused="""--set prepare.quote="'\"""",
        then=setting("quote='"),
    ),
    "no weight in any row": Case(
        "log.parquet",
        parquet(frame().with_columns(weight=None)),
        refused="no_weight 120.*--set prepare.weights=ignore",
        then=setting("weights=ignore"),
    ),
    "rows inside rows": Case(
        "log.jsonl",
        lines([{"user_id": "u1", "history": [{"item_id": "i1", "timestamp": 1600000000}]}]),
        refused="where history holds the rows: .*: python -c",
    ),
    "garbage in the first line": Case(
        "log.csv", "\x1b" * 9 + "x" * 99 + ",y\n1,2\n", refused="has: [?]{9}x{51}[.]{3}, y"
    ),
    "lz4": Case("log.csv.lz4", b"\x04\x22\x4d\x18" + bytes(99), refused="compressed with lz4.*lz4 -d"),
    "lzma of old": Case(
        "log.lzma", lzma.compress(table().encode(), lzma.FORMAT_ALONE), refused="compressed with lzma.*xz --format=lzma"
    ),
    "dump of PostgreSQL": Case(
        "log.sql", "--\n-- PostgreSQL database dump\n--\n", refused="a dump of PostgreSQL.*csv header"
    ),
    "spreadsheet of LibreOffice": Case(
        "log.ods", zipped(mimetype="x", **{"content.xml": "<x/>"}), refused="an OpenDocument spreadsheet.*as CSV"
    ),
    "part without any user": Case(
        "parts",
        {"a.parquet": parquet(frame()), "b.parquet": parquet(frame().with_columns(user_id=None))},
        says="120 no_user",
    ),
    "index of pandas": Case("log.csv", table(header=",user_id,item_id,timestamp", row="7,{u},{i},{t}")),
    "table of Markdown": Case(
        "log.md", table("|", "|user_id|item_id|timestamp|".replace("|", ",").strip(), row=",{u},{i},{t},")
    ),
    "two names of one column": Case("log.csv", table(), columns("user_id=item_id"), refused="are the same column"),
    "event of another case": Case(
        "log.csv",
        table(header="user_id,item_id,timestamp,event", row="{u},{i},{t},Purchase"),
        setting("events=purchase"),
        refused="the events of the file are Purchase",
        then=setting("events=Purchase"),
    ),
    "weights with a comma": Case(
        "log.csv",
        table(";", "user_id,item_id,timestamp,weight", row="{u},{i},{t},3!5").replace("!", ","),
    ),
    "a part without weights": Case(
        "parts",
        {"a.csv": table(header="user_id,item_id,timestamp,weight", row="{u},{i},{t},2"), "b.csv": table()},
        refused="b.csv: no column 'weight', which .*a.csv has as weight",
        then=setting("weights=ignore"),
    ),
    "a part with weights": Case(
        "parts",
        {"a.parquet": parquet(frame()), "b.parquet": parquet(frame().with_columns(weight=2.5))},
        refused="a.parquet: no column 'weight', which .*b.parquet has as weight",
        then=setting("weights=ignore"),
    ),
    "times to come": Case(
        "log.csv",
        table(events=FUTURE),
        refused="--set prepare.latest=2262-01-01",
        then=setting("latest=2262-01-01"),
        expected=FUTURE,
    ),
    "dates of long ago": Case(
        "log.csv",
        table(events=PAST, time=lambda second: moment(second).isoformat()),
        refused="--set prepare.earliest=1677-10-01",
        then=setting("earliest=1677-10-01"),
        expected=PAST,
    ),
    "a file that is no part": Case(
        "parts", {"a.csv": table(), "movies.csv": "movieId,title\n1,x\n"}, refused="if movies.csv is no part"
    ),
    "trailing comma": Case("log.csv", table(row="{u},{i},{t},"), says="end in a delimiter"),
    "columns in another order": Case("log.csv", table(header="timestamp,x,item_id,user_id", row="{t},x,{i},{u}")),
    "typed header of RecBole": Case(
        "x.inter", table("\t", header="user_id:token,item_id:token,timestamp:float"), says="RecBole"
    ),
    "u.data": Case("u.data", table("\t", None, NUMBERED, row="{u},{i},3,{t}"), expected=NUMBERED, says="column 4"),
    "ratings.dat": Case("ratings.dat", table("::", None, NUMBERED, row="{u},{i},3,{t}"), expected=NUMBERED),
    "headerless by places": Case(
        "log.csv", table(header=None, row="{t},{u},{i}"), columns("user_id=2,item_id=3,timestamp=1")
    ),
    "header and places": Case("log.csv", table(header="a,b,c"), PLACES),
    "headerless with time first": Case(
        "log.csv",
        table(header=None, row="{t},{u},{i}"),
        refused="no header",
        then=columns("user_id=2,item_id=3,timestamp=1"),
    ),
    "names of MovieLens": Case(
        "ratings.csv",
        table(header="userId,movieId,rating,timestamp", row="{u},{i},3.5,{t}"),
        refused="no column 'user_id'.*--columns user_id=userId,item_id=movieId",
        then=columns("user_id=userId,item_id=movieId"),
    ),
    "headerless words by places": Case(
        "log.csv", table(header=None, events=EVENTS, row="{u},{i}"), columns("user_id=1,item_id=2"), expected=None
    ),
    "headerless words": Case(
        "log.csv",
        table(header=None, row="{u},{i}"),
        expected=None,
        refused="or, where the first row is no header, its place: --columns user_id=1,item_id=2",
        then=columns("user_id=1,item_id=2"),
    ),
    "places of a known header": Case(
        "log.csv", table(header="userId,movieId", row="{u},{i}"), columns("user_id=1,item_id=2"), expected=None
    ),
    "places that stand in the rows": Case(
        "u.data", table("\t", None, NUMBERED, row="{u},{i},1,{t}"), columns("user_id=1,item_id=2,timestamp=4"), NUMBERED
    ),
    "numbers for names": Case("log.csv", table(header="0,1,2"), columns("user_id=0,item_id=1,timestamp=2")),
    "header yes": Case("log.csv", table(header="1,2,3"), (*PLACES, *setting("header=yes"))),
    "stray quotes in a tsv": Case("log.tsv", table("\t", NAMED, row=QUOTES), says="120 lines have quotes"),
    "stray quotes in a csv": Case("log.csv", table(header=NAMED, row=QUOTES)),
    "an open quote in a title": Case("log.csv", table(header=NAMED, row='{u},{i},{t},"Untitled')),
    "quotes of two fields far apart": Case(
        "log.tsv", table("\t", NAMED, row="{u},{i},{t},x").replace("\tx", '\t"x', 1)[:-2] + 'x"\n', says="1 lines have"
    ),
    "quotes with backslashes": Case("log.csv", table(header=NAMED, row='{u},{i},{t},"a \\"b\\", c"')),
    "doubled quotes": Case("log.csv", table(header=NAMED, row='{u},{i},{t},"a ""b"", c"')),
    "line breaks in a field": Case(
        "log.csv",
        table(header=NAMED, row='{u},{i},{t},"a\nb\n\nc"'),
        says="480 lines are parts of records.*first: .*:2",
    ),
    "a line break at the end of a field": Case(
        "log.csv", table(header=NAMED, row='{u},{i},{t},"a\n"'), says="240 lines are parts of records"
    ),
    "no quoting": Case("log.csv", table(header=NAMED, row='{u},{i},{t},"x'), setting('quote=""')),
    "half a pair in ids": Case(
        "log.csv", table(row='"{u},{i},{t}'), refused="malformed", says="quote that is not closed"
    ),
    "utf-8 with mark": Case("log.csv", b"\xef\xbb\xbf" + table().encode()),
    "utf-16": Case("log.csv", table().encode("utf-16"), says="utf-16"),
    "utf-16 big-endian with mark": Case("log.csv", b"\xfe\xff" + table().encode("utf-16-be")),
    "utf-16 without mark": Case("log.csv", table().encode("utf-16-le"), says="utf-16-le"),
    "utf-32": Case("log.csv", table().encode("utf-32")),
    "latin-1": Case(
        "log.csv",
        table(row="é{u},{i},{t}").encode("latin-1"),
        expected=[(f"é{u}", i, t) for u, i, t in EVENTS],
        says="120 lines are not UTF-8.*first: .*log.csv:2",
    ),
    "given encoding": Case(
        "log.csv",
        table(row="ж{u},{i},{t}").encode("cp1251"),
        setting("encoding=cp1251"),
        expected=[(f"ж{u}", i, t) for u, i, t in EVENTS],
    ),
    "unknown encoding": Case("log.csv", table(), setting("encoding=utf-9"), refused="unknown encoding 'utf-9'"),
    "gzip": Case("log.csv.gz", gzip.compress(table().encode()), says="compression gzip"),
    "gzip in two members": Case(
        "log.csv.gz", gzip.compress(table()[:800].encode()) + gzip.compress(table()[800:].encode())
    ),
    "gzip by no name": Case("log.csv", gzip.compress(table().encode())),
    "plain that is called gz": Case("log.csv.gz", table()),
    "bzip2": Case("log.csv.bz2", bz2.compress(table().encode()), says="bzip2"),
    "xz": Case("log.csv.xz", lzma.compress(table().encode()), says="xz"),
    "zip": Case("log.zip", zipped(log_csv=table()), says="zip"),
    "zip of a Mac": Case("log.zip", zipped(log_csv=table(), **{"__MACOSX/log": "x"})),
    "zip of two": Case("log.zip", zipped(a_csv=table(), b_csv="x"), refused="a zip of 2 files.*unzip log.zip"),
    "json lines gzipped": Case("log.jsonl.gz", gzip.compress(lines(objects()).encode())),
    "cut gzip": Case("log.csv.gz", gzip.compress(table().encode())[:-20], refused="gzip data is damaged"),
    "cut xz": Case("log.xz", lzma.compress(table().encode())[:-20], refused="xz data is damaged"),
    "json lines": Case("log.jsonl", lines(objects())),
    "json lines as txt with mark": Case("log.txt", "\ufeff" + lines(objects()), says="JSON lines"),
    "json array": Case("log.json", json.dumps(objects()), says="JSON, an array"),
    "json array, indented": Case("log.json", json.dumps(objects(), indent=2)),
    "json array, a line each": Case("log.json", "[\n" + ",\n".join(map(json.dumps, objects())) + "\n]\n"),
    "json in an object": Case("log.json", json.dumps({"meta": 1, "data": objects()})),
    "json objects, indented": Case("log.json", "\n".join(json.dumps(one, indent=1) for one in objects())),
    "json of columns": Case(
        "log.json", frame().to_dict(as_series=False).__repr__().replace("'", '"'), refused="JSON of columns"
    ),
    "json with trailing commas": Case("log.json", "".join(json.dumps(one) + ",\n" for one in objects())),
    "one json object": Case("log.json", json.dumps(objects()[0] | {"tags": [{"a": 1}]}), refused="only one user"),
    "cut json": Case("log.json", json.dumps(objects())[:-50], refused="not JSON.*cut off"),
    "json of Mongo": Case(
        "log.json",
        lines(
            [
                {"user_id": {"$oid": u}, "item_id": i, "timestamp": {"$date": {"$numberLong": f"{t}000"}}}
                for u, i, t in EVENTS
            ]
        ),
    ),
    "nested json": Case(
        "log.jsonl",
        lines([{"user": {"id": u}, "item_id": i, "timestamp": t} for u, i, t in EVENTS]),
        columns("user_id=user.id"),
    ),
    "json that needs no nested column": Case("log.jsonl", lines(objects(context={"a": [1]}, tags=[{"b": 1}]))),
    "json with NaN": Case(
        "log.jsonl",
        lines([*objects(), {"user_id": float("nan"), "item_id": "x", "timestamp": 1600000000}]),
        says="1 no_user",
    ),
    "json with large numbers": Case(
        "log.jsonl",
        lines([{"user_id": 10**23 + int(u[1:]), "item_id": i, "timestamp": t} for u, i, t in EVENTS]),
        expected=[(str(10**23 + int(u[1:])), i, t) for u, i, t in EVENTS],
    ),
    "parquet": Case("log.parquet", parquet(frame()), says="format Parquet"),
    "parquet by no name": Case("log", parquet(frame())),
    "gzipped parquet": Case("log.parquet.gz", gzip.compress(parquet(frame()))),
    "parquet of bytes": Case(
        "log.parquet", parquet(frame().with_columns(pl.col("user_id", "item_id").cast(pl.Binary)))
    ),
    "parquet of decimals": Case(
        "log.parquet",
        parquet(frame(NUMBERED).with_columns(pl.col("user_id").map_elements(Decimal, return_dtype=pl.Decimal(20, 2)))),
        expected=NUMBERED,
    ),
    "parquet of floats": Case(
        "log.parquet",
        parquet(frame(NUMBERED).with_columns(pl.col("user_id", "item_id").cast(pl.Float64))),
        expected=NUMBERED,
    ),
    "parquet of categories": Case("log.parquet", parquet(frame().with_columns(pl.col("item_id").cast(pl.Categorical)))),
    "parquet of large integers": Case(
        "log.parquet",
        parquet(frame(NUMBERED).with_columns(pl.col("user_id").cast(pl.UInt64) + 2**63)),
        expected=[(str(int(u) + 2**63), i, t) for u, i, t in NUMBERED],
    ),
    "parquet of lists beside": Case("log.parquet", parquet(frame().with_columns(tags=pl.lit([[1, 2]])))),
    "parquet of structs": Case(
        "log.parquet",
        parquet(frame().select(pl.struct("user_id").alias("who"), "item_id", "timestamp")),
        columns("user_id=who.user_id"),
    ),
    **{
        f"parquet of times in {unit} {zone}": Case(
            "log.parquet",
            parquet(frame().with_columns(pl.from_epoch("timestamp").cast(pl.Datetime(unit, zone)))),  # type: ignore[arg-type]
        )
        for unit in ("ms", "us", "ns")
        for zone in (None, "UTC", "Europe/Berlin")
    },
    "parquet of dates": Case(
        "log.parquet", parquet(frame().with_columns(pl.from_epoch("timestamp").cast(pl.Date))), **MIDNIGHTS
    ),
    "damaged parquet": Case("log.parquet", parquet(frame())[:-30], refused="damaged Parquet"),
    "arrow": Case("log.arrow", (lambda file: (frame().write_ipc(file), file.getvalue())[1])(io.BytesIO())),
    **{
        f"unix time in {unit}": Case("log.csv", table(time=lambda t, scale=scale: t * scale), says=f"Unix {unit}")
        for unit, scale in (("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9))
    },
    "fractions of seconds": Case("log.csv", table(time=lambda t: f"{t}.000000")),
    "exponents": Case("log.csv", table(time=lambda t: f"{t / 1e9:.9f}e9")),
    **{
        f"time as {form}": Case("log.csv", time_table(form))
        for form in (
            "%Y-%m-%d %H:%M:%S UTC",
            "%Y-%m-%d %H:%M:%S+0000",
            "%Y-%m-%d %H:%M:%S +0000",
            "%Y-%m-%dT%H:%M:%SZ",
            "%Y-%m-%dT%H:%M:%S.000000000Z",
            "%Y-%m-%d %H:%M:%S GMT",
            "%Y/%m/%d %H:%M:%S",
            "%Y.%m.%d %H:%M:%S",
            "%Y%m%d%H%M%S",
            "%Y%m%dT%H%M%S",
            "%d/%m/%Y %H:%M:%S",
            "%m/%d/%Y %H:%M:%S",
            "%m/%d/%Y %I:%M:%S %p",
            "%d.%m.%Y %H:%M:%S",
            "%d-%b-%Y %H:%M:%S",
            "%d %B %Y %H:%M:%S",
            "%b %d, %Y %H:%M:%S",
            "%m/%d/%y %H:%M:%S",
            "%a %b %d %H:%M:%S +0000 %Y",
            "%a, %d %b %Y %H:%M:%S GMT",
            "%d/%b/%Y:%H:%M:%S +0000",
            "%Y-%m-%dT%H:%M:%S.000+00:00[UTC]",
            "%a %b %d %H:%M:%S UTC %Y",
            "%a %b %d %I:%M:%S %p UTC %Y",
            "%a %b %d %Y %H:%M:%S GMT+0000 (Coordinated Universal Time)",
            "%Y-%m-%d %H:%M:%S +0000 UTC m=+0.01",
            "%Y-%m-%dT%H:%M:%S.000+00:00[Etc/GMT-0]",
            "%Y-%m-%d-%H.%M.%S.000000",
            "%d-%b-%y %I.%M.%S.000000000 %p",
            "%d%b%Y:%H:%M:%S",
            "%Y:%m:%d %H:%M:%S",
            "%Y-%b-%d %H:%M:%S",
            "%Y年%m月%d日 %H:%M:%S",
            "%d.%m.%Y %H.%M.%S",
            "%d septembre %Y à %H:%M:%S",
            "%d. Sept. %Y %H:%M:%S Uhr",
            "%d de septiembre de %Y, %H:%M:%S",
            "le %d sept. %Y %H:%M:%S",
        )
    },
    **{
        f"time of {zone}": Case(
            "log.csv", table(time=lambda t, zone=zone: moment(t + 7200).strftime("%Y-%m-%d %H:%M:%S ") + zone)
        )
        for zone in (
            "GMT+2",
            "UTC+02:00",
            "+0200 CEST",
            "+02:00 (Central European Summer Time)",
            "+02:00[Europe/Paris]",
        )
    },
    **{
        f"halves of the day as {half}": Case(
            "log.csv",
            table(
                time=lambda t, half=half: (
                    moment(t).strftime("%d/%m/%Y %I:%M:%S ") + half.replace("p", "ap"[moment(t).hour >= 12])
                )
            ),
        )
        for half in ("p.m.", "p. m.", "pm")
    },
    **{
        f"numbers in groups by {sign}": Case(
            "log.csv", table(time=lambda t, sign=sign: f"{t * 1000:,}".replace(",", sign), row='{u},{i},"{t}"')
        )
        for sign in (",", ".", " ", "'", "_", "\u202f")
    },
    **{
        f"times wrapped as {wrapped}": Case(
            "log.csv", table(time=lambda t, w=wrapped: w.replace("#", f"{t}000"), row="{u},{i},{t}")
        )
        for wrapped in ("/Date(#)/", "/Date(#+0200)/", "new Date(#)", "NumberLong(#)", '"{""$date"": #}"')
    },
    "times wrapped as ISODate": Case("log.csv", table(time=lambda t: f"ISODate('{moment(t):%Y-%m-%dT%H:%M:%S.000Z}')")),
    "times wrapped in json": Case(
        "log.jsonl", lines([one | {"timestamp": f"/Date({one['timestamp']}000)/"} for one in objects()])
    ),
    "ids of MongoDB in a csv": Case(
        "log.csv",
        table(events=[(f"{int(u[1:]):024x}", i, t) for u, i, t in EVENTS], row="ObjectId({u}),{i},{t}"),
        expected=[(f"{int(u[1:]):024x}", i, t) for u, i, t in EVENTS],
    ),
    **{
        f"date as {form}": Case("log.csv", time_table(form, DAYS), **MIDNIGHTS)
        for form in (
            "%d settembre %Y",
            "Mi. %d. September %Y",
            "%d de set. de %Y",
            "%Y_%m_%d",
            "%Y\u2212%m\u221209".replace("09", "%d"),
        )
    },
    "weeks of ISO 8601": Case(
        "log.csv",
        time_table("%G-W%V"),
        expected=[(u, i, t - t % 86_400 - 86_400 * moment(t).weekday()) for u, i, t in EVENTS],
    ),
    "the hour 24": Case("log.csv", time_table("%Y-%m-%d 24:00"), expected=[(u, i, t + 86_400) for u, i, t in DAYS]),
    "time of another zone": Case("log.csv", table(time=lambda t: moment(t + 7200).strftime("%Y-%m-%d %H:%M:%S+02:00"))),
    **{
        f"date as {form}": Case("log.csv", time_table(form, DAYS), **MIDNIGHTS)
        for form in ("%Y-%m-%d", "%Y%m%d", "%d/%m/%Y", "%Y/%m/%d", "%d %b %Y")
    },
    "day or month first": Case(
        "log.csv",
        time_table(
            "%d/%m/%Y",
            days := [
                (u, i, int(datetime(2020, 1 + n % 6, 3 + n % 5, tzinfo=UTC).timestamp()))
                for n, (u, i, _) in enumerate(EVENTS)
            ],
        ),
        expected=days,
        refused="no row of the file decides.*day-first",
        then=setting("times=day-first"),
    ),
    "years": Case(
        "log.csv", table(time=lambda t: 2000 + t % 20), refused="bare years: --set prepare.times=year", says="1970"
    ),
    "days of Excel": Case(
        "log.csv",
        table(time=lambda t: f"{t / 86400 + 25569:.8f}"),
        refused="Excel's days: --set prepare.times=excel",
        then=setting("times=excel"),
    ),
    "counters": Case(
        "log.csv",
        table(events=(ordinal := [(u, i, n) for n, (u, i, _) in enumerate(EVENTS)])),
        expected=ordinal,
        refused="malformed.*prepare.earliest=",
        then=setting("earliest=1970-01-01"),
    ),
    "future times": Case("log.csv", table(time=lambda t: t + 10**9), refused="implausible timestamp", then=None),
    "words for times": Case("log.csv", table(time=lambda t: "soon"), refused="100.0%"),
    "no times": Case(
        "log.csv",
        table(header="user_id,item_id", row="{u},{i}"),
        expected=None,
        says="order of the rows.*means nothing",
    ),
    "time by another name": Case(
        "log.csv",
        table(header="user_id,item_id,when"),
        refused="--columns timestamp=when",
        then=columns("timestamp=when"),
    ),
    "order by setting": Case("log.csv", table(), setting("times=order"), expected=None, says="order of the rows"),
    "missing users": Case(
        "log.csv",
        table()
        + "".join(f"{word},i1,1600000000\n" for word in ("nan", "NaN", "None", "NULL", "<NA>", "\\N", "NaT", "", " ")),
        says="9 no_user",
    ),
    "signs for users and items that are none": Case(
        "log.csv",
        table()
        + "".join(
            f"{word},i1,1600000000\nu1,{word},1600000000\n" for word in ("-", "--", "#N/A", "(null)", "<null>", "—")
        )
        + "".join(f"{word},i1,1600000000\n" for word in ("n/a", "N/A", "(not set)", " - ")),
        says="10 no_user, 6 no_item",
    ),
    "words that may be ids": Case(
        "log.csv",
        table(
            events=(words := [(w, i, t) for w in ("unknown", "test", "NA", "-1", "0", "?") for _, i, t in EVENTS[:6]])
        ),
        expected=words,
    ),
    "a user of all that is not known": Case(
        "log.csv",
        table(events=(guest := [*EVENTS, *(("guest", f"i{n}", 1_600_000_000 + n) for n in range(400))])),
        expected=guest,
        says="user 'guest' has 400 of the events.*stands for nobody",
    ),
    "a label of clicks": Case(
        "log.csv",
        table(header="is_click,user_id,item_id,timestamp", row="1,{u},{i},{t}").replace("\n1", "\n0", 60),
        says="is_click holds 0 and 1, and is not used.*--columns weight=is_click",
    ),
    "clicks alone": Case(
        "log.csv",
        table(header="is_click,user_id,item_id,timestamp", row="1,{u},{i},{t}").replace("\n1", "\n0", 60),
        columns("weight=is_click"),
        expected=EVENTS[60:],
        says="60 weight_too_low",
    ),
    "a label without a header": Case(
        "log.csv",
        table("\t", None, row="0,{u},{i},{t}").replace("0", "1", 1),
        refused="--columns user_id=2,item_id=3,timestamp=4",
        then=columns("user_id=2,item_id=3,timestamp=4"),
    ),
    "ratings of one film": Case(
        "log.csv",
        table(header=None, row="{u},3,{t}", events=EVENTS).replace(",3,", ",4,", 60),
        refused="no header.*--columns user_id=PLACE,item_id=PLACE,timestamp=3",
        then=None,
    ),
    "clicks of YooChoose": Case(
        "log.dat",
        table(header=None, row="{u},{t},{i},0", events=NUMBERED, time=lambda t: moment(t).isoformat() + "Z").replace(
            "+00:00Z", "Z"
        ),
        refused="--columns user_id=1,item_id=3,timestamp=2",
        then=columns("user_id=1,item_id=3,timestamp=2"),
        expected=NUMBERED,
    ),
    "check-ins of Gowalla": Case(
        "log.txt",
        table("\t", None, row="{u},{t},30.2359,-97.7951,{i}", events=NUMBERED),
        refused="--columns user_id=1,item_id=5,timestamp=2",
        then=columns("user_id=1,item_id=5,timestamp=2"),
        expected=NUMBERED,
    ),
    "behaviour of Taobao": Case(
        "UserBehavior.csv",
        table(header=None, row="{u},{i},4641,pv,{t}", events=NUMBERED),
        refused="--columns user_id=1,item_id=2,timestamp=5",
        then=columns("user_id=1,item_id=2,timestamp=5"),
        expected=NUMBERED,
    ),
    "listening of Last.fm": Case(
        "log.tsv",
        table(
            "\t", None, row='user_{u},{t},{i},A {i},tr-{i},A "song"', time=lambda t: f"{moment(t):%Y-%m-%dT%H:%M:%SZ}"
        ),
        refused="--columns user_id=1,item_id=3,timestamp=2",
        then=columns("user_id=1,item_id=3,timestamp=2"),
        expected=[(f"user_{u}", i, t) for u, i, t in EVENTS],
    ),
    "views of Diginetica": Case(
        "log.csv",
        table(";", "sessionId,userId,itemId,timeframe,eventdate", row="{u},NA,{i},526309,{t}"),
        columns("user_id=userId,item_id=itemId,timestamp=eventdate"),
        refused="only one user is left, 'NA'.*--columns user_id=sessionId",
        then=columns("user_id=sessionId,item_id=itemId,timestamp=eventdate"),
    ),
    "challenge of 2017": Case(
        "log.csv",
        table("\t", "interactions.user_id,interactions.item_id,interactions.created_at"),
        refused="--columns user_id=interactions.user_id,item_id=interactions.item_id,timestamp=interactions.created_at",
        then=columns("user_id=interactions.user_id,item_id=interactions.item_id,timestamp=interactions.created_at"),
    ),
    **{
        f"names such as {names}": Case(
            "log.csv",
            table(";", names),
            refused=f"--columns '?user_id={u},item_id={i},timestamp={t}",
            then=columns(f"user_id={u},item_id={i},timestamp={t}"),
        )
        for names in ("Kunde,Artikel,Datum", "utilisateur,article,date", "usuário,produto,data")
        for u, i, t in [names.split(",")]
    },
    "impressions by places": Case(
        "behaviors.tsv",
        table("\t", None, row="{u},{i}-1 N9-0 N8-0,{t}"),
        PLACES,
        expected=[(u, f"{i}-1 N9-0 N8-0", t) for u, i, t in EVENTS],
        says="item ids look like several",
    ),
    "marks where files were joined": Case(
        "log.csv", table(events=EVENTS[:60]) + "\ufeff" + table(header=None, events=EVENTS[60:])
    ),
    "comments between rows": Case(
        "log.csv",
        table().replace("\nu1,", "\n# of u1, and others\nu1,", 3),
        says="3 lines are comments, rules or totals",
    ),
    "ids that begin with a hash": Case(
        "log.csv", table(row="#{u},{i},{t}"), expected=[(f"#{u}", i, t) for u, i, t in EVENTS]
    ),
    "a hash before a title with commas": Case(
        "log.csv",
        table(header=NAMED, row='#{u},{i},{t},"a, b\nc"'),
        expected=[(f"#{u}", i, t) for u, i, t in EVENTS],
        says="240 lines are parts of records",
    ),
    "rules and totals in a title": Case(
        "log.csv", table(header=NAMED, row='{u},{i},{t},"a\n-----\n(12 rows)\n,,,\nb"'), says="columns: [^-]*600 lines"
    ),
    "a table of psql": Case(
        "log.txt",
        table("|", " user_id , item_id , timestamp ", row=" {u} , {i} , {t}").replace("\n", "\n----+----+------\n", 1)
        + "(120 rows)\n\n",
        says="2 lines are comments, rules or totals .*:2",
    ),
    "a table of mysql": Case(
        "log.txt",
        "+----+----+----+\n"
        + "".join(f"| {line.replace(',', ' | ')} |\n" for line in table().splitlines()).replace(
            "\n", "\n+----+----+----+\n", 1
        )
        + "+----+----+----+\n120 rows in set (0.01 sec)\n",
        says="4 lines are comments, rules or totals|3 lines are comments, rules or totals",
    ),
    **{
        f"a total such as {total}": Case(
            "log.csv", table() + f"\n{total}\n", says="1 lines are comments, rules or totals"
        )
        for total in ("(120 rows affected)", "120 rows selected.")
    },
    "other names above the names": Case("log.csv", "User,Item,When\n" + table(), says="header line 2"),
    "a name with a comma": Case(
        "log.csv",
        table(header='"user, id",item_id,timestamp'),
        columns("user_id=user"),
        refused="no column 'user'; the file has: user, id, item_id",
        then=columns("user_id=1"),
    ),
    "a name with a comma that is known": Case(
        "log.csv",
        table(header='"user, id",item_id,timestamp'),
        refused="--columns user_id=1$",
        then=columns("user_id=1"),
    ),
    "names that are empty": Case(
        "log.csv", table(header=",,"), refused="its place: --columns user_id=1,item_id=2,timestamp=3", then=PLACES
    ),
    "json text sequences": Case(
        "log.json", "".join(f"\x1e{json.dumps(one)}\n" for one in objects()), says="JSON lines"
    ),
    "objects under our names": Case(
        "log.jsonl",
        lines([one | {"user_id": {"value": one["user_id"]}} for one in objects()]),
        refused="--columns user_id=user_id.value",
        then=columns("user_id=user_id.value"),
    ),
    "documents of Elasticsearch": Case(
        "log.jsonl",
        lines([{"_id": at, "_source": one} for at, one in enumerate(objects())]),
        refused="user_id=_source.user_id,item_id=_source.item_id,timestamp=_source.timestamp",
        then=columns("user_id=_source.user_id,item_id=_source.item_id,timestamp=_source.timestamp"),
    ),
    "years of Iran": Case(
        "log.csv", time_table("1399-06-%d"), refused="years of the Persian or the Islamic calendar", then=None
    ),
    "weights that are none": Case(
        "log.csv",
        table(header="user_id,item_id,timestamp,weight", row="{u},{i},{t},3")
        .replace(",3\n", ",-\n", 5)
        .replace(",3\n", ",NULL\n", 5),
        expected=EVENTS[10:],
        says="10 no_weight",
    ),
    "unit separators of ASCII": Case("log.txt", table("\x1f"), says=r"delimiter .x1f"),
    "a log with day and time apart": Case(
        "log.txt",
        "#Software: x\n" + table(" ", None, row="{t},{u},{i}", time=lambda t: moment(t).strftime("%Y-%m-%d %H:%M:%S")),
        refused="--columns user_id=3,item_id=4,timestamp=1[+]2",
        then=columns("user_id=3,item_id=4,timestamp=1+2"),
    ),
    "ids as bytes of Python": Case("log.csv", table(row="b'{u}',b'{i}',{t}")),
    "settings": Case("log.ini", "[a]\nb=1\nc=2\n", refused="no column 'user_id'; the file has: .a.", then=None),
    "a dump of SQL in small letters": Case("log.sql", "insert into t values (1);\n", refused="a dump of SQL"),
    "a dump of SQL in letters of both kinds": Case("log.sql", "Insert Into t values (1);\n", refused="a dump of SQL"),
    "a page of HTML in letters of both kinds": Case(
        "log.csv", "<!Doctype html><html>no</html>", refused="a page of HTML"
    ),
    "a table of HTML": Case("log.csv", "<table><tr><td>u</td></tr></table>", refused="a table of HTML.*read_html"),
    "label and features": Case(
        "x.ffm", "".join(f"1 0:{n}:1 1:{n}:1\n" for n in range(30)), refused="libffm.*no events"
    ),
    "floats for ids": Case(
        "log.csv",
        table(events=NUMBERED, row="{u}.0,{i}.0,{t}") + "nan,5.0,1600000000\n",
        expected=NUMBERED,
        says="1 no_user",
    ),
    "zeros before ids": Case("log.csv", table(row="00{u},{i},{t}"), expected=[(f"00{u}", i, t) for u, i, t in EVENTS]),
    "rounded ids": Case(
        "log.csv", table(row="1.2345{u}E+11,{i},{t}".replace("{u}", "{u[1]}")), expected=None, says="spreadsheet"
    ),
    "repeated headers": Case(
        "log.csv", table(events=EVENTS[:60]) + table(events=EVENTS[60:]), says="the header stands 1 more times.*:62"
    ),
    "parts": Case(
        "parts",
        {
            "_SUCCESS": "",
            "part-1.csv": table(events=EVENTS[:60]),
            "part-0.csv": table(events=EVENTS[60:]),
            ".part-0.csv.crc": "x",
        },
        says="2 parts",
    ),
    "parts of parquet": Case(
        "parts", {"part-0.parquet": parquet(frame(EVENTS[:60])), "part-1.parquet": parquet(frame(EVENTS[60:]))}
    ),
    "parts in folders": Case(
        "parts", {"day=1/part-0.csv": table(events=EVENTS[:60]), "day=2/part-0.csv": table(events=EVENTS[60:])}
    ),
    "parts of several forms": Case(
        "parts", {"a.csv": table(events=EVENTS[:60]), "b.jsonl": lines(objects(EVENTS[60:])), "c.csv": ""}
    ),
    "glob": Case(
        "parts",
        {
            "a-0.csv": table(events=EVENTS[:60]),
            "a-1.csv.gz": gzip.compress(table(events=EVENTS[60:]).encode()),
            "b.csv": "x",
        },
        glob="a-*",
    ),
    "address": Case("log.csv", table(), address="file://"),
    "address of a glob": Case(
        "parts",
        {"a.csv": table(events=EVENTS[:60]), "b.csv": table(events=EVENTS[60:])},
        address="local://",
        glob="*.csv",
    ),
    "address of nothing": Case(
        "log.csv", table(), address="file:///nowhere", refused="cannot be fetched|no file with rows"
    ),
    "address of an unknown kind": Case(
        "log.csv", table(), address="gopher://", refused="gopher.*fetch the file yourself"
    ),
    "empty directory": Case("parts", {"_SUCCESS": "x"}, refused="no file with rows"),
    "empty": Case("log.csv", "", refused="the file is empty"),
    "header alone": Case("log.csv", table(events=[]), refused="no rows below the header"),
    "workbook": Case(
        "log.xlsx",
        zipped(**{"[Content_Types]_xml": "x", "xl/a": "b"}),
        refused="an Excel workbook.*save the sheet as CSV",
    ),
    "page of html": Case("log.csv", "<!DOCTYPE html><html>no</html>", refused="a page of HTML"),
    "pickle": Case("log.pkl", b"\x80\x04\x95rest", refused="pickles are never opened"),
    "database": Case("log.db", b"SQLite format 3\0rest", refused="an SQLite database.*sqlite3"),
    "pointer of Git LFS": Case("log.csv", "version https://git-lfs.github.com/spec/v1\n", refused="git lfs pull"),
    "noise": Case("log.csv", bytes(range(256)) * 40, refused="neither text nor Parquet"),
    "one column": Case("log.csv", "user_id\nu1\n", refused="no column 'item_id'"),
    "lines quoted as a whole": Case(
        "log.csv",
        table(header='"user_id,item_id,timestamp"', row='"{u},{i},{t}"'),
        refused="each line was read as one value.*take the outer quotes away",
    ),
    "printed table": Case(
        "log.txt",
        table(header="    user_id item_id   timestamp", row="0        {u}      {i}  {t}"),
        refused="a printed table.*df.to_csv",
    ),
    "names with spaces": Case(
        "log.csv",
        table(header="User ID,Item ID,Time Stamp"),
        refused="--columns 'user_id=User ID,item_id=Item ID,timestamp=Time Stamp'",
        then=columns("user_id=User ID,item_id=Item ID,timestamp=Time Stamp"),
    ),
    "ticks of .NET": Case("log.csv", table(time=lambda t: t * 10**7 + 621_355_968 * 10**9), says="times: .NET ticks"),
    "file times of Windows": Case(
        "log.csv", table(time=lambda t: t * 10**7 + 116_444_736 * 10**9), says="times: Windows file times"
    ),
    "seconds since 2001": Case(
        "log.csv",
        table(events=(apple := [(u, i, 640_000_000 + t % 10**6) for u, i, t in EVENTS])),
        expected=apple,
        says="every event is of before 1996-01-01",
    ),
    "twice the same name": Case(
        "log.csv",
        table(header="user_id,user_id,item_id,timestamp", row="{u},x,{i},{t}"),
        refused="two columns are named user_id.*--columns user_id=1",
        then=columns("user_id=1"),
    ),
    "ratings": Case(
        "log.csv",
        table(header="user_id,item_id,rating,timestamp", row="{u},{i},3.5,{t}").replace("3.5", "1", 7),
        says="rating looks like ratings.*--columns weight=rating",
    ),
    "users with one event": Case("log.csv", table(row="{u}{i}{t},{i},{t}"), refused="--columns user_id=COLUMN"),
    "three events": Case(
        "log.csv",
        table(events=(three := [e for n, e in enumerate(EVENTS) if n % 6 < 3])),
        expected=three,
        says="histories are short",
    ),
    "two events": Case(
        "log.csv",
        table(events=(two := [e for n, e in enumerate(EVENTS) if n % 6 < 2])),
        refused="min_targets",
        expected=two,
        then=setting("min_targets=10"),
    ),
}
if shutil.which("zstd"):
    CASES["zstd"] = Case("log.csv.zst", zstd(table()), says="zstd")
    CASES["json lines in zstd"] = Case("log.jsonl.zst", zstd(lines(objects())))


def histories(delimiter: str) -> str:
    """Return a line for each user of EVENTS, of other length each: the user and all items."""
    users = list(dict.fromkeys(user for user, _, _ in EVENTS))
    of_user = {user: [i for u, i, _ in EVENTS if u == user][: 2 + at % 4] for at, user in enumerate(users)}
    return "".join(delimiter.join([user, *items]) + "\n" for user, items in of_user.items())


NETFLIX = "".join(
    f"{at}:\n" + "".join(f"{u},3,{moment(t).date()}\n" for u, i, t in EVENTS if i == f"i{at:02d}") for at in range(17)
)
RECORDS = "".join(
    f"product/productId: {i}\nproduct/price: 1: 2\nreview/userId: {u}\nreview/time: {t}\n\n" for u, i, t in EVENTS
)
SHAPES = {
    "blocks": (NETFLIX, 120),
    "records": (RECORDS, 120),
    "histories": (histories(" "), None),
    "histories between tabs": (histories("\t"), None),
    "histories between commas": (histories(","), None),
    "histories, of which some are empty": ("u98\n" + histories(" ") + "u99\n", 70),
    "numbers of items before": (
        "".join(f"{len(items)} {' '.join(items)}\n" for _, *items in map(str.split, histories(" ").splitlines())),
        70,
    ),
    "libsvm": (re.sub(r" (\S+)", r" \1:1", histories(" ")), 70),
    "impressions": (
        "".join(
            f"{n}\t{u}\t{moment(t):%m/%d/%Y %I:%M:%S %p}\tN1 N2\tN7-0 {i}-1 N8-0\n"
            for n, (u, i, t) in enumerate(EVENTS)
        ),
        120,
    ),
    "a matrix": ("".join(";".join(str((n + k) % 3) for k in range(15)) + "\n" for n in range(20)), 200),
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_has_no_rows_is_refused_with_a_command_that_makes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    text, n_events = SHAPES[name]
    (tmp_path / "FILE").write_text(text)

    code = main(["prepare", "--interactions", str(tmp_path / "FILE"), "--out", str(tmp_path / "run")])

    command = re.search("awk .* > events.csv", capsys.readouterr().err)
    assert code == 2 and command
    subprocess.run(command[0], shell=True, cwd=tmp_path, check=True)
    given = ["--interactions", str(tmp_path / "events.csv"), "--set", "prepare.min_targets=1"]
    assert main(["prepare", *given, "--out", str(tmp_path / "run")]) == 0
    expected = n_events or len(text.split()) - 20 if "," not in text.split()[0] else text.count(",")
    assert len(events_in(tmp_path / "run")) == expected


def zoned(zone: str, hours: int = 0, form: str = "%Y-%m-%d %H:%M:%S ") -> str:
    return table(time=lambda t: f"{moment(t + 3600 * hours).strftime(form)}{zone}")


MONTHS = [(u, i, int(moment(t).replace(day=1, hour=0, minute=0, second=0).timestamp())) for u, i, t in EVENTS]
QUARTERS = [(u, i, int(moment(t).replace(month=7).timestamp())) for u, i, t in MONTHS]
SESSIONS = [
    {"session": user, "events": [{"aid": i, "ts": t} for u, i, t in EVENTS if u == user], "n": 1}
    for user in dict.fromkeys(u for u, _, _ in EVENTS)
]
OF_SESSIONS = columns("user_id=session,item_id=aid,timestamp=ts")
SHELL = '{{"_id": ObjectId("{u}"), "user_id": "{u}", "item_id": "{i}", "timestamp": ISODate("{t}"), "n": NumberInt(3)}}'
XML_ROW = '<event user_id="{u}" item_id="{i}" timestamp="{t}"/>'
COMMANDS = {
    "names of zones": Case("FILE", zoned("CEST", 2), refused="CEST is the name of a zone.*central Europe"),
    "a name of a zone behind the half of the day": Case("FILE", zoned("PDT", -7, "%m/%d/%Y %I:%M:%S %p ")),
    "date(1) of a zone": Case("FILE", table(time=lambda t: f"{moment(t - 7 * 3600):%a %b %d %H:%M:%S PDT %Y}")),
    "a zone of no table": Case("FILE", zoned("XYZT"), refused="XYZT is the name of a zone"),
    "a region alone": Case("FILE", zoned("Europe/Paris", 2), refused="Times of Europe/Paris without an offset"),
    "an old name of a region": Case("FILE", zoned("EST5EDT", -4), refused="Times of EST5EDT without an offset"),
    "a region in brackets between semicolons": Case(
        "FILE", zoned("[Europe/Paris]", 2, "%Y-%m-%dT%H:%M:%S").replace(",", ";")
    ),
    "quarters": Case(
        "FILE", table(time=lambda t: f"{moment(t).year}Q3"), refused="2020Q3 are quarters", expected=QUARTERS
    ),
    "quarters before years": Case("FILE", table(time=lambda t: f"Q3 {moment(t).year}"), expected=QUARTERS),
    "days as ddmmyyyy": Case("FILE", time_table("%d%m%Y"), refused="days as ddmmyyyy", expected=DAYS),
    "days as mmddyyyy, as numbers": Case(
        "FILE", table(time=lambda t: int(f"{moment(t):%m%d%Y}")), refused="or mmddyyyy", expected=DAYS
    ),
    "days as yymmdd": Case("FILE", time_table("%y%m%d"), refused="days as yymmdd", expected=DAYS),
    "logfmt": Case(
        "FILE", table(header=None, row='ts={t} level="very low" user_id={u} item_id={i}'), then=columns("timestamp=ts")
    ),
    "queries of addresses": Case("FILE", table(header=None, row="user_id={u}&item_id={i}&timestamp={t}&q=%C3%A9+2")),
    "LTSV": Case("FILE", table(header=None, row="user_id:{u}\titem_id:{i}\ttimestamp:{t}\treq:GET /a")),
    "a name before each value, between semicolons": Case(
        "FILE", table(header=None, row="user_id={u}; item_id={i}; timestamp={t}")
    ),
    "pairs with colons": Case("FILE", table(header=None, row="user_id: {u}; item_id: {i}; timestamp: {t}")),
    "named values behind words": Case(
        "FILE", table(header=None, row='{t} INFO user_id={u} item_id={i} name="a b"'), then=columns("timestamp=1")
    ),
    "XML of attributes": Case(
        "FILE", f"<events>\n{table(header=None, row=XML_ROW)}</events>\n", refused="XML or HTML; write an object a line"
    ),
    "XML of elements": Case(
        "FILE",
        '<?xml version="1.0"?>\n<all>'
        + table(header=None, row="<e><user_id>{u}</user_id><item_id>{i}</item_id><timestamp>{t}</timestamp></e>")
        + "</all>",
    ),
    "messages with JSON as text": Case(
        "FILE",
        lines([{"offset": n, "value": json.dumps(one)} for n, one in enumerate(objects())]),
        refused="where value holds the row as text",
    ),
    "fixed widths": Case("FILE", table(header="user_id     item_id     timestamp", row="{u:<12}{i:<12}{t}")),
    "years of Thailand": Case(
        "FILE",
        table(time=lambda t: f"{moment(t):%d/%m/}{moment(t).year + 543} {moment(t):%H:%M:%S}"),
        refused="years of the Buddhist calendar",
    ),
    "months": Case("FILE", time_table("%Y-%m"), refused="2020-09 are months", expected=MONTHS),
    "months by name": Case("FILE", time_table("%b-%y"), expected=MONTHS),
    "no year": Case("FILE", time_table("%b %d %H:%M:%S"), refused="without a year"),
    "months of an unknown language": Case(
        "FILE", time_table("%d сентября %Y"), refused="сентября is no month", expected=DAYS
    ),
    "bytes of Python": Case("FILE", table(row="b'{u}',b'{i}',b'{t}'")),
    "numbers with a unit": Case("FILE", table(time=lambda t: f"{t}000ms")),
    "dicts of Python": Case("FILE", "".join(f"{one}\n" for one in objects(text="it's"))),
    "MongoDB's shell": Case("FILE", table(header=None, row=SHELL, time=lambda t: f"{moment(t):%Y-%m-%dT%H:%M:%SZ}")),
    "sessions of JSON lines": Case("FILE", lines(SESSIONS), then=OF_SESSIONS),
    "sessions of a JSON array": Case("FILE", json.dumps(SESSIONS, indent=1), then=OF_SESSIONS),
    "sessions of a JSON object": Case("FILE", json.dumps({"n": 1, "sessions": SESSIONS}), then=OF_SESSIONS),
    "items of JSON lines": Case(
        "FILE",
        lines([one | {"item_id": [one["item_id"], "i99"]} for one in objects()]),
        expected=[*EVENTS, *((u, "i99", t) for u, _, t in EVENTS)],
    ),
    "zero bytes at the end": Case(
        "FILE", table()[:2000] + "\0" * 3000 + table()[2000:], refused="text with zero bytes"
    ),
    "ends of lines of three kinds": Case(
        "FILE", table().replace("\n", "\r\n", 30).replace("1\n", "1\r", 7), refused="ends of lines alone"
    ),
    "fields without a name": Case("FILE", table(row="{u},{i},{t},,"), refused="fields without a name"),
    "commas in a title": Case(
        "FILE", table(header=NAMED, row="{u},{i},{t},a, b"), refused="5 fields, the header has 4"
    ),
    "an ARFF file": Case(
        "FILE", "@relation x\n@attribute user string\n@data\n" + table(header=None), refused="an ARFF file"
    ),
    "a Matrix Market file": Case(
        "FILE",
        "%%MatrixMarket matrix coordinate integer general\n% made by hand\n20 17 120\n"
        + table(" ", None, NUMBERED, row="{u},{i},1"),
        refused="a Matrix Market file",
        then=columns("user_id=1,item_id=2"),
        expected=None,
    ),
    "tabs as a backslash and a t": Case("FILE", table("\\t"), refused="a backslash and a t stand for tabs"),
    "a list of tuples": Case("FILE", repr(EVENTS), refused="lists of values"),
    "lists of JSON": Case("FILE", table(header=None, row='["{u}", "{i}", {t}]'), refused="lists of values"),
    "an array of lists": Case("FILE", json.dumps(EVENTS)),
    "an array of lists below their names": Case("FILE", json.dumps([["user_id", "item_id", "timestamp"], *EVENTS])),
    "a JSON of columns": Case("FILE", frame().to_dict(as_series=False).__repr__().replace("'", '"')),
    "a JSON of columns, by rows": Case(
        "FILE", json.dumps({name: dict(enumerate(frame()[name])) for name in ("user_id", "item_id", "timestamp")})
    ),
    "a JSON of names and rows": Case(
        "FILE", json.dumps({"columns": ["user_id", "item_id", "timestamp"], "index": [1], "data": EVENTS})
    ),
    "a JSON of rows by their names": Case("FILE", json.dumps(dict(enumerate(objects())))),
    "a JSON of users": Case(
        "FILE",
        json.dumps(
            {one["session"]: [{"item_id": e["aid"], "timestamp": e["ts"]} for e in one["events"]] for one in SESSIONS}
        ),
    ),
    "a JSON of users and items alone": Case(
        "FILE", json.dumps({one["session"]: [e["aid"] for e in one["events"]] for one in SESSIONS}), expected=None
    ),
    "hits of Elasticsearch": Case(
        "FILE", json.dumps({"took": 1, "hits": {"total": 1, "hits": objects()}}), refused="hits.hits holds the rows"
    ),
    "JSON in strings": Case("FILE", "".join(json.dumps(json.dumps(one)) + "\n" for one in objects())),
    "lists in Parquet": Case("FILE", parquet(frame().group_by("user_id").agg("item_id", "timestamp"))),
    "rows in Parquet": Case(
        "FILE", parquet(frame().group_by("user_id").agg(pl.struct("item_id", "timestamp").alias("e")))
    ),
    "bytes in Parquet": Case(
        "FILE",
        parquet(frame().with_columns(pl.Series("user_id", [bytes([200, int(u[1:])]) for u, _, _ in EVENTS]))),
        expected=[(f"c8{int(u[1:]):02x}", i, t) for u, i, t in EVENTS],
    ),
}


ZONED = zoned("CEST", 2)
PACKED = {
    "gzip": ("log.csv.gz", gzip.compress(ZONED.encode())),
    "bzip2": ("log.csv.bz2", bz2.compress(ZONED.encode())),
    "zip": ("log.zip", zipped(log_csv=ZONED)),
    "utf-16": ("log.csv", ZONED.encode("utf-16")),
    "parquet": ("log.parquet", parquet(pl.read_csv(io.StringIO(ZONED)).with_columns(tags=pl.lit([[1]])))),
    "a shape in gzip": ("log.gz", gzip.compress(NETFLIX.encode())),
}


@pytest.mark.parametrize("name", PACKED)
def test_file_that_is_no_plain_text_is_told_how_the_file_of_the_command_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file, content = PACKED[name]
    (tmp_path / file).write_bytes(content)

    code = main(["prepare", "--interactions", str(tmp_path / file), "--out", str(tmp_path / "run")])

    said = capsys.readouterr().err
    command, first = re.search(r"(sed|awk) .* > events.csv", said), re.search(r"First .*?: (.* > FILE)", said)
    assert code == 2 and command and first, said
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for program in (first[1], command[0]):
        subprocess.run(program, shell=True, cwd=tmp_path, check=True, env=os.environ | {"PATH": path})
    assert main(["prepare", "--interactions", str(tmp_path / "events.csv"), "--out", str(tmp_path / "run")]) == 0
    assert "shape" in name or sorted(events_in(tmp_path / "run")) == sorted(EVENTS)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_of_a_refusal_writes_a_file_that_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    case = COMMANDS[name]
    place = write(tmp_path, case)

    code = main(["prepare", "--interactions", place, "--out", str(tmp_path / "run")])

    said = capsys.readouterr().err
    command = re.search(r"(sed|tr|python) .* > (events\.\w+)|python -c \".*write_\w+\('(events\.\w+)'\)\"", said)
    assert code == 2 and command and re.search(case.refused, said), said
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    program = command[0].replace("MONTH", "September")
    subprocess.run(program, shell=True, cwd=tmp_path, check=True, env=os.environ | {"PATH": path})
    made = str(tmp_path / (command[2] or command[3]))
    assert main(["prepare", "--interactions", made, "--out", str(tmp_path / "run"), *(case.then or ())]) == 0
    if case.expected is not None:
        assert sorted(events_in(tmp_path / "run")) == sorted(case.expected)


def write(folder: Path, case: Case) -> str:
    path = folder / case.name
    files = (
        {path / name: text for name, text in case.content.items()}
        if isinstance(case.content, dict)
        else {path: case.content}
    )
    for file, content in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return f"{case.address}{path / case.glob if case.glob else path}"


def events_in(out: Path) -> list[Event]:
    text = gzip.decompress((out / "prepared" / "histories.jsonl.gz").read_bytes())
    return [(one["user_id"], one["item_id"], one["timestamp"]) for one in map(json.loads, text.splitlines())]


@pytest.mark.parametrize("name", CASES)
def test_file_is_read_to_its_events_or_refused_with_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    case = CASES[name]
    place, out = write(tmp_path, case), tmp_path / "run"

    def prepare(options: tuple[str, ...]) -> tuple[int, str]:
        code = main(["prepare", "--interactions", str(place), "--out", str(out), *options])
        return code, capsys.readouterr().err

    code, said = prepare(case.options)

    assert re.search(case.says, said, re.DOTALL), said
    if case.refused:
        assert code == 2, said
        assert re.search(case.refused, said, re.DOTALL), said
        assert "Traceback" not in said
        assert not out.exists()
        if case.then is None:
            return
        code, said = prepare(case.then)
    assert code == 0, said
    report = json.loads((out / "prepared" / "report.json").read_text())
    dropped = report["malformed"]["count"] + sum(report["dropped"].values())
    assert report["rows_read"] == report["n_events"] + dropped
    assert report["n_events"] == (120 if case.expected is None else len(case.expected))
    if case.expected is not None:
        assert sorted(events_in(out)) == sorted(case.expected)


FORMS = {
    "text": "semicolon", "header": "u.data", "quotes": "line breaks in a field", "JSON": "json array",
    "Parquet, Arrow": "parquet", "compression": "bzip2", "encoding": "latin-1", "parts": "parts", "address": "address",
    "Unix time": "unix time in milliseconds", "date": "date as %d %b %Y", "day or month first": "day or month first",
    "day and time apart": "day and time in two columns", "no time": "no times",
}  # fmt: skip
"""A case for every row of the table of forms in training/README.md."""


def test_every_form_of_the_readme_has_a_case() -> None:
    assert DOCUMENTS["training/README.md"].rows("form").keys() == FORMS.keys()
    assert set(FORMS.values()) <= CASES.keys()
