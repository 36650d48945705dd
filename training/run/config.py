"""The settings of a run: defaults, then a TOML file, then --set section.key=value; written back to config.toml.

Each stage is handed its values; nothing below the stages sees these classes. An unknown section or key is an error that
lists the known ones: an option that is accepted and does nothing is worse than none.
"""

import dataclasses
import json
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from training.distillation.term import TERMS, Pupil, check_terms, parse_terms
from training.errors import InputError
from training.teacher.registry import KINDS

CHOICES = {
    "prepare.repeats": ("auto", "yes", "no"),
    "split.test": ("last", "time", "users", "none"),
    "split.val": ("last", "time"),
    "student.start": ("random", "teacher"),
    "compress.items": ("float32", "float16", "int8"),
    "compress.encoder": ("float32", "int8"),
}
AT_LEAST_1 = ("dim", "heads", "max_history", "batch_positions", "epochs", "positions", "patience")
MIXERS = ("attention", "pool", "gru")
NUMBERS: dict[str, tuple[type, Callable[[float], bool], str]] = {
    "search.dims": (int, lambda v: 1 <= v <= 4096, "be a list of numbers from 1 to 4096"),
    "capacity.dims": (int, lambda v: 1 <= v <= 4096, "be a list of numbers from 1 to 4096"),
    "search.alphas": (float, lambda v: 0 <= v <= 1, "lie between 0 and 1"),
    "search.temperatures": (float, lambda v: 0 < v < 1000, "be above 0"),
    "ablation.scales": (float, lambda v: 0 < v < 1000, "be above 0"),
}
LISTS: dict[str, Iterable[str]] = {
    "teacher.members": KINDS,
    "teacher.blocks": MIXERS,
    "student.blocks": MIXERS,
}


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

    test: str = "last"  # last | time | users | none
    val: str = "last"  # last | time
    time_share: float = 0.1  # share of events after the cut, for each time split
    folds: int = 5  # of the users, where split.test is users
    fold: int = 1  # the one that is judged, and not trained on; compare pools runs of each


@dataclass(frozen=True)
class Encoder:
    """A sequence model's size."""

    dim: int
    blocks: str  # the mixers, first to last: any of attention, pool, gru
    heads: int
    dropout: float
    max_history: int = 50  # newest items that the encoder sees


@dataclass(frozen=True)
class Teacher(Encoder):
    """Which models teach, mixed as validation says; and the size and training of the transformers among them."""

    members: str = "transformer,linear,twin"  # any of these and text (a transformer over the texts alone); twin: the
    # student itself, trained alone before: no mix is then weaker than it
    text: str = ""  # directory of a Hugging Face encoder: its vectors of the items' texts start the transformer's table
    dim: int = 128
    blocks: str = "pool,attention,attention"
    heads: int = 4
    dropout: float = 0.3
    learning_rate: float = 2e-3
    batch_positions: int = 1024  # targets a step
    epochs: int = 40
    positions: int = 9_000_000  # targets in all, however many epochs that is; bounds the time of large sets
    patience: int = 4  # epochs without a better validation NDCG@10 before it stops
    seed: int = 1


@dataclass(frozen=True)
class Student(Encoder):
    """The student's size and its training; the student alone is trained the same way without a teacher."""

    start: str = "random"  # of the taught student's item table: random | teacher (the transformer's, whitened)
    dim: int = 384
    blocks: str = "pool"
    heads: int = 2
    dropout: float = 0.05
    unit: bool = False  # users and items of length 1, and a learned scale
    alone_dropout: float = 0.2  # of the student without a teacher, which overfits sooner
    learning_rate: float = 3e-3
    batch_positions: int = 1024
    epochs: int = 30
    positions: int = 3_000_000
    patience: int = 3
    seed: int = 1


@dataclass(frozen=True)
class Distill:
    """The loss, at every position: alpha · Σ weight · term + (1 - alpha) · cross-entropy."""

    terms: str = "kl,stratified"  # any of those in term.py, each with its weight: "kl:1,hint:0.1"
    alpha: float = 0.9
    temperature: float = 0.5
    teacher_temperature: float = 0.0  # the teacher's own, where it is to be another than the student's; 0: the same
    smoothing: float = 0.1  # of the labels of a student without a teacher, to compare with; 0: none is trained


@dataclass(frozen=True)
class Search:
    """What a search of the student tries, and what it may cost; chosen on validation."""

    dims: str = "32,64,128,256,384"
    blocks: str = "pool;pool,attention"  # mixers of a candidate, candidates apart by a semicolon
    alphas: str = "0.5,0.9,1.0"
    temperatures: str = "0.5,1.0"
    positions: int = 2_000_000  # targets that a trial is trained on
    minutes: float = 0.0  # no trial starts after so many; 0: no limit
    budget_ms: float = 0.0  # median of encode, score and top K on this machine; 0: no limit
    budget_mb: float = 0.0  # encoder and item table; 0: no limit


@dataclass(frozen=True)
class Ablation:
    """What an ablation of distill.terms tries; which terms get more seeds is chosen on validation."""

    terms: str = ""  # as distill.terms; empty: all that can be taught
    scales: str = "1.0"  # each term's weight is tried times each of these
    positions: int = 2_000_000  # targets that a trial is trained on
    seeds: int = 3  # of those that stand out; student.seed is the first
    best: int = 3  # so many stand out above, on each base
    worst: int = 1  # and below


@dataclass(frozen=True)
class Capacity:
    """What a study of the student's width and its teacher tries."""

    dims: str = "32,64,128,256,384"
    positions: int = 1_000_000  # targets that a trial is trained on


@dataclass(frozen=True)
class Compression:
    """What a study of compression measures and how long each variant is taught on."""

    variants: str = ""  # some of those in compression.py; empty: all. Apart by a semicolon
    positions: int = 500_000  # targets
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class Compress:
    """How item table and encoder are stored in the bundle."""

    items: str = "int8"  # float32 | float16 | int8
    encoder: str = "int8"  # float32 | int8: its matrices; products stay float32


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
    search: Search = field(default_factory=Search)
    ablation: Ablation = field(default_factory=Ablation)
    capacity: Capacity = field(default_factory=Capacity)
    compression: Compression = field(default_factory=Compression)
    compress: Compress = field(default_factory=Compress)
    baselines: Baselines = field(default_factory=Baselines)


def parse_names(config: Config, name: str) -> tuple[str, ...]:
    """Return the words of a setting that is a comma-separated list. Raises InputError for an unknown one, or none."""
    known = LISTS[name]
    words = tuple(word.strip() for word in _value(config, name).split(",") if word.strip())
    if not words or not set(words) <= set(known):
        raise InputError(f"{name} must list some of {', '.join(known)}, not {_value(config, name)!r}")
    return words


def pupil_of(config: Config) -> Pupil:
    """Return the shapes that decide what can be taught."""
    return Pupil(
        parse_names(config, "teacher.members"),
        parse_names(config, "teacher.blocks"),
        config.teacher.max_history,
        parse_names(config, "student.blocks"),
        config.student.max_history,
    )


def parse_numbers(config: Config, name: str) -> list[Any]:
    """Return the numbers of a setting that is a comma-separated list. Raises InputError."""
    text = _value(config, name)
    try:
        numbers = [NUMBERS[name][0](word) for word in text.split(",") if word.strip()]
    except ValueError as exc:
        raise InputError(f"{name} must be a list of numbers such as {_value(Config(), name)}") from exc
    holds, claim = NUMBERS[name][1:]
    if not numbers or not all(holds(number) for number in numbers):
        raise InputError(f"{name} must {claim}, each of them, not {text!r}")
    return numbers


def parse_candidates(config: Config) -> list[tuple[str, ...]]:
    """Return the block lists of search.blocks. Raises InputError."""
    candidates = [tuple(word.strip() for word in one.split(",")) for one in config.search.blocks.split(";")]
    if not all(set(blocks) <= set(MIXERS) for blocks in candidates):
        raise InputError(f"search.blocks must list some of {', '.join(MIXERS)}, not {config.search.blocks!r}")
    return candidates


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
    for name in LISTS:
        parse_names(config, name)
    for name in NUMBERS:
        parse_numbers(config, name)
    parse_candidates(config)
    _check_widths(config)
    check_terms(parse_terms(config.distill.terms), pupil_of(config))
    for name in parse_names(config, "teacher.members"):
        if KINDS[name].needs_texts and not config.teacher.text:
            raise InputError(f"teacher.members has {name}: set teacher.text to the directory of a Hugging Face encoder")
    if config.ablation.terms:
        parse_terms(config.ablation.terms, "ablation.terms")
    return config


def check_refit(config: Config) -> None:
    """Raise InputError where training on everything is to use what learns from held-out users."""
    for name in parse_terms(config.distill.terms):
        if TERMS[name].asks_validation:
            raise InputError(f"distill.terms: {name} learns from validation, and --refit holds none out: leave it out")


def differing_settings(ours: Config, theirs: Config) -> list[str]:
    """Return the names of the settings in which two configs differ."""
    first, second = dataclasses.asdict(ours), dataclasses.asdict(theirs)
    return [f"{name}.{key}" for name, own in first.items() for key in own if own[key] != second[name][key]]


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
        # a list of one number reads as a number
        takes = {float: (int, float), str: (str, int, float)}.get(expected, expected)
        fits = isinstance(value, takes) and not (isinstance(value, bool) and expected is not bool)
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
        "split.folds": (lambda v: v >= 2, "at least 2"),
        "split.fold": (lambda v: 1 <= v <= config.split.folds, f"from 1 to split.folds={config.split.folds}"),
        "distill.alpha": (lambda v: 0 <= v <= 1, "between 0 and 1"),
        "distill.temperature": (lambda v: 0 < v < 1000, "above 0"),
        "distill.teacher_temperature": (lambda v: 0 <= v < 1000, "above 0, or 0 for the student's own"),
        "distill.smoothing": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
        "student.alone_dropout": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
        "search.positions": (lambda v: v >= 1, "at least 1"),
        **{f"ablation.{key}": (lambda v: v >= 1, "at least 1") for key in ("positions", "seeds")},
        "capacity.positions": (lambda v: v >= 1, "at least 1"),
        "compression.positions": (lambda v: v >= 1, "at least 1"),
        "compression.learning_rate": (lambda v: 0 < v < 10, "above 0 and below 10"),
        **{f"ablation.{key}": (lambda v: v >= 0, "at least 0") for key in ("best", "worst")},
        **{f"search.{key}": (lambda v: v >= 0, "at least 0") for key in ("minutes", "budget_ms", "budget_mb")},
    }
    for section in ("teacher", "student"):
        claims |= {f"{section}.{key}": (lambda v: v >= 1, "at least 1") for key in AT_LEAST_1}
        claims[f"{section}.dropout"] = (lambda v: 0 <= v < 1, "at least 0 and below 1")
        claims[f"{section}.learning_rate"] = (lambda v: 0 < v < 10, "above 0 and below 10")
        claims[f"{section}.seed"] = (lambda v: 0 <= v < 1 << 32, "at least 0")
    for name, (holds, claim) in claims.items():
        if not holds(_value(config, name)):
            raise InputError(f"{name} must be {claim}, not {_value(config, name)!r}")
    for section in ("teacher", "student"):
        dim, heads = _value(config, f"{section}.dim"), _value(config, f"{section}.heads")
        if dim % heads:
            raise InputError(f"{section}.dim {dim} must be a multiple of {section}.heads {heads}")


def _check_widths(config: Config) -> None:
    """Raise InputError where a width of a study cannot be shared among the heads."""
    tried = {"search": [*parse_candidates(config)], "capacity": [parse_names(config, "student.blocks")]}
    for section, candidates in tried.items():
        for dim in parse_numbers(config, f"{section}.dims"):
            if dim % config.student.heads and any("attention" in blocks for blocks in candidates):
                raise InputError(f"{section}.dims: {dim} is no multiple of student.heads {config.student.heads}")


def _value(config: Config, name: str) -> Any:
    section, key = name.split(".")
    return getattr(getattr(config, section), key)
