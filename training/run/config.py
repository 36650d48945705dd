"""The settings of a run, each declared once with its type, its range and its default.

pydantic checks a value when its section is made; config_file.py reads and writes the file, and words a refusal. Only
training/run reads these classes: every stage is handed plain values.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import date
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, StrictBool, StrictFloat, StrictInt
from pydantic.dataclasses import dataclass

from training.data.interaction_file import WEIGHTS
from training.data.timestamp import RULES as TIME_RULES
from training.distillation.term import TERMS, Pupil, parse_terms
from training.errors import InputError
from training.file.table import FORMATS, HEADERS
from training.teacher.registry import KINDS

MIXERS = ("attention", "pool", "gru")  # the kinds of block
PROPENSITIES = ("none", "position")  # beside a slope: how clicks are weighed by their place
KNOWN_ONLY = ConfigDict(extra="forbid")


def _must(claim: str, holds: Callable[[Any], bool]) -> AfterValidator:
    """Return the check of a value. A refusal reads: SECTION.KEY must CLAIM, not VALUE. holds may raise ValueError."""

    def check(value: Any) -> Any:
        with suppress(ValueError):
            if holds(value):
                return value
        raise ValueError(f"must {claim}, not {value!r}")

    return AfterValidator(check)


def _one_of(*known: str) -> AfterValidator:
    return _must(f"be one of {', '.join(known)}", lambda text: text in known)


def _each(claim: str, holds: Callable[[str], bool]) -> AfterValidator:
    """Return the check of a text that lists words: there is one or more, and each of them holds."""
    return _must(claim, lambda text: bool(_words(text)) and all(map(holds, _words(text))))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _block_lists(text: str) -> list[tuple[str, ...]]:
    return [tuple(word.strip() for word in blocks.split(",")) for blocks in text.split(";")]


def _kinds_of_teachers(text: str) -> str:
    """Raises ValueError for a kind that the registry does not hold now."""
    if not _words(text) or not KINDS.keys() >= set(_words(text)):
        raise ValueError(f"must list some of {', '.join(KINDS)}, not {text!r}")
    return text


def _to_text(value: Any) -> Any:
    """Turn a number or a date into text: TOML reads a list of one number (search.dims = 64) as that number."""
    return str(value) if isinstance(value, int | float | date) and not isinstance(value, bool) else value


# A list is kept as the text that the file holds. The functions below the sections take it apart.
Text = Annotated[str, BeforeValidator(_to_text)]
Members = Annotated[Text, AfterValidator(_kinds_of_teachers)]
Blocks = Annotated[Text, _each(f"list some of {', '.join(MIXERS)}", lambda word: word in MIXERS)]
BlockLists = Annotated[
    Text,
    _must(f"list some of {', '.join(MIXERS)}", lambda text: all(set(one) <= set(MIXERS) for one in _block_lists(text))),
]
Parts = Annotated[
    Text,
    _must(
        "list taste and any of neighbours, trend",
        lambda text: "taste" in _words(text) and set(_words(text)) <= {"taste", "neighbours", "trend"},
    ),
]
Propensity = Annotated[
    Text,
    _must("be none, position or a number from 0 to 5", lambda text: text in PROPENSITIES or 0 <= float(text) <= 5),
]
Dims = Annotated[Text, _each("be a list of numbers from 1 to 4096, each of them", lambda word: 1 <= int(word) <= 4096)]
Alphas = Annotated[Text, _each("lie between 0 and 1, each of them", lambda word: 0 <= float(word) <= 1)]
Scales = Annotated[Text, _each("be above 0, each of them", lambda word: 0 < float(word) < 1000)]
AtLeast1 = Annotated[StrictInt, _must("be at least 1", lambda v: v >= 1)]
AtLeast0 = Annotated[StrictInt, _must("be at least 0", lambda v: v >= 0)]
Seed = Annotated[StrictInt, _must("be at least 0", lambda v: 0 <= v < 1 << 32)]
Limit = Annotated[StrictFloat, _must("be at least 0", lambda v: v >= 0)]
Share = Annotated[StrictFloat, _must("be between 0 and 1", lambda v: 0 <= v <= 1)]
ShareBelow1 = Annotated[StrictFloat, _must("be at least 0 and below 1", lambda v: 0 <= v < 1)]
Rate = Annotated[StrictFloat, _must("be above 0 and below 10", lambda v: 0 < v < 10)]
Temperature = Annotated[StrictFloat, _must("be above 0", lambda v: 0 < v < 1000)]
OtherTemperature = Annotated[StrictFloat, _must("be above 0, or 0 for the student's own", lambda v: 0 <= v < 1000)]


@dataclass(frozen=True, config=KNOWN_ONLY)
class Prepare:
    """How the files are read.

    repeats: may seen items be recommended? auto: they may where more than 5 % of the held-out events repeat one.
    """

    columns: Text = ""  # "user_id=CustomerID,item_id=StockCode": our name = theirs, or its place, counted from 1
    item_columns: Text = ""  # the same for the items file
    events: Text = ""  # "purchase,view": only these values of the event column count; empty: all
    weights: Annotated[Text, _one_of(*WEIGHTS)] = "filter"  # loss: they filter, and are kept as weights of the events
    event_weights: Text = ""  # "purchase=1,view=0.2": the weight of an event by its value, where weights is loss
    event_effects: Text = ""  # "unlike=undo,skip=hide,click=stream": what else events do by their value
    min_weight: StrictFloat = 0.0  # rows of this weight or less are dropped; without a weight column every row counts
    max_malformed: Share = 0.01  # the run stops where a larger share of the rows cannot be read
    max_history: AtLeast1 = 500  # newest events kept of a user: as many as the store keeps
    repeats: Annotated[Text, _one_of("auto", "yes", "no")] = "auto"
    min_targets: AtLeast0 = 20  # fewer events to learn from stop the run; 0: any number will do
    times: Annotated[Text, _one_of(*TIME_RULES)] = "auto"  # the unit of numbers, the order of day and month, or order
    earliest: Text = "1990-01-01"  # a time before it is malformed
    latest: Text = ""  # a time after it is malformed; empty: tomorrow
    format: Annotated[Text, _one_of(*FORMATS)] = "auto"
    delimiter: Text = ""  # one of , ; | :: or tab, space and others; empty: seen from the first lines
    quote: Text = '"'  # empty: quotes are plain characters
    header: Annotated[Text, _one_of(*HEADERS)] = "auto"
    encoding: Text = ""  # a name that Python knows; empty: seen from the bytes
    item_delimiter: Text = ""  # these three, of the items file
    item_quote: Text = '"'
    item_encoding: Text = ""
    item_text: Text = ""  # "year,shop": columns of the items file that are text though all their values are numbers


@dataclass(frozen=True, config=KNOWN_ONLY)
class Split:
    """What is held out: each user's last event, the newest share of all events, a fold of the users, or nothing."""

    test: Annotated[Text, _one_of("last", "time", "users", "none")] = "last"
    val: Annotated[Text, _one_of("last", "time")] = "last"
    time_share: Annotated[StrictFloat, _must("be above 0 and below 1", lambda v: 0 < v < 1)] = 0.1  # of a time split
    folds: Annotated[StrictInt, _must("be at least 2", lambda v: v >= 2)] = 5  # of the users, for test = "users"
    fold: StrictInt = 1  # the one that is judged and not trained on; the compare command pools the runs of all folds


@dataclass(frozen=True, config=KNOWN_ONLY)
class Teacher:
    """Which models teach, and the size and training of the transformers among them. Validation says how they mix."""

    dim: AtLeast1 = 128
    blocks: Blocks = "pool,attention,attention"
    heads: AtLeast1 = 4
    dropout: ShareBelow1 = 0.3
    max_history: AtLeast1 = 50  # newest items that the encoder sees
    members: Members = "transformer,linear,twin"  # text: a transformer over the items' texts alone; twin: the student
    # itself, trained alone before, so that no mix is weaker than it
    text: Text = ""  # directory of a Hugging Face encoder, whose vectors of the items' texts the item table starts from
    learning_rate: Rate = 2e-3
    batch_positions: AtLeast1 = 1024  # targets in a step
    epochs: AtLeast1 = 40
    positions: AtLeast1 = 9_000_000  # targets in all epochs together, which bounds the time that large data take
    patience: AtLeast1 = 4  # training stops after so many epochs without a better validation NDCG@10
    seed: Seed = 1
    shard_above_mb: Limit = 0.0  # an item table from this size on lies in shards over several processes; 0: by memory


@dataclass(frozen=True, config=KNOWN_ONLY)
class Student:
    """The student's size and training. The student without a teacher, to compare with, is trained the same way."""

    parts: Parts = "taste,neighbours,trend"  # of the score; one that brings nothing on validation is left out by itself
    half_lives: Scales = "6,24,72,168,720"  # of the trend, in hours, that are tried
    dim: AtLeast1 = 64
    blocks: Blocks = "pool"
    heads: AtLeast1 = 2
    dropout: ShareBelow1 = 0.05
    max_history: AtLeast1 = 50  # newest items that the encoder sees
    start: Annotated[Text, _one_of("random", "teacher")] = "random"  # of the item table; teacher: the transformer's
    unit: StrictBool = False  # vectors of users and items have length 1, and a scale is learned
    alone_dropout: ShareBelow1 = 0.2  # of the student without a teacher, which overfits sooner
    learning_rate: Rate = 3e-3
    batch_positions: AtLeast1 = 1024
    epochs: AtLeast1 = 30
    positions: AtLeast1 = 3_000_000
    patience: AtLeast1 = 3
    seed: Seed = 1
    shard_above_mb: Limit = 0.0  # an item table from this size on lies in shards over several processes; 0: by memory


@dataclass(frozen=True, config=KNOWN_ONLY)
class Distill:
    """The loss at every position: alpha · Σ weight · term + (1 - alpha) · cross-entropy."""

    terms: Text = "kl,stratified"  # any of those in distillation/term.py, each with its weight: "kl:1,hint:0.1"
    alpha: Share = 0.9
    temperature: Temperature = 0.5
    teacher_temperature: OtherTemperature = 0.0  # the teacher's own, where it is another than the student's
    smoothing: ShareBelow1 = 0.1  # of the labels of a student without a teacher, to compare with; 0: none is trained


@dataclass(frozen=True, config=KNOWN_ONLY)
class Search:
    """What a search of the student tries and what the student may cost. The choice is made on validation."""

    dims: Dims = "32,64,128,256,384"
    blocks: BlockLists = "pool;pool,attention"
    alphas: Alphas = "0.5,0.9,1.0"
    temperatures: Scales = "0.5,1.0"
    positions: AtLeast1 = 2_000_000  # targets that a trial is trained on
    minutes: Limit = 0.0  # no trial starts after so many; 0: no limit
    budget_ms: Limit = 0.0  # median of encode, score and top K on this machine; 0: no limit
    budget_mb: Limit = 0.0  # encoder, item table and what runs them; 0: no limit
    runtime_mb: Limit = 0.0  # of these, what runs them takes: 14.4 in a browser or Node, 3.7 of them over the wire


@dataclass(frozen=True, config=KNOWN_ONLY)
class Ablation:
    """What an ablation of distill.terms tries. Which terms are tried with more seeds is chosen on validation."""

    terms: Text = ""  # as distill.terms; empty: all that can be taught
    scales: Scales = "1.0"  # each term's weight is tried times each of these
    positions: AtLeast1 = 2_000_000  # targets that a trial is trained on
    seeds: AtLeast1 = 3  # of the terms that stand out; student.seed is the first
    best: AtLeast0 = 3  # how many terms stand out at the top, on each base
    worst: AtLeast0 = 1  # and how many at the bottom


@dataclass(frozen=True, config=KNOWN_ONLY)
class Capacity:
    """What a study of the student's width and its teacher tries."""

    dims: Dims = "32,64,128,256,384"
    positions: AtLeast1 = 1_000_000  # targets that a trial is trained on


@dataclass(frozen=True, config=KNOWN_ONLY)
class Compression:
    """What a study of compression measures, and how long each variant is taught on."""

    variants: Text = ""  # some of those in study/compression.py, apart by a semicolon; empty: all
    positions: AtLeast1 = 500_000  # targets
    learning_rate: Rate = 1e-3


@dataclass(frozen=True, config=KNOWN_ONLY)
class Compress:
    """How item table and encoder are stored in the bundle."""

    items: Annotated[Text, _one_of("float32", "float16", "int8")] = "int8"
    encoder: Annotated[Text, _one_of("float32", "int8")] = "int8"  # its matrices; products stay float32


@dataclass(frozen=True, config=KNOWN_ONLY)
class Newcomers:
    """The encoder of items that the model was not trained on, and how it is judged."""

    epochs: AtLeast0 = 50  # of its training; 0: the bundle has no such encoder
    held_out: ShareBelow1 = 0.0  # of the items, held out whole to judge one; that trains another student. 0: none


@dataclass(frozen=True, config=KNOWN_ONLY)
class Baselines:
    """What the models are compared with."""

    models: Text = "popularity,recent_popularity,item_knn,ease"  # also ials (minutes); ease only up to 20,000 items


@dataclass(frozen=True, config=KNOWN_ONLY)
class Refresh:
    """How models go on from those of before with what users did since, and how the new one is judged."""

    epochs: AtLeast1 = 3  # of a training that goes on from the last one
    rate: Rate = 0.5  # what its learning rate is multiplied with
    rehearsal: Limit = 1.0  # old targets for each new one, at least; without them a model forgets
    drift: Share = 0.2  # a larger share of new events of items that the last full training did not know asks for one
    judged_share: Annotated[StrictFloat, _must("be above 0 and below 0.5", lambda v: 0 < v < 0.5)] = 0.2  # of the new
    # events, the newest, on which both models are judged; as many before them validate the new one
    judged_most: AtLeast1 = 5000  # of them, at most
    judged_least: AtLeast1 = 100  # with fewer a refresh waits
    agreement: Share = 0.1  # overlap@10 of live student and teacher this much below the offline one is called a drift
    propensity: Propensity = "none"  # position, or a slope: clicks weigh more the lower they stood, by what explored
    # items tell of it, or by place ** slope; prepare.weights is then loss
    margin: ShareBelow1 = 0.03  # what is not worse than the live model by more, with 97.5 % confidence, is published


@dataclass(frozen=True, config=KNOWN_ONLY)
class Config:
    """All sections."""

    prepare: Prepare = Prepare()
    split: Split = Split()
    teacher: Teacher = Teacher()
    student: Student = Student()
    distill: Distill = Distill()
    search: Search = Search()
    ablation: Ablation = Ablation()
    capacity: Capacity = Capacity()
    compression: Compression = Compression()
    compress: Compress = Compress()
    newcomers: Newcomers = Newcomers()
    baselines: Baselines = Baselines()
    refresh: Refresh = Refresh()


def parse_names(config: Config, name: str) -> tuple[str, ...]:
    """Return the words of a setting that is a comma-separated list, such as teacher.members."""
    section, key = name.split(".")
    return _words(getattr(getattr(config, section), key))


def parse_numbers(config: Config, name: str) -> list[Any]:
    """Return the numbers of a setting that is a comma-separated list: int for widths (dims), float for all others."""
    return [(int if name.endswith(".dims") else float)(word) for word in parse_names(config, name)]


def parse_candidates(config: Config) -> list[tuple[str, ...]]:
    """Return the block lists of search.blocks."""
    return _block_lists(config.search.blocks)


def pupil_of(config: Config) -> Pupil:
    """Return the shapes that decide what can be taught."""
    return Pupil(
        parse_names(config, "teacher.members"),
        parse_names(config, "teacher.blocks"),
        config.teacher.max_history,
        parse_names(config, "student.blocks"),
        config.student.max_history,
    )


def check_refit(config: Config) -> None:
    """Raise InputError where a term learns from held-out users, of which training on everything has none."""
    for name in parse_terms(config.distill.terms):
        if TERMS[name].asks_validation:
            raise InputError(f"distill.terms: {name} learns from validation, and --refit holds none out: leave it out")
