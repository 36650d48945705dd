"""Read a table of interactions: which rows count as events, in which order they are put, and why others are dropped.

A malformed row (unreadable time, NaN, wrong number of fields) is a sign of a damaged file. Such rows are counted, and
too large a share of them stops the run. An unusable row (no user, a cancellation) is readable but shows no liking. Such
rows are dropped and counted by reason. The order of the rows decides nothing, unless it stands for the missing times.

Rows are read in chunks, and kept as numbers: an id as the place where it was met first. So memory holds some 30 bytes a
row, whatever the file looks like.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.bundle import MAX_ID_LENGTH, check_item_id, combine_types
from training.data.effect import MARKS, Told, effects_of, leave_out
from training.data.gathering import Gathered, Gathering, InMemory, Overview, gather
from training.data.ordering import compact, keep_newest, merge_repeats, order_ties
from training.data.settling import Late, Meaning, Settled, decide_times
from training.data.timestamp import Bounds
from training.errors import InputError
from training.file.account import EXAMPLES, Account, Form
from training.file.identifier import ROUNDED, find_alike, find_lists, tidy_ids
from training.file.moment import UNREAD
from training.file.source import Place, Source, find_source

WEIGHTS = ("ignore", "filter", "loss")
FIRST_MS = 946_684_800_000  # 2000-01-01, the time of the first row where the order of the rows is the time
REASONS = (
    "no_user", "no_item", "user_id_too_long", "user_id_has_control_character", "item_id_too_long",
    "item_id_has_control_character", "event_not_wanted", "no_weight", "weight_too_low", "event_weight_of_zero",
    "event_only_in_stream", "event_hides_item", "event_undoes", "undone", "duplicate", "over_max_history",
)  # fmt: skip
"""Why rows are dropped, in the order in which that is looked at."""


@dataclass(frozen=True)
class Cleaning:
    """Which rows of the files count, what their columns are called, and how they are read."""

    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> the file's, where they differ
    events: Sequence[str] = ()  # the values of the event column that count; none: all
    min_weight: float = 0.0  # rows of this weight or less are dropped
    max_malformed: float = 0.01  # the largest share of rows that may be unreadable
    max_history: int = 500  # newest events kept of a user
    form: Form = field(default_factory=Form)
    times: Bounds = field(default_factory=Bounds)
    weights: str = "filter"  # one of WEIGHTS: what the weight of a row is for
    event_weights: Mapping[str, float] = field(default_factory=dict)  # of the values of the event column, for the loss
    event_effects: Mapping[str, str] = field(default_factory=dict)  # what else events do by their value, see Effect
    min_targets: int = 0  # fewer events to learn from stop the run
    item_columns: Mapping[str, str] = field(default_factory=dict)  # our name -> that of the items file
    item_form: Form = field(default_factory=Form)
    item_text: Sequence[str] = ()  # columns of the items file that are text, whatever they hold
    engine: "Engine | None" = None  # where the rows lie while they are cleaned; None: in memory. It decides nothing

    @cached_property
    def history_types(self) -> Mapping[str, Any] | None:
        """What events do by their type, as a bundle says it; None where nothing is said. Raises InputError."""
        weights = self.event_weights if self.weights == "loss" else {}
        try:
            return combine_types(self.events, weights, self.event_effects)
        except ValueError as exc:
            raise InputError(f"prepare.events, event_weights and event_effects: {exc}") from exc

    def settings(self) -> dict[str, Any]:
        """Return what the report says of them: the clock is not among it."""
        return {
            "columns": dict(self.columns),
            "events": list(self.events),
            "min_weight": self.min_weight,
            "max_malformed": self.max_malformed,
            "max_history": self.max_history,
            "weights": self.weights,
            "event_weights": dict(self.event_weights),
            "event_effects": dict(self.event_effects),
            "times": self.times.rule,
            "history_types": self.history_types,
        }


@dataclass(frozen=True)
class InteractionFile:
    """A table of interactions, read and cleaned."""

    events: pl.DataFrame  # user, item (places in users, items), timestamp_ms, weight?; by user, time, hash of ties
    users: pl.Series  # ids in their order
    items: pl.Series
    source: Source
    account: Account
    dropped: Mapping[str, int]  # rows by reason
    times: str  # how the times were read
    event_values: Sequence[str] = ()  # of the event column, as they were met

    @cached_property
    def frame(self) -> pl.DataFrame:
        """The events with their ids: user_id, item_id, timestamp_ms, weight?."""
        ids = {"user_id": self.users.gather(self.events["user"]), "item_id": self.items.gather(self.events["item"])}
        rest = self.events.drop("user", "item")
        return pl.DataFrame([*(series.alias(name) for name, series in ids.items()), *rest])


class Ids(NamedTuple):
    """The ids of a table or of a shard: in their order, and which of them each code stands for."""

    ids: pl.Series
    lookup: NDArray[np.int32]  # [codes + 1], -1 for none; the last is that of no id, code -1


class Coded(NamedTuple):
    """What the codes of gathered rows stand for."""

    users: Ids
    items: Ids
    events: Mapping[str, int]


@dataclass(frozen=True)
class Cleaned:
    """The events of a shard of users, with what was left out of it."""

    events: pl.DataFrame  # user, item (places in users, items), timestamp_ms, weight?; by user, time, hash of ties
    users: pl.Series
    items: pl.Series
    dropped: Mapping[str, int]
    malformed: int  # rows whose time is not that of a column as a whole
    examples: Sequence[tuple[int, int, str]]  # the first of them: position in the table, line, what is wrong
    late: Late
    heaviest: tuple[int, str] = (0, "")  # the most events of a user, before the oldest are cut, and whose they are


@dataclass(frozen=True)
class Found:
    """What an engine read of a table."""

    cleaned: Cleaned
    times: str
    event_values: Sequence[str]


Engine = Callable[[Source, Cleaning, Account], Found]
"""Reads the rows of a table and cleans them, shard by shard of its users; the account is told what was found."""


def read_interactions(place: Place | Source, cleaning: Cleaning) -> InteractionFile:
    """Read, clean and order interactions. Malformed rows are counted and left out. Raises InputError."""
    if cleaning.max_history < 1:
        raise InputError(f"prepare.max_history must be at least 1, not {cleaning.max_history}")
    if cleaning.weights not in WEIGHTS:
        raise InputError(f"prepare.weights must be one of {', '.join(WEIGHTS)}, not {cleaning.weights!r}")
    source = place if isinstance(place, Source) else find_source(place)
    account = Account()
    found = (cleaning.engine or read_in_memory)(source, cleaning, account)
    source.check_unchanged()
    cleaned = found.cleaned
    _note_unusual(source, cleaned, account)
    dropped = {reason: count for reason in REASONS if (count := cleaned.dropped.get(reason, 0))}
    ids = cleaned.users, cleaned.items
    return InteractionFile(cleaned.events, *ids, source, account, dropped, found.times, found.event_values)


def _note_unusual(source: Source, cleaned: Cleaned, account: Account) -> None:
    """Count parts and ids that may be meant as one, ids that may be meant as several, and one that may be nobody's."""
    most, whose = cleaned.heaviest
    if most > max(0.2 * account.rows, 10 * account.rows / max(1, len(cleaned.users))):
        account.counts["user_id_heavy"], account.firsts["user_id_heavy"] = most, repr(whose)
    if copies := source.copies:
        account.counts["parts_copied"] = len(copies)
        account.firsts["parts_copied"] = f"{copies[0][0].label} is like {copies[0][1].label}"
    for name, ids in (("user_id_alike", cleaned.users), ("item_id_alike", cleaned.items)):
        count, two = find_alike(ids)
        if count:
            account.counts[name], account.firsts[name] = count, two
    count, first = find_lists(cleaned.items)
    if count:
        account.counts["item_id_lists"], account.firsts["item_id_lists"] = count, first


def read_in_memory(source: Source, cleaning: Cleaning, account: Account) -> Found:
    """Read all rows of a table, and clean them as one shard."""
    rows = InMemory()
    gather(source, cleaning, account, rows)
    meaning = find_meaning(rows, cleaning)
    coded = code_ids(rows, account)
    cleaned = clean_rows(rows.whole(account), coded, cleaning, meaning)
    tell_malformed(account, rows, cleaned)
    return Found(cleaned, say_times(rows, meaning, cleaned.late), list(rows.event_codes))


def find_meaning(rows: Overview, cleaning: Cleaning) -> Meaning | None:
    """Return how the times of a table are read; None where it has none. Raises InputError."""
    return decide_times(rows.tally, cleaning.times) if rows.has_times else None


def say_times(rows: Overview, meaning: Meaning | None, late: Late) -> str:
    """Return how the times were read, for a person."""
    if not rows.n:
        return ""
    if meaning is None:
        return "none: the order of the rows"
    return ", ".join(filter(None, [*meaning.said, late.hint(rows.n)]))


def code_ids(rows: Gathering, account: Account) -> Coded:
    """Return what the codes of the rows of a table stand for."""
    users = number_ids(rows.users.distinct().alias("user_id"), account)
    return Coded(users, number_ids(rows.items.distinct().alias("item_id"), account), rows.event_codes)


def number_ids(distinct: pl.Series, account: Account) -> Ids:
    """Return the ids of a table, and count those that were rounded. distinct: as they were read, by their code."""
    tidy = tidy_ids(distinct)
    rounded = int(tidy.str.contains(ROUNDED).fill_null(False).sum())
    if rounded:
        account.counts[f"{distinct.name}_rounded"] = rounded
    return order_ids(tidy)


def order_ids(tidy: pl.Series) -> Ids:
    """Return the ids in their order. tidy: the ids as they are meant, by their code; null for none."""
    ids = tidy.drop_nulls().unique().sort()
    lookup = np.full(len(tidy) + 1, -1, dtype=np.int32)
    if len(ids):
        numbers = pl.int_range(len(ids), dtype=pl.Int32, eager=True)
        lookup[:-1] = tidy.replace_strict(ids, numbers, default=-1).fill_null(-1).cast(pl.Int32).to_numpy()
    return Ids(ids, lookup)


def tell_malformed(account: Account, rows: Overview, cleaned: Cleaned) -> None:
    """Count the rows whose times do not fit the column."""
    for position, line, why in cleaned.examples:
        account.bad(rows.at(position, line), why)
    account.malformed += cleaned.malformed - len(cleaned.examples)


def clean_rows(rows: Gathered, coded: Coded, cleaning: Cleaning, meaning: Meaning | None) -> Cleaned:
    """Return the events of a shard: all rows of some users, or a part of those without one."""
    settled = _settled(rows, meaning)
    unread = 0 if rows.forms is None else (settled.bad & (rows.forms != UNREAD) & ~rows.bad)
    first = _first_bad(rows, settled, np.flatnonzero(unread))
    ms, keep, late, n_bad = settled.ms, ~(rows.bad | settled.bad), settled.late, int(np.sum(unread))
    user, item = coded.users.lookup[rows.user], coded.items.lookup[rows.item]
    reasons = _reasons(rows, cleaning, coded, (user, item))
    dropped = {}
    for reason, holds in reasons.items():
        dropped[reason] = int((keep & holds).sum())
        keep &= ~holds
    keep, more = leave_out(Told(rows.event, coded.events, user, item, ms), cleaning.history_types, keep)
    dropped |= more
    frame = pl.DataFrame({"user": user[keep], "item": item[keep], "timestamp_ms": ms[keep]})
    if rows.weight is not None or cleaning.weights == "loss":
        frame = frame.with_columns(weight=_weights(rows, cleaning, coded.events)[keep])
    del rows, user, item, ms, settled, reasons, keep, unread
    once = merge_repeats(frame)
    dropped["duplicate"] = frame.height - once.height
    heaviest = _find_heaviest(once, coded.users.ids)
    recent = keep_newest(order_ties(once, coded.users.ids, coded.items.ids), cleaning.max_history)
    dropped["over_max_history"] = once.height - recent.height
    return Cleaned(*compact(recent, coded.users.ids, coded.items.ids), dropped, n_bad, first, late, heaviest)


def _find_heaviest(events: pl.DataFrame, ids: pl.Series) -> tuple[int, str]:
    """Return the most events of a user, and the first id of those who have as many."""
    if not events.height:
        return 0, ""
    counts = np.bincount(events["user"].to_numpy())
    return int(counts.max()), str(ids[int(counts.argmax())])


def _settled(rows: Gathered, meaning: Meaning | None) -> Settled:
    """Return the times of the rows; without times, those that their order stands for."""
    if meaning is None or rows.micro is None or rows.forms is None:
        none = np.zeros(len(rows.line), dtype=bool)
        return Settled(FIRST_MS + 1000 * rows.places, none, str, Late())
    return meaning.settle(rows.micro, rows.forms)


def _first_bad(rows: Gathered, settled: Settled, bad: NDArray[np.int64]) -> list[tuple[int, int, str]]:
    """Return the first of some rows in the order of the table: position, line, what is wrong. bad: places in rows."""
    if rows.position is not None:
        bad = bad[np.argsort(rows.position[bad], kind="stable")]
    return [
        (row if rows.position is None else int(rows.position[row]), int(rows.line[row]), settled.why(row))
        for row in bad[:EXAMPLES].tolist()
    ]


def _reasons(
    rows: Gathered, cleaning: Cleaning, coded: Coded, numbers: tuple[NDArray[np.int32], NDArray[np.int32]]
) -> dict[str, NDArray[np.bool_]]:
    """Return which rows show no liking, by reason; a row is dropped for the first that holds.

    numbers: the user and the item of each row, -1 for none.
    """
    reasons = {"no_user": numbers[0] < 0, "no_item": numbers[1] < 0}
    for name, ids, places in (("user_id", coded.users.ids, numbers[0]), ("item_id", coded.items.ids, numbers[1])):
        for reason, refused in _refused_ids(ids).items():
            reasons[f"{name}_{reason}"] = np.isin(places, refused)
    effects = effects_of(rows.event, coded.events, cleaning.history_types)
    is_mark = np.isin(effects, MARKS)
    if cleaning.events:
        wanted = [code for text, code in coded.events.items() if text in cleaning.events]
        reasons["event_not_wanted"] = ~np.isin(rows.event, wanted) & ~is_mark
    if rows.weight is not None:
        reasons["no_weight"] = np.isnan(rows.weight) & ~is_mark
        reasons["weight_too_low"] = ~(rows.weight > cleaning.min_weight) & ~is_mark
    if cleaning.weights == "loss" and cleaning.event_weights:
        reasons["event_weight_of_zero"] = (_event_weights(rows, cleaning, coded.events) <= 0) & ~is_mark
    return reasons


def _weights(rows: Gathered, cleaning: Cleaning, codes: Mapping[str, int]) -> NDArray[np.float64]:
    """Return the weight of each row: its own, and for the loss times that of its event."""
    own = rows.weight if rows.weight is not None else np.ones(len(rows.line))
    return own * _event_weights(rows, cleaning, codes) if cleaning.weights == "loss" and cleaning.event_weights else own


def _event_weights(rows: Gathered, cleaning: Cleaning, codes: Mapping[str, int]) -> NDArray[np.float64]:
    lookup = np.ones(len(codes) + 1)
    for text, code in codes.items():
        lookup[code] = cleaning.event_weights.get(text, 1.0)
    return lookup[rows.event]


def _refused_ids(ids: pl.Series) -> dict[str, list[int]]:
    """Return, by reason, the places of the ids that a bundle would refuse."""
    refused: dict[str, list[int]] = {}
    suspects = (ids.str.len_chars() > MAX_ID_LENGTH) | ids.str.contains(r"[\p{C}\p{Z}]")
    for place in suspects.arg_true().to_list():
        try:
            check_item_id(ids[place])
        except ValueError:
            reason = "too_long" if len(ids[place]) > MAX_ID_LENGTH else "has_control_character"
            refused.setdefault(reason, []).append(place)
    return refused
