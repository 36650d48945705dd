"""Turn a file of interactions into the arrays that every later stage reads.

`prepare` reads, cleans, orders and splits the events. It writes the directory under another name and renames it when it
is complete; prepared.py reads it back. The bytes depend on the events and the settings alone, not on the order of the
rows in the file (report.json also names the file).
"""

import gzip
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from training.data.description import summarise, summarise_catalog
from training.data.interaction_file import Cleaning, InteractionFile, read_interactions
from training.data.item_file import check_malformed, describe_items, read_catalog
from training.data.prepared import EVENTS, ITEMS, REPORT, USERS, Prepared, load_prepared
from training.data.split import TEST, TRAIN, VAL, SplitRule, assign_parts, target_events
from training.errors import InputError
from training.stage import KEY

COLUMNS = ("user_id", "item_id", "timestamp", "weight", "event", "title", "description")
REPEATS = ("yes", "no", "auto")
HISTORIES, KNOWN, HELDOUT = "histories.jsonl.gz", "known.jsonl.gz", "heldout.jsonl.gz"
OWN = frozenset(
    {EVENTS, USERS, ITEMS, REPORT, HISTORIES, KNOWN, HELDOUT, KEY}
)  # a directory that holds these and nothing else may be replaced


def prepare(
    interactions: Path, items: Path | None, out: Path, cleaning: Cleaning, rule: SplitRule, repeats: str = "auto"
) -> Prepared:
    """Read the files, write the directory out, and return it loaded.

    repeats: whether seen items may be recommended, one of REPEATS; auto decides by how often the held-out events repeat
    one. Raises InputError, and then leaves nothing behind.
    """
    if repeats not in REPEATS:
        raise InputError(f"prepare.repeats must be one of {', '.join(REPEATS)}, not {repeats!r}")
    _check_replaceable(out)
    found = read_interactions(interactions, cleaning)
    check_malformed(found.table, found.malformed, cleaning.max_malformed)
    _check_enough(found)
    frame = _numbered(found.frame)
    user = frame["user"].to_numpy()
    part = assign_parts(user, frame["timestamp_ms"].to_numpy(), rule)
    _check_targets(interactions, user, part, rule.test)
    frame = frame.with_columns(pl.Series("part", part))
    item_ids = frame["item_id"].unique().sort()
    popularity = np.bincount(frame["item"].to_numpy()[part == TRAIN], minlength=len(item_ids))
    catalog = read_catalog(items, cleaning.columns, cleaning.max_malformed) if items else None
    report = summarise(found, frame, repeats) | {
        "split": rule.settings(),
        "settings": asdict(cleaning) | {"repeats": repeats},
        "items_file": summarise_catalog(catalog, item_ids),
    }
    _write(out, frame, describe_items(item_ids, popularity, catalog), report)
    return load_prepared(out)


def parse_columns(text: str) -> dict[str, str]:
    """Return {our name: the file's name} of "user_id=CustomerID,item_id=StockCode". Raises InputError."""
    columns: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        ours, equals, theirs = (word.strip() for word in pair.partition("="))
        if not (ours and equals and theirs):
            raise InputError(f"--columns {pair!r}: write OURS=THEIRS, for example --columns user_id=CustomerID")
        if ours not in COLUMNS:
            raise InputError(f"--columns {pair!r}: {ours!r} is none of our columns: {', '.join(COLUMNS)}")
        if ours in columns:
            raise InputError(f"--columns {pair!r}: {ours} is named twice")
        columns[ours] = theirs
    return columns


def _check_replaceable(out: Path) -> None:
    """Raise InputError where the directory holds anything but prepared data, complete or not."""
    if out.exists() and not (out.is_dir() and OWN.issuperset(path.name for path in out.iterdir())):
        raise InputError(f"{out}: exists and is no prepared data, so it is not replaced; give another --out")


def _check_enough(found: InteractionFile) -> None:
    """Raise InputError unless two users and two items are left."""
    path, n_rows = found.table.path, found.table.n_rows
    counts = ", ".join(f"{reason} {count}" for reason, count in found.dropped.items())
    counts = f"{n_rows} rows read, malformed {found.malformed.count}" + (f", {counts}" if counts else "")
    if not found.frame.height:
        raise InputError(
            f"{path}: no row is left to learn from ({counts}). "
            "Check --columns, prepare.events and prepare.min_weight against the file"
        )
    for name, noun in (("user_id", "user"), ("item_id", "item")):
        if found.frame[name].n_unique() < 2:
            only = found.frame[name][0]
            raise InputError(
                f"{path}: only one {noun} is left, {only!r} ({counts}): a model cannot be trained and validated on "
                f"one. Check --columns {name}=COLUMN, or give more data"
            )


def _check_targets(path: Path, user: NDArray[np.int32], part: NDArray[np.uint8], test: str) -> None:
    """Raise InputError where a part has nothing that could be asked for."""
    wanted = {"val": VAL} | ({"test": TEST} if test != "none" else {})
    for name, number in wanted.items():
        if not len(target_events(user, part, number)):
            raise InputError(
                f"{path}: split.{name} leaves no user with an event to train on and a later one to hold out, so "
                "nothing can be measured. Give more events a user, or another split, such as --set split.test=none"
            )


def _numbered(frame: pl.DataFrame) -> pl.DataFrame:
    """Add user and item, the place of each id among the sorted ids; keep timestamp_ms, weight? and the ids."""
    numbered = [
        frame[name].replace_strict(ids, pl.Series(range(len(ids)), dtype=pl.Int32), return_dtype=pl.Int32).alias(short)
        for name, short in (("user_id", "user"), ("item_id", "item"))
        for ids in [frame[name].unique().sort()]
    ]
    rest = [name for name in ("timestamp_ms", "weight") if name in frame.columns]
    return pl.DataFrame([*numbered, *(frame[name] for name in rest)]).with_columns(frame["user_id"], frame["item_id"])


def _write(out: Path, frame: pl.DataFrame, items: pl.DataFrame, report: Mapping[str, Any]) -> None:
    """Write the directory under another name and rename it to out."""
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)  # left by a run that was killed
    aside.mkdir(parents=True)
    try:
        users = frame.select("user_id").unique().sort("user_id")
        users.write_parquet(aside / USERS)
        items.write_parquet(aside / ITEMS)
        frame.drop("user_id", "item_id").write_parquet(aside / EVENTS)
        lines = _lines(frame, users["user_id"], items["item_id"])
        part = frame["part"]
        _write_lines(aside / HISTORIES, lines)
        _write_lines(aside / KNOWN, lines.filter(part != TEST))
        targets = target_events(frame["user"].to_numpy(), part.to_numpy(), TEST)
        _write_lines(aside / HELDOUT, lines.gather(targets))
        (aside / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if out.exists():
            replaced = aside / "replaced"
            out.rename(replaced)
            aside.rename(out)
            shutil.rmtree(out / replaced.name)
        else:
            aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _lines(frame: pl.DataFrame, user_ids: pl.Series, item_ids: pl.Series) -> pl.Series:
    """Return one JSON line per event. Each id is encoded once, and a whole second is written without a fraction."""
    user, item = (
        pl.Series([orjson.dumps(value).decode() for value in ids.to_list()], dtype=pl.String).gather(frame[name])
        for name, ids in (("user", user_ids), ("item", item_ids))
    )
    milliseconds = frame["timestamp_ms"]
    whole, fraction = (milliseconds // 1000).cast(pl.String), (milliseconds / 1000).cast(pl.String)
    seconds = whole.zip_with(milliseconds % 1000 == 0, fraction)
    parts = [pl.lit('{"user_id":'), user, pl.lit(',"item_id":'), item, pl.lit(',"timestamp":'), seconds, pl.lit("}")]
    return pl.select(pl.concat_str(parts)).to_series()


def _write_lines(path: Path, lines: pl.Series) -> None:
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=3, fileobj=raw, mtime=0) as file:
        for start in range(0, len(lines), 100_000):
            file.write(("\n".join(lines[start : start + 100_000].to_list()) + "\n").encode())
