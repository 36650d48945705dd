"""The users of the closed loop (loop.py): a recorded log, compressed in time and replayed to a running service.

All times of the log are compressed by one factor, those that train as well as those that are replayed: 60 days become
25 minutes, and a half-life of a day becomes 25 seconds. So ages, gaps and the trend mean to the service what they
meant when the log was recorded, and its clock is the machine's own. What is not compressed is the work: a refresh of
three minutes is a week of the log.

Before each recorded event its user asks for a list. Where the item that the user took is in it, the event is of the
type `taken` and names the answer and the position; else it is `found`. The log was recorded without these lists, so
nobody takes anything because it was shown: what a list is worth is whether it had what the user took anyway.
"""

import http.client
import json
import threading
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from rig import ask, connect

from training.data.interaction_file import Cleaning
from training.data.prepare import parse_columns, prepare
from training.data.split import SplitRule

CALLERS, DAY_MS = 4, 86_400_000
TRIES, PAUSE_S = 100, 0.2
Role = Literal["taken", "found", "impression"]


@dataclass(frozen=True)
class Recorded:
    """One event of the log. at_ms: in compressed time."""

    number: int
    user_id: str
    item_id: str
    at_ms: int


@dataclass(frozen=True)
class Log:
    """The log in two parts: what trains the first model, and what is replayed from begins_ms on."""

    before: list[Recorded]
    replayed: list[Recorded]
    begins_ms: int
    factor: float

    def begin(self, now: float) -> "Log":
        """Return the log with its replay from a later Unix time on; what lies between is time without an event."""
        late_ms = max(0, round(1000 * now) - self.begins_ms)
        replayed = [replace(each, at_ms=each.at_ms + late_ms) for each in self.replayed]
        return replace(self, replayed=replayed, begins_ms=self.begins_ms + late_ms)


@dataclass(frozen=True)
class Shown:
    """A list that was answered. place: of what the user then took, from 1; 0 where it is not in the list."""

    at: float
    number: int
    user_id: str
    answer_id: str
    version: str
    level: str
    items: tuple[str, ...]
    place: int

    @property
    def gain(self) -> float:
        """NDCG of the list, in which one item is right."""
        return 1 / np.log2(self.place + 1) if self.place else 0.0


@dataclass
class Told:
    """What the service said of everything that it was sent. accepted: ids of events, each once if all is well."""

    shown: list[Shown] = field(default_factory=list)
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    repeats: int = 0
    late_s: list[float] = field(default_factory=list)


def read_log(interactions: Path, columns: str, out: Path, days: float, minutes: float, begins: float) -> Log:
    """Read a file of events, and compress it so that its last days are as many minutes from a Unix time on."""
    whole = prepare(interactions, None, out, Cleaning(parse_columns(columns)), SplitRule())
    times = whole.timestamp_ms
    split_ms = int(times.max() - days * DAY_MS)
    factor, begins_ms = days * 1440 / minutes, round(1000 * begins)
    at_ms = begins_ms + np.round((times - split_ms) / factor).astype(np.int64)
    events = [
        Recorded(number, whole.users[whole.user[at]], whole.items[whole.item[at]].item_id, int(at_ms[at]))
        for number, at in enumerate(np.argsort(times, kind="stable").tolist())
    ]
    n_before = int((times <= split_ms).sum())
    return Log(events[:n_before], events[n_before:], begins_ms, factor)


def write_events(path: Path, events: Sequence[Recorded]) -> None:
    """Write events as JSON lines that training reads."""
    with path.open("wb") as file:
        for each in events:
            fields = {"user_id": each.user_id, "item_id": each.item_id, "timestamp": each.at_ms / 1000}
            file.write(orjson.dumps(fields) + b"\n")


class Traffic:
    """Callers that replay a log, each the users of its own, each event when it is due. Use it as a context manager."""

    def __init__(self, url: str, log: Log, k: int) -> None:
        """k: how many items a list has."""
        self.told = Told()
        self._url, self._log, self._k, self._is_over = url, log, k, threading.Event()
        self._threads = [threading.Thread(target=self._replay, args=(caller,)) for caller in range(CALLERS)]
        self._errors: list[BaseException] = []

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self.wait()

    @property
    def goes_on(self) -> bool:
        """Whether something is still to be replayed. Raises what stopped a caller."""
        if self._errors:
            raise self._errors[0]
        return any(thread.is_alive() for thread in self._threads)

    def wait(self) -> None:
        """Wait until everything was replayed."""
        for thread in self._threads:
            thread.join()

    def _replay(self, caller: int) -> None:
        mine = [each for each in self._log.replayed if zlib.crc32(each.user_id.encode()) % CALLERS == caller]
        connection = connect(self._url)
        try:
            for each in mine:
                if self._is_over.wait(max(0.0, each.at_ms / 1000 - time.time())):
                    return
                self.told.late_s.append(time.time() - each.at_ms / 1000)
                shown = self._ask(connection, each)
                self._tell(connection, each, shown)
        except BaseException as exc:  # whoever looks raises it
            self._errors.append(exc)
        finally:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection, each: Recorded) -> Shown | None:
        """Ask for a list, once; return it."""
        status, answer = post(connection, "/recommend", {"user_id": each.user_id, "k": self._k})
        if status != 200:
            self.told.refused[f"/recommend {status}"] += 1
            return None
        items = tuple(item["item_id"] for item in answer["items"])
        place = items.index(each.item_id) + 1 if each.item_id in items else 0
        shown = Shown(
            time.time(), each.number, each.user_id, answer["recommendation_id"], answer["model_version"],
            answer["quality"]["level"], items, place,
        )  # fmt: skip
        self.told.shown.append(shown)
        return shown

    def _tell(self, connection: http.client.HTTPConnection, each: Recorded, shown: Shown | None) -> None:
        """Send what was shown and what was taken, again until it is acknowledged: the ids make that harmless."""
        events = list(events_of(each, shown))
        for _ in range(TRIES):
            status, answer = post(connection, "/events", {"events": events})
            if status == 200:
                assert not answer["rejected"], answer
                self.told.accepted.update(event["event_id"] for event in events)
                self.told.repeats += answer["duplicates"]
                return
            self.told.refused[f"/events {status}"] += 1
            time.sleep(PAUSE_S)
        raise AssertionError(f"event {each.number} was never accepted")


def events_of(each: Recorded, shown: Shown | None) -> list[dict[str, Any]]:
    """Return the impressions of a list, and the event that was recorded."""
    own: dict[str, Any] = {"user_id": each.user_id}
    events = []
    if shown is not None:
        own["recommendation_id"] = shown.answer_id
        events = [
            {**own, "item_id": item, "type": "impression", "position": place, "event_id": f"s{each.number}-{place}"}
            for place, item in enumerate(shown.items, 1)
        ]
    event = {"item_id": each.item_id, "timestamp": each.at_ms / 1000, "event_id": f"t{each.number}"}
    if shown is not None and shown.place:
        return [*events, {**own, **event, "type": "taken", "position": shown.place}]
    return [*events, {"user_id": each.user_id, **event, "type": "found"}]


def post(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Post a body; return status and answer, 0 where the connection broke."""
    try:
        _, status, answer = ask(connection, path, orjson.dumps(body))
    except (OSError, http.client.HTTPException):
        connection.close()  # the next request opens it again
        return 0, None
    return status, json.loads(answer) if status == 200 else None
