"""Turn a table of interactions into the arrays that every later stage reads.

`prepare` reads, cleans, orders and splits the events. It writes the directory under another name and renames it when it
is complete; prepared.py reads it back. The bytes depend on the events and the settings alone, not on the order of the
rows in the file (report.json also names the file).
"""

import gzip
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from service.bundle import Effect
from training.data.description import summarise, summarise_catalog
from training.data.holding import hold_out
from training.data.interaction_file import Cleaning, InteractionFile, read_interactions
from training.data.item_file import check_malformed, check_match, describe_items, read_catalog
from training.data.prepared import EVENTS, ITEMS, REPORT, USERS, Prepared, load_prepared
from training.data.split import TEST, TRAIN, SplitRule, target_events
from training.data.timestamp import say_unread
from training.errors import InputError
from training.file.choice import propose
from training.file.source import Place, Source
from training.stage import KEY

COLUMNS = ("user_id", "item_id", "timestamp", "weight", "event", "title", "description")
REPEATS = ("yes", "no", "auto")
HISTORIES, KNOWN, HELDOUT = "histories.jsonl.gz", "known.jsonl.gz", "heldout.jsonl.gz"
OWN = frozenset(
    {EVENTS, USERS, ITEMS, REPORT, HISTORIES, KNOWN, HELDOUT, KEY}
)  # a directory that holds these and nothing else may be replaced
_LINES = 500_000  # events that are written as JSON at a time


def prepare(
    interactions: Place | Source,
    items: Place | None,
    out: Path,
    cleaning: Cleaning,
    rule: SplitRule,
    repeats: str = "auto",
) -> Prepared:
    """Read the files, write the directory out, and return it loaded.

    repeats: whether seen items may be recommended, one of REPEATS; auto decides by how often the held-out events repeat
    one. Raises InputError, and then leaves nothing behind.
    """
    if repeats not in REPEATS:
        raise InputError(f"prepare.repeats must be one of {', '.join(REPEATS)}, not {repeats!r}")
    _check_replaceable(out)
    _prepare(interactions, items, out, cleaning, (rule, repeats))
    return load_prepared(out)


def _prepare(
    interactions: Place | Source, items: Place | None, out: Path, cleaning: Cleaning, split: tuple[SplitRule, str]
) -> None:
    """Read the files and write the directory; when it returns, nothing of them is in memory."""
    rule, repeats = split
    found = read_interactions(interactions, cleaning)
    label = found.source.label
    hint = (f"Times: {found.times}. " if found.times else "") + say_unread(found.account)
    check_malformed(label, found.account, cleaning.max_malformed, hint)
    _check_enough(found)
    events = found.events
    user, item = events["user"].to_numpy(), events["item"].to_numpy()
    held = hold_out(label, user, events["timestamp_ms"].to_numpy(), rule, cleaning.min_targets)
    events = events.with_columns(pl.Series("part", held.part))
    popularity = np.bincount(item[held.part == TRAIN], minlength=len(found.items))
    catalog = None
    if items is not None:
        form, own = cleaning.item_form, cleaning.item_columns
        catalog = read_catalog(items, cleaning.columns, cleaning.max_malformed, own, form, cleaning.item_text)
        check_match(catalog, found.items)
    report = summarise(found, events, repeats, held) | {
        "split": held.settings,
        "settings": cleaning.settings() | {"repeats": repeats},
        "items_file": summarise_catalog(catalog, found.items),
    }
    _write(out, events, found.users, describe_items(found.items, popularity, catalog), report)


def parse_columns(text: str, option: str = "--columns") -> dict[str, str]:
    """Return {our name: the file's name} of "user_id=CustomerID,item_id=StockCode". Raises InputError."""
    columns: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        ours, equals, theirs = (word.strip() for word in pair.partition("="))
        if not (ours and equals and theirs):
            raise InputError(f"{option} {pair!r}: write OURS=THEIRS, for example {option} user_id=CustomerID")
        if ours not in COLUMNS:
            raise InputError(f"{option} {pair!r}: {ours!r} is none of our columns: {', '.join(COLUMNS)}")
        if ours in columns:
            raise InputError(f"{option} {pair!r}: {ours} is named twice")
        columns[ours] = theirs
    return columns


def parse_weights(text: str) -> dict[str, float]:
    """Return {event: weight} of "purchase=1,view=0.2". Raises InputError."""
    weights: dict[str, float] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        event, equals, weight = (word.strip() for word in pair.rpartition("="))
        try:
            weights[event] = float(weight)
        except ValueError:
            equals = ""
        if not (event and equals and 0 <= weights[event] < 1e6):
            raise InputError(f"prepare.event_weights: {pair!r}: write EVENT=NUMBER, for example purchase=1,view=0.2")
    return weights


def parse_effects(text: str) -> dict[str, str]:
    """Return {event: effect} of "unlike=undo,skip=hide". Raises InputError."""
    effects: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        event, equals, effect = (word.strip() for word in pair.rpartition("="))
        if not (event and equals and effect in set(Effect)):
            known = ", ".join(Effect)
            raise InputError(
                f"prepare.event_effects: {pair!r}: write EVENT=EFFECT, one of {known}, such as unlike=undo"
            )
        if event in effects:
            raise InputError(f"prepare.event_effects: {event} is named twice")
        effects[event] = effect
    return effects


def _check_replaceable(out: Path) -> None:
    """Raise InputError where the directory holds anything but prepared data, complete or not."""
    if out.exists() and not (out.is_dir() and OWN.issuperset(path.name for path in out.iterdir())):
        raise InputError(f"{out}: exists and is no prepared data, so it is not replaced; give another --out")


def _check_enough(found: InteractionFile) -> None:
    """Raise InputError unless two users and two items are left."""
    label, n_rows = found.source.label, found.account.rows
    counts = ", ".join(f"{reason} {count}" for reason, count in found.dropped.items())
    counts = f"{n_rows} rows read, malformed {found.account.malformed}" + (f", {counts}" if counts else "")
    if not found.events.height:
        seen = f"; the events of the file are {', '.join(found.event_values[:10])}" if found.event_values else ""
        by_weight = found.dropped.get("no_weight", 0) + found.dropped.get("weight_too_low", 0)
        way_out = ", or do without weights: --set prepare.weights=ignore" if by_weight else ""
        if "lines_not_utf8" in found.account.counts:
            way_out += "; its lines are not UTF-8: --set prepare.encoding=NAME, for example shift_jis, gbk or cp1251"
        raise InputError(
            f"{label}: no row is left to learn from ({counts}){seen}. "
            f"Check --columns, prepare.events and prepare.min_weight against the file{way_out}"
        )
    for name, noun, ids in (("user_id", "user", found.users), ("item_id", "item", found.items)):
        if len(ids) < 2:
            other = propose(name, found.account.unused) or "COLUMN"
            raise InputError(
                f"{label}: only one {noun} is left, {ids[0]!r} ({counts}): a model cannot be trained and validated on "
                f"one. Check --columns {shlex.quote(f'{name}={other}')}, or give more data"
            )


@dataclass(frozen=True)
class _Words:
    """The ids as JSON, by number."""

    users: pl.Series
    items: pl.Series


def _write(
    out: Path, events: pl.DataFrame, user_ids: pl.Series, items: pl.DataFrame, report: Mapping[str, Any]
) -> None:
    """Write the directory under another name and rename it to out."""
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)  # left by a run that was killed
    aside.mkdir(parents=True)
    try:
        pl.DataFrame({"user_id": user_ids}).write_parquet(aside / USERS)
        items.write_parquet(aside / ITEMS)
        events.write_parquet(aside / EVENTS)
        _write_histories(aside, events, _Words(_quoted(user_ids), _quoted(items["item_id"])))
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


def _write_histories(aside: Path, events: pl.DataFrame, words: _Words) -> None:
    """Write all events, those that are known before the test, and those that the test asks for, as JSON lines."""
    part = events["part"].to_numpy()
    is_target = np.zeros(events.height, dtype=bool)
    is_target[target_events(events["user"].to_numpy(), part, TEST)] = True
    with ExitStack() as stack:
        histories, known, heldout = (stack.enter_context(_zipped(aside / name)) for name in (HISTORIES, KNOWN, HELDOUT))
        for start in range(0, events.height, _LINES):
            at = slice(start, start + _LINES)
            lines = _lines(events[at], words)
            _write_lines(histories, lines)
            _write_lines(known, lines.filter(pl.Series(part[at] != TEST)))
            _write_lines(heldout, lines.filter(pl.Series(is_target[at])))


def _quoted(ids: pl.Series) -> pl.Series:
    return pl.Series([orjson.dumps(value).decode() for value in ids.to_list()], dtype=pl.String)


def _lines(events: pl.DataFrame, words: _Words) -> pl.Series:
    """Return one JSON line per event. A whole second is written without a fraction."""
    user, item = words.users.gather(events["user"]), words.items.gather(events["item"])
    milliseconds = events["timestamp_ms"]
    whole, fraction = (milliseconds // 1000).cast(pl.String), (milliseconds / 1000).cast(pl.String)
    seconds = whole.zip_with(milliseconds % 1000 == 0, fraction)
    parts = [pl.lit('{"user_id":'), user, pl.lit(',"item_id":'), item, pl.lit(',"timestamp":'), seconds, pl.lit("}")]
    return pl.select(pl.concat_str(parts)).to_series()


@contextmanager
def _zipped(path: Path) -> Iterator[gzip.GzipFile]:
    """Open a gzip file that holds neither its name nor a time."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=3, fileobj=raw, mtime=0) as file:
        yield file


def _write_lines(file: gzip.GzipFile, lines: pl.Series) -> None:
    if len(lines):
        file.write(("\n".join(lines.to_list()) + "\n").encode())
