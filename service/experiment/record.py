"""What is tried beside the live version, as it stands in the store: one record, read strictly.

A record that is not exactly what this service writes is none: whoever can write to the store can write anything.
"""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import orjson

from service.errors import StoreError
from service.store.reply import UNDECODABLE

Kind = Literal["shadow", "canary", "experiment"]
KINDS: tuple[str, ...] = get_args(Kind)
LEAST_SHARE = 0.01
"""Percent."""
_VERSION = re.compile(r"[0-9a-f]{16}")
_NAME = re.compile(r"[0-9a-f]{16}")
_MOST_REASON = 300
MOST_CONVERSIONS, _MOST_TYPE = 20, 64
_END_OF_TIME = 1e12


@dataclass(frozen=True, slots=True)
class Experiment:
    """Another version that is tried beside the live one.

    kind: shadow answers a share of the requests again, aside; canary and experiment answer a share of the users. The
    two do the same: a canary is watched for faults, an experiment for what users do. version: the other one. live:
    the one that it is set beside. share: percent. salt: of the users' assignment. started: Unix seconds. id: of this
    experiment, another one after each change. ended: Unix seconds; None while it runs. reason: why it has ended.
    conversions: the types of events that are conversions, whoever counts; none: those that enter histories.
    """

    kind: Kind
    version: str
    live: str
    share: float
    salt: str
    started: float
    id: str
    ended: float | None = None
    reason: str = ""
    conversions: tuple[str, ...] = ()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.ended is None

    @property
    def number(self) -> int:
        """What stands in the place of a release's number while the other version is fetched and loaded."""
        return int(self.id[:12], 16)


def is_share(share: Any) -> bool:
    """Return whether a share is a number of percent that can be asked for."""
    return type(share) in (int, float) and math.isfinite(share) and LEAST_SHARE <= share <= 100


def are_conversions(types: Any) -> bool:
    """Return whether these are types of events that an experiment can count."""
    return len(types) <= MOST_CONVERSIONS and all(
        isinstance(type_, str) and len(type_) <= _MOST_TYPE for type_ in types
    )


def dump_experiment(experiment: Experiment) -> bytes:
    """Return a record as it is written."""
    return orjson.dumps(asdict(experiment))


def parse_experiment(value: bytes) -> Experiment | None:
    """Read a record; None where there is none. Raises StoreError for one that this service does not write."""
    if not value:
        return None
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError as exc:
        raise StoreError(UNDECODABLE) from exc
    if isinstance(fields, dict):
        fields = {"conversions": []} | fields  # before, each process counted by its own setting
    if not isinstance(fields, dict) or not _is_right(fields):
        raise StoreError(UNDECODABLE)
    known = {name: fields[name] for name in Experiment.__slots__}
    return Experiment(**known | {"conversions": tuple(fields["conversions"])})


def _is_right(fields: dict[str, Any]) -> bool:
    if not fields.keys() >= set(Experiment.__slots__) or fields["kind"] not in KINDS:
        return False
    names = ((fields["version"], _VERSION), (fields["live"], _VERSION), (fields["salt"], _NAME), (fields["id"], _NAME))
    are_named = all(isinstance(name, str) and pattern.fullmatch(name) for name, pattern in names)
    moments = [fields["started"], *([] if fields["ended"] is None else [fields["ended"]])]
    are_moments = all(type(at) in (int, float) and math.isfinite(at) and 0 <= at < _END_OF_TIME for at in moments)
    is_reason = isinstance(fields["reason"], str) and len(fields["reason"]) <= _MOST_REASON
    is_reason = is_reason and isinstance(fields["conversions"], list) and are_conversions(fields["conversions"])
    return are_named and are_moments and is_reason and is_share(fields["share"]) and fields["version"] != fields["live"]
