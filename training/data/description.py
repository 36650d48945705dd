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
from training.data.interaction_file import InteractionFile
from training.data.item_file import Catalog, malformed_report
from training.data.split import TEST, TRAIN, VAL, target_events
from training.data.table import file_sha256

REPEAT_SHARE = 0.05  # of the validation targets; where more are repeats, auto lets seen items be recommended


def summarise(found: InteractionFile, frame: pl.DataFrame, repeats: str) -> dict[str, Any]:
    """Return the report of the numbered events.

    frame: user_id, item_id, user, item, timestamp_ms and part, sorted by user and time. repeats: yes, no or auto.
    """
    user, item, timestamp_ms, part = (frame[name].to_numpy() for name in ("user", "item", "timestamp_ms", "part"))
    n_users, n_items = int(user[-1]) + 1, int(item.max()) + 1
    is_repeat = _seen_before(frame)
    targets = {name: target_events(user, part, number) for name, number in (("val", VAL), ("test", TEST))}
    target_shares = {name: _share(is_repeat[at]) for name, at in targets.items()}
    share = _share(is_repeat)
    decides = target_shares["val"] if len(targets["val"]) else share
    return {
        "source": found.table.path.name,
        "sha256": file_sha256(found.table.path),
        "rows_read": found.table.n_rows,
        "malformed": malformed_report(found.table, found.malformed),
        "dropped": dict(found.dropped),
        "n_users": n_users,
        "n_items": n_items,
        "n_events": len(user),
        "parts": {
            name: int((part == number).sum()) for name, number in (("train", TRAIN), ("val", VAL), ("test", TEST))
        },
        "targets": {name: len(at) for name, at in targets.items()},
        "span": [_iso(int(timestamp_ms.min())), _iso(int(timestamp_ms.max()))],
        "density": len(user) / (n_users * n_items),
        "repeat_share": share,
        "repeat_share_of_targets": target_shares,
        "repeat_consumption": repeats == "yes" or (repeats == "auto" and decides > REPEAT_SHARE),
        "tie_share": _tie_share(user, timestamp_ms),
        "tie_rule": TIE_RULE,
        "fingerprint": _fingerprint(frame),
    }


def summarise_catalog(catalog: Catalog | None, item_ids: pl.Series) -> Mapping[str, Any] | None:
    """Return what the items file held and how many of its items are in the catalogue; None without a file."""
    if catalog is None:
        return None
    described = catalog.frame["item_id"]
    n_met = int(described.is_in(item_ids.implode()).sum())
    return {**catalog.report, "not_in_catalogue": len(described) - n_met, "without_a_line": len(item_ids) - n_met}


def _seen_before(frame: pl.DataFrame) -> NDArray[np.bool_]:
    """Return which events are of an item that the same user has had before [n_events]."""
    return (~frame.select(pl.struct("user", "item").is_first_distinct()).to_series()).to_numpy()


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


def _fingerprint(frame: pl.DataFrame) -> str:
    """Return the sha256 over the ids and arrays: equal fingerprints are equal data, split included."""
    digest = hashlib.sha256()
    for name in ("user_id", "item_id"):
        digest.update(json.dumps(frame[name].unique().sort().to_list()).encode())
    for name in ("user", "item", "timestamp_ms", "part"):
        digest.update(np.ascontiguousarray(frame[name].to_numpy()).tobytes())
    return digest.hexdigest()
