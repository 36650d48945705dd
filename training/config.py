"""The settings of a run: defaults, then a TOML file, then --set section.key=value; written back to config.toml.

Each stage is handed its values; nothing below the stages sees these classes. An unknown section or key is an error that
lists the known ones: an option that is accepted and does nothing is worse than none.
"""

import dataclasses
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from training.errors import InputError

CHOICES = {
    "prepare.repeats": ("auto", "yes", "no"),
    "split.test": ("last", "time", "none"),
    "split.val": ("last", "time"),
    "compress.items": ("float32", "float16", "int8"),
}
AT_LEAST_1 = ("dim", "layers", "heads", "max_history", "batch_positions", "epochs", "patience")


@dataclass(frozen=True)
class Prepare:
    """How the files are read."""

    columns: str = ""  # "user_id=CustomerID,item_id=StockCode": our name = theirs
    events: str = ""  # "purchase,view": only these values of the event column count; empty: all
    min_weight: float = 0.0  # rows at or below are not liking, and are dropped; with no weight column every row counts
    max_malformed: float = 0.01  # share of unreadable rows above which the run stops
    max_history: int = 500  # newest events kept per user: what the store keeps, so that serving sees the same
    repeats: str = "auto"  # may a seen item be recommended: yes | no | auto (yes where > 5 % of held-out repeat)


@dataclass(frozen=True)
class Split:
    """What is held out. last: each user's last event (test), the one before (val). time: the newest share of events."""

    test: str = "last"  # last | time | none
    val: str = "last"  # last | time
    time_share: float = 0.1  # share of events after the cut, for each time split


@dataclass(frozen=True)
class Encoder:
    """A causal transformer's size."""

    dim: int
    layers: int
    heads: int
    dropout: float
    max_history: int = 50  # newest items that the encoder sees


@dataclass(frozen=True)
class Teacher(Encoder):
    """The teacher's size and its training."""

    dim: int = 128
    layers: int = 2
    heads: int = 4
    dropout: float = 0.3
    learning_rate: float = 2e-3
    batch_positions: int = 1024  # targets a step
    epochs: int = 40
    patience: int = 4  # epochs without a better validation NDCG@10 before it stops
    seed: int = 1


@dataclass(frozen=True)
class Student(Encoder):
    """The student's size and its training; the student alone is trained the same way with alpha 0."""

    dim: int = 32
    layers: int = 2
    heads: int = 2
    dropout: float = 0.1
    learning_rate: float = 3e-3
    batch_positions: int = 1024
    epochs: int = 30
    patience: int = 3
    seed: int = 1


@dataclass(frozen=True)
class Distill:
    """The loss: alpha · temperature² · KL(teacher ‖ student) + (1 - alpha) · cross-entropy, at every position."""

    alpha: float = 0.8
    temperature: float = 1.0


@dataclass(frozen=True)
class Compress:
    """How the item table is stored in the bundle."""

    items: str = "float32"  # float32 | float16 | int8


@dataclass(frozen=True)
class Baselines:
    """What the models are compared with."""

    models: str = "popularity,recent_popularity,item_knn,ease"  # also: ials (minutes); ease only up to 20,000 items


@dataclass(frozen=True)
class Config:
    """All sections."""

    prepare: Prepare = field(default_factory=Prepare)
    split: Split = field(default_factory=Split)
    teacher: Teacher = field(default_factory=Teacher)
    student: Student = field(default_factory=Student)
    distill: Distill = field(default_factory=Distill)
    compress: Compress = field(default_factory=Compress)
    baselines: Baselines = field(default_factory=Baselines)


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Resolve defaults, then the TOML file, then overrides like "teacher.dim=96". Raises InputError."""
    values = _read_toml(path) if path else {}
    for override in overrides:
        section, key, value = _parse_override(override)
        values.setdefault(section, {})[key] = value
    return build_config(values)


def build_config(values: dict[str, Any]) -> Config:
    """Build a Config from {section: {key: value}}; unknown names and wrong types raise InputError."""
    sections = {f.name: get_type_hints(Config)[f.name] for f in dataclasses.fields(Config)}
    for name in values:
        if name not in sections:
            raise InputError(f"unknown section [{name}]; known: {', '.join(sections)}")
        if not isinstance(values[name], dict):
            raise InputError(f"{name} must be a section: [{name}]")
    config = Config(**{name: _build_section(name, kind, values.get(name, {})) for name, kind in sections.items()})
    _check_choices(config)
    _check_ranges(config)
    return config


def dump_config(config: Config) -> str:
    """Return the config as TOML."""
    lines: list[str] = []
    for section, values in dataclasses.asdict(config).items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such file; --config takes a TOML file") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InputError(f"{path}: not TOML: {exc}") from exc


def _parse_override(text: str) -> tuple[str, str, Any]:
    name, equals, raw = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise InputError(f"--set {text!r}: write section.key=value, for example --set teacher.dim=96")
    try:
        return section, key, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return section, key, raw.strip()


def _build_section(name: str, kind: type, values: dict[str, Any]) -> Any:
    hints = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    for key, value in values.items():
        if key not in known:
            raise InputError(f"unknown setting {name}.{key}; known in [{name}]: {', '.join(known)}")
        expected = hints[key]
        fits = isinstance(value, (int, float) if expected is float else expected) and not (
            isinstance(value, bool) and expected is not bool
        )
        if not fits:
            raise InputError(f"{name}.{key} must be of type {expected.__name__}, not {value!r}")
    return kind(**{key: hints[key](value) for key, value in values.items()})


def _check_choices(config: Config) -> None:
    for name, choices in CHOICES.items():
        value = _value(config, name)
        if value not in choices:
            raise InputError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _check_ranges(config: Config) -> None:
    claims = {
        "prepare.max_history": (lambda v: v >= 1, "at least 1"),
        "prepare.max_malformed": (lambda v: 0 <= v <= 1, "between 0 and 1"),
        "split.time_share": (lambda v: 0 < v < 1, "above 0 and below 1"),
        "distill.alpha": (lambda v: 0 <= v <= 1, "between 0 and 1"),
        "distill.temperature": (lambda v: 0 < v < 1000, "above 0"),
    }
    for section in ("teacher", "student"):
        claims |= {f"{section}.{key}": (lambda v: v >= 1, "at least 1") for key in AT_LEAST_1}
        claims[f"{section}.dropout"] = (lambda v: 0 <= v < 1, "at least 0 and below 1")
        claims[f"{section}.learning_rate"] = (lambda v: 0 < v < 10, "above 0 and below 10")
    for name, (holds, claim) in claims.items():
        if not holds(_value(config, name)):
            raise InputError(f"{name} must be {claim}, not {_value(config, name)!r}")
    for section in ("teacher", "student"):
        dim, heads = _value(config, f"{section}.dim"), _value(config, f"{section}.heads")
        if dim % heads:
            raise InputError(f"{section}.dim {dim} must be a multiple of {section}.heads {heads}")


def _value(config: Config, name: str) -> Any:
    section, key = name.split(".")
    return getattr(getattr(config, section), key)
