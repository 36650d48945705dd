"""Read a table whose parts are read apart: what the parts have told settles the whole, and its shards are joined."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Protocol

import polars as pl

from training.data.gathering import Overview
from training.data.interaction_file import Cleaned, Cleaning, Found, find_meaning, say_times, tell_malformed
from training.data.settling import Tally
from training.engine.join import join_shards
from training.engine.piece import Settled, Told
from training.errors import InputError
from training.file.account import Account, Row
from training.file.identifier import ROUNDED, IdForm, tidy_ids
from training.file.source import Source


class Parts(Protocol):
    """The parts of a table, wherever they are read."""

    def told(self) -> Sequence[Told | InputError]:
        """Return what each part knows of the whole, in their order, or what is wrong with it."""
        ...

    def shards(self, settled: Settled) -> Iterable[Cleaned]:
        """Return the shards of the whole, cleaned, in the order of their users."""
        ...


def read_parts(parts: Parts, source: Source, cleaning: Cleaning, account: Account, most: int) -> Found:
    """Read and clean a table. most: rows of a shard, about. Raises InputError."""
    told = _sound(parts.told())
    rows = _whole(told, source, account)
    source.watch(source.size)
    forms = _settle_ids(told, account)
    meaning = find_meaning(rows, cleaning)
    settled = Settled(cleaning, meaning, forms, _bounds(told, most, forms["user"]), _starts(told))
    cleaned = join_shards(parts.shards(settled), rows.n)
    tell_malformed(account, rows, cleaned)
    return Found(cleaned, say_times(rows, meaning, cleaned.late), list(rows.event_codes))


def _sound(found: Sequence[Told | InputError]) -> list[Told]:
    """Return what the parts have told. Raises the error of the first that could not be read."""
    told = []
    for one in found:
        if isinstance(one, InputError):
            raise one
        told.append(one)
    return told


def _whole(told: Sequence[Told], source: Source, account: Account) -> Overview:
    """Return what is told of the rows of all parts. Raises InputError where they differ in what decides for all."""
    rows = Overview()
    for one in told:
        account.take(one.account)
    account.check_parts()
    if not account.rows:
        raise InputError(f"{source.label}: no rows below the header; the file needs at least one")
    full = [one for one in told if one.n]
    for one in full:
        ours, theirs = (sorted(part.account.columns) for part in (one, full[0]))
        if ours != theirs or one.has_times != full[0].has_times:
            raise InputError(
                f"{source.label}: {one.labels[0]} has {', '.join(ours)} and {full[0].labels[0]} has "
                f"{', '.join(theirs)}; where parts differ in their columns, spark cannot tell what they would be as "
                "one table: --engine duckdb"
            )
        rows.rows.append(Row(one.number, 0, *one.labels))
        rows.starts.append(rows.n)
        rows.n += one.n
        rows.events.encode(pl.Series(one.events, dtype=pl.String))
    rows.has_times = bool(full) and full[0].has_times
    rows.tally = reduce(add, (one.tally for one in full), Tally())
    return rows


def _settle_ids(told: Sequence[Told], account: Account) -> Mapping[str, IdForm]:
    """Return what all ids have in common, and count those that were rounded."""
    forms = {name: reduce(add, (one.forms[name] for one in told), IdForm()) for name in ("user", "item")}
    for name, form in forms.items():
        distinct = pl.Series(sorted({text for one in told for text in one.rounded[name]}), dtype=pl.String)
        count = int(tidy_ids(distinct, form).str.contains(ROUNDED).fill_null(False).sum())
        if count:
            account.counts[f"{name}_id_rounded"] = count
    return forms


def _bounds(told: Sequence[Told], most: int, form: IdForm) -> Sequence[str]:
    """Return the users between whom the shards of about so many rows are cut, by a sample of the rows."""
    sample = pl.Series([text for one in told for text in one.sample], dtype=pl.String)
    users = tidy_ids(sample, form).drop_nulls().sort()
    n_shards = max(1, min(-(-sum(one.n for one in told) // most), len(users)))
    return sorted({users[len(users) * place // n_shards] for place in range(1, n_shards)})


def _starts(told: Sequence[Told]) -> Mapping[int, int]:
    """Return how many rows stand before each part."""
    starts, n = {}, 0
    for one in told:
        starts[one.number] = n
        n += one.n
    return starts
