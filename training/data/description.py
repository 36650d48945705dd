"""What report.json says of the prepared data: what was dropped and why, how dense they are, how often items repeat."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.bundle import TIE_RULE
from training.data.holding import Held
from training.data.interaction_file import InteractionFile
from training.data.item_file import Catalog, likely_cause, malformed_report
from training.data.split import TEST, TRAIN, VAL, target_events
from training.data.timestamp import find_clock
from training.file.account import Account
from training.file.choice import CLOCK, propose

REPEAT_SHARE = 0.05  # of the validation targets; where more are repeats, auto lets seen items be recommended
LABELS = (
    "label", "target", "click", "clicked", "clk", "like", "liked", "buy", "bought", "purchase", "purchased",
    "conversion", "converted", "watched", "finish",
)  # fmt: skip
"""Names of columns whose 0 is no liking, in letters alone."""
_AT_ONCE = 1 << 20  # events, about, in which items that come again are looked for at a time


def summarise(found: InteractionFile, events: pl.DataFrame, repeats: str, held: Held) -> dict[str, Any]:
    """Return the report of the numbered events.

    events: user, item, timestamp_ms and part, sorted by user and time. repeats: yes, no or auto. held: how they are
    split.
    """
    user, timestamp_ms, part = (events[name].to_numpy() for name in ("user", "timestamp_ms", "part"))
    n_users, n_items = len(found.users), len(found.items)
    is_repeat = _seen_before(events)
    targets = {name: target_events(user, part, number) for name, number in (("val", VAL), ("test", TEST))}
    target_shares = {name: _share(is_repeat[at]) for name, at in targets.items()}
    share = _share(is_repeat)
    decides = target_shares["val"] if len(targets["val"]) else share
    return {
        "source": found.source.name,
        "sha256": found.source.fingerprint,
        "rows_read": found.account.rows,
        "malformed": malformed_report(found.account),
        "dropped": dict(found.dropped),
        "n_users": n_users,
        "n_items": n_items,
        "n_events": len(user),
        "parts": {
            name: int((part == number).sum()) for name, number in (("train", TRAIN), ("val", VAL), ("test", TEST))
        },
        "targets": {name: len(at) for name, at in targets.items()},
        "training_targets": held.targets["train"],
        "fallback": held.said,
        "span": [_iso(int(timestamp_ms.min())), _iso(int(timestamp_ms.max()))],
        "median_events": float(np.median(np.bincount(user))),
        "density": len(user) / (n_users * n_items),
        "repeat_share": share,
        "repeat_share_of_targets": target_shares,
        "repeat_consumption": repeats == "yes" or (repeats == "auto" and decides > REPEAT_SHARE),
        "tie_share": _tie_share(user, timestamp_ms),
        "tie_rule": TIE_RULE,
        "form": _form(found),
        "fingerprint": _fingerprint(found, events),
    }


def _form(found: InteractionFile) -> dict[str, Any]:
    """Return how the table was read: what was recognised, which columns were used, and what was unusual."""
    account, columns = found.account, dict(found.account.columns)
    clock = columns.pop(CLOCK, None)
    if clock:
        columns["timestamp"] += f"+{clock}"
    return {
        "parts": len(found.source.parts),
        "recognised": dict(account.recognised),
        "times": found.times,
        "columns": columns,
        "unused": list(account.unused),
        "clock": find_clock(account),
        "ratings": looks_like_ratings(account),
        "label": find_label(account),
        "said": {name: [count, account.firsts.get(name, "")] for name, count in account.counts.items()},
    }


def looks_like_ratings(account: Account) -> list[Any]:
    """Return [column, lowest, highest, middle] of a column that looks like ratings; empty where there is none.

    A rating is one of a few numbers of half steps, none below 0 and none above 100, in a column of such a name.
    """
    for name in account.unused:
        if propose("weight", [name]) is None:
            continue
        try:
            values = sorted(float(text) for text in account.sample.get(name, []) if text.strip())
        except ValueError:
            continue
        if values and values[0] >= 0 and values[-1] <= 100 and len(set(values)) > 1:
            return [name, values[0], values[-1], values[len(values) // 2]]
    return []


def find_label(account: Account) -> str | None:
    """Return the unused column that says with 0 and 1 whether something was liked, by its name, or None."""
    for name, values in account.sample.items():
        plain = "".join(filter(str.isalnum, name.lower())).removeprefix("is")
        if plain in LABELS and {value.strip().removesuffix(".0") for value in values} == {"0", "1"}:
            return name
    return None


def summarise_catalog(catalog: Catalog | None, item_ids: pl.Series) -> Mapping[str, Any] | None:
    """Return what the items file held and how many of its items are in the catalogue; None without a file."""
    if catalog is None:
        return None
    described = catalog.frame["item_id"]
    is_met = described.is_in(item_ids.implode())
    n_met = int(is_met.sum())
    lacking = item_ids.filter(~item_ids.is_in(described.implode()))
    cause = likely_cause(lacking, described.filter(~is_met), max(1, len(lacking) // 2)).removeprefix("; ")
    return {
        **catalog.report,
        "cause": cause,
        "not_in_catalogue": len(described) - n_met,
        "without_a_line": len(item_ids) - n_met,
    }


def _seen_before(events: pl.DataFrame) -> NDArray[np.bool_]:
    """Return which events are of an item that the same user has had before [n_events]."""
    user, item = events["user"].to_numpy(), events["item"].to_numpy()
    seen = np.zeros(len(user), dtype=bool)
    stop = 0
    while stop < len(user):  # some users at a time
        start, stop = stop, int(np.searchsorted(user, user[min(stop + _AT_ONCE, len(user) - 1)], side="right"))
        pair = user[start:stop].astype(np.int64) << 32 | item[start:stop]
        order = np.argsort(pair, kind="stable")
        seen[start + order[1:]] = pair[order[1:]] == pair[order[:-1]]
    return seen


def _tie_share(user: NDArray[np.int32], timestamp_ms: NDArray[np.int64]) -> float:
    """Return the share of users' last events that tie in time with the one before (users of two events or more)."""
    is_last = np.append(user[1:] != user[:-1], True)
    has_before = np.append(False, user[1:] == user[:-1])
    ties = np.append(False, timestamp_ms[1:] == timestamp_ms[:-1])
    return _share(ties[is_last & has_before])


def _share(claims: NDArray[np.bool_]) -> float:
    return round(float(claims.mean()), 6) if len(claims) else 0.0


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()


def _fingerprint(found: InteractionFile, events: pl.DataFrame) -> str:
    """Return the sha256 over the ids and arrays: equal fingerprints are equal data, split included."""
    digest = hashlib.sha256()
    for ids in (found.users, found.items):
        digest.update(json.dumps(ids.to_list()).encode())
    for name in ("user", "item", "timestamp_ms", "part"):
        digest.update(np.ascontiguousarray(events[name].to_numpy()).data)
    return digest.hexdigest()
