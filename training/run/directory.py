"""A run directory, and what its settings say, opened: sizes, schedules, recipe, teachers, soft labels.

pipeline.py has the stages that fill the directory, study.py what is tried beside them. Only this folder sees the
config; it hands each stage its values and the directories that it works on.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from training.data.prepared import ITEMS, Prepared, load_prepared, training_events
from training.distillation.source import Source
from training.distillation.student import Taught, Untaught
from training.distillation.teaching import Recipe, make_probe
from training.distillation.term import check_terms, parse_terms
from training.errors import InputError
from training.evaluation.given import Given
from training.model.encoder import Size
from training.model.fit import Schedule
from training.model.warm import Warm
from training.progress import Progress
from training.run.config import Config, Student, Teacher, parse_names, pupil_of
from training.stage import WEIGHED_REVISION, make_key, read_key, run_stage
from training.teacher.item_text import VECTORS, describe, encode_texts, fingerprint_language_model
from training.teacher.kind import Kind, Member, ModelSettings, Offer, Supplies
from training.teacher.mix import load_factors, load_trends
from training.teacher.registry import KINDS, mixed_members, open_member
from training.teacher.soft_labels import TrendLabels
from training.teacher.transformer import files_in

# The commands that make the stages whose names are not their own.
COMMANDS = {
    "prepared": "prepare",
    "student": "distill",
    "compressed": "compress",
    "mix": "teacher",
    "text": "teacher",
    "trend": "teacher",
    "neighbours": "distill",
    "item_encoder": "export",
}


@dataclass(frozen=True)
class Run:
    """A run directory with its resolved settings."""

    out: Path
    config: Config
    progress: Progress
    refit: bool = False
    warm: Warm | None = None  # the earlier run that training goes on from

    def prepared(self) -> Prepared:
        """Load what prepare wrote. Raises InputError where prepare was not run."""
        return load_prepared(self.out / "prepared")

    def key(self, name: str) -> str:
        """Return the key of a finished stage. Raises InputError that names the command to run first.

        That of prepared data with weights of events also says how those count in what is made of them.
        """
        key = read_key(self.out / name)
        if key is None:
            command = COMMANDS | {kind.place: "teacher" for kind in KINDS.values()}
            raise InputError(
                f"{self.out / name}: not there yet; run 'python -m training {command.get(name, name)} --out {self.out}'"
            )
        is_weighed = name == "prepared" and self.config.prepare.weights == "loss"
        return f"{key}, weighed {WEIGHED_REVISION}" if is_weighed else key

    def members(self) -> list[Kind]:
        """Return the kinds of teachers that the settings name."""
        return [KINDS[name] for name in parse_names(self.config, "teacher.members")]

    def stage(
        self,
        name: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        work: Callable[[Path], None],
        *,
        together: bool = False,
    ) -> None:
        """Run a stage unless it is there already, made with the same settings from the same inputs.

        together: all processes that train together do its work, instead of the first alone.
        """
        run_stage(self.out / name, make_key(name, settings, inputs), work, self.progress, together=together)


def check_prepared(out: Path) -> None:
    """Raise InputError unless a directory is that of a run whose data were prepared."""
    if read_key(out / "prepared") is None:
        raise InputError(
            f"{out}: no data there; run prepare first: python -m training prepare --interactions FILE --out {out}"
        )


def open_supplies(run: Run, prepared: Prepared, given: Given | None = None) -> Supplies:
    """Return what the kinds of teachers are trained with."""
    config = run.config
    teacher, alone = made_of(config.teacher), made_of(config.student)
    teacher["has_trend"] = alone["has_trend"] = "trend" in parse_names(config, "student.parts")
    del alone["parts"]
    del teacher["members"], teacher["text"], alone["start"]  # a member's own training does not depend on these
    return Supplies(
        prepared,
        ModelSettings(open_size(config, "teacher"), open_schedule(config.teacher), teacher),
        ModelSettings(open_alone_size(config), open_schedule(config.student), alone),
        run.out / "text" / VECTORS if config.teacher.text else None,
        run.progress,
        given,
        run.warm,
    )


def ensure_text(run: Run) -> dict[str, str]:
    """Encode the items' texts unless that is done or not asked for; return the stage as an input of others."""
    language_model = Path(run.config.teacher.text)
    if not run.config.teacher.text:
        return {}
    inputs = {"prepared": run.key("prepared"), "encoder": fingerprint_language_model(language_model)}
    texts = describe(pl.read_parquet(run.out / "prepared" / ITEMS))
    run.stage("text", {}, inputs, lambda out: encode_texts(out, texts, language_model, run.progress))
    return {"text": run.key("text")}


def open_members(run: Run) -> dict[str, Member]:
    """Open the teachers that the settings name."""
    return {kind.name: open_member(run.out, kind.name) for kind in run.members()}


def ensure_soft_labels(run: Run, prepared: Prepared) -> None:
    """Save the labels of the mixed teachers whose labels are saved, unless they are there."""
    run.key("mix")
    events = training_events(prepared)
    for kind in (KINDS[name] for name in mixed_members(run.out)):
        if kind.labels_place:
            save = partial(kind.save_labels, run=run.out, events=events, progress=run.progress)
            run.stage(kind.labels_place, {}, {"teacher": run.key(kind.place)}, save)


def student_origin(run: Run) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings and the inputs that the student is made from."""
    settings = {"student": made_of(run.config.student), "distill": asdict(run.config.distill)}
    given = {name: run.key(name) for name in parse_names(run.config, "student.parts") if name != "taste"}
    return settings, {"prepared": run.key("prepared"), "mix": run.key("mix"), **given}


def check_student(run: Run) -> None:
    """Raise InputError unless the student is there, and made as the settings say from the teachers that are there."""
    if run.key("student") != make_key("student", *student_origin(run)):
        raise InputError(
            f"{run.out / 'student'}: made with other settings or teachers than are there now; "
            f"run 'python -m training distill --out {run.out}' first"
        )


def open_recipe(run: Run) -> Recipe:
    """Return how the student is taught. Raises InputError for a term that the mixed teachers cannot teach."""
    settings = run.config.distill
    terms = parse_terms(settings.terms)
    check_terms(terms, replace(pupil_of(run.config), members=mixed_members(run.out)))
    return Recipe(terms, settings.alpha, settings.temperature, settings.teacher_temperature)


def open_source(
    run: Run, prepared: Prepared, given: Given | None, factors: Mapping[str, float] | None = None
) -> Source:
    """Open what the teachers of the mix offer at the training events.

    given: the trend among it is part of what they say. factors: name -> factor of other teachers than those of the mix.
    """
    events = training_events(prepared)
    chosen = factors or load_factors(run.out / "mix")
    offers = [KINDS[name].offer(run.out, events, factor) for name, factor in chosen.items()]
    offers += trend_offers(run, given, chosen)
    popularity = np.array([item.popularity for item in prepared.items], dtype=np.float64)
    return Source.of(offers, popularity, make_probe(prepared, run.config.student.max_history))


def trend_offers(run: Run, given: Given | None, factors: Mapping[str, float]) -> list[Offer]:
    """Return what the trend adds to what teachers offer, as an offer of its own; none without a trend."""
    if given is None or given.parts.rule.trend is None:
        return []
    trends = load_trends(run.out / "mix")
    return [Offer(TrendLabels(given, sum(factor * trends[name] for name, factor in factors.items())))]


def open_taught(run: Run) -> Taught:
    """Return the student that the teachers teach. Raises InputError for a term that they cannot teach."""
    return Taught(open_size(run.config, "student"), open_recipe(run), run.config.student.start == "teacher")


def open_untaught(run: Run, *, has_table: bool = False) -> Untaught:
    """Return the students without a teacher; the one alone may be there already, as one of the teachers."""
    if has_table:
        return Untaught(open_alone_size(run.config), run.config.distill.smoothing)  # the twin has no table
    alone = next((files_in(run.out / kind.place) for kind in run.members() if kind.is_student_alone), None)
    return Untaught(open_alone_size(run.config), run.config.distill.smoothing, alone)


def made_of(settings: Teacher | Student) -> dict[str, Any]:
    """Return the settings that decide what is made of them: not where it is held, nor what the trend's stage tries."""
    left_out = ("shard_above_mb", "half_lives")
    return {name: value for name, value in asdict(settings).items() if name not in left_out}


def open_size(config: Config, section: str) -> Size:
    """Return the size of teacher or student."""
    settings: Teacher | Student = getattr(config, section)
    blocks = parse_names(config, f"{section}.blocks")
    is_unit = isinstance(settings, Student) and settings.unit
    has_trend = "trend" in parse_names(config, "student.parts")
    return Size(settings.dim, blocks, settings.heads, settings.dropout, settings.max_history, is_unit, has_trend)


def open_alone_size(config: Config) -> Size:
    """Return the size of the student without a teacher, which needs more dropout."""
    return replace(open_size(config, "student"), dropout=config.student.alone_dropout)


def open_schedule(settings: Teacher | Student) -> Schedule:
    """Return how long and how fast it is trained."""
    return Schedule(
        settings.learning_rate,
        settings.batch_positions,
        settings.epochs,
        settings.positions,
        settings.patience,
        settings.seed,
        settings.shard_above_mb,
    )
