"""A run directory, and what its settings say, opened: sizes, schedules, recipe, teachers, soft labels.

run.py has the stages that fill it, study.py what is tried beside them. These three alone see the config; they hand each
stage its values and the directories it works on.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from training.data.prepared import Prepared, load_prepared, training_events
from training.distillation.source import Source
from training.distillation.teaching import Recipe, make_probe
from training.distillation.term import NEURAL, check_terms, parse_terms
from training.errors import InputError
from training.evaluation.judge import Scorer
from training.model.checkpoint import load_model
from training.model.device import choose_device
from training.model.encoder import Size
from training.model.fit import Schedule
from training.progress import Progress
from training.run.config import Config, Student, Teacher, parse_names, pupil_of
from training.stage import make_key, read_key, run_stage
from training.teacher.kind import LABELS, PLACES, open_member
from training.teacher.linear import load_linear
from training.teacher.mix import load_factors
from training.teacher.soft_labels import LinearLabels, MixedLabels, SoftLabels, load_soft_labels, save_soft_labels
from training.teacher.transformer import MODEL


@dataclass(frozen=True)
class Run:
    """A run directory with its resolved settings."""

    out: Path
    config: Config
    progress: Progress
    refit: bool = False

    def prepared(self) -> Prepared:
        """Load what prepare wrote. Raises InputError where it was not run."""
        return load_prepared(self.out / "prepared")

    def key(self, name: str) -> str:
        """The key of a finished stage. Raises InputError that names the command to run first."""
        key = read_key(self.out / name)
        if key is None:
            command = {"prepared": "prepare", "soft_labels": "distill", "student": "distill", "compressed": "compress"}
            command |= dict.fromkeys(("linear", "mix", "text", "text_teacher", "twin"), "teacher")
            raise InputError(
                f"{self.out / name}: not there yet; run 'python -m training {command.get(name, name)} --out {self.out}'"
            )
        return key

    def stage(
        self, name: str, settings: Mapping[str, Any], inputs: Mapping[str, str], work: Callable[[Path], None]
    ) -> None:
        """Run a stage unless it is there already, made from the same."""
        run_stage(self.out / name, make_key(name, settings, inputs), work, self.progress)


def check_prepared(out: Path) -> None:
    """Raises InputError unless a directory is that of a run whose data were prepared."""
    if read_key(out / "prepared") is None:
        raise InputError(
            f"{out}: no data there; run prepare first: python -m training prepare --interactions FILE --out {out}"
        )


def open_scorers(run: Run) -> dict[str, tuple[Scorer, int]]:
    """Open the teachers that the settings name: what scores with each, and the longest history that it reads."""
    members = {name: open_member(run.out, name) for name in parse_names(run.config, "teacher.members")}
    return {name: (member.scorer, member.max_history) for name, member in members.items()}


def ensure_soft_labels(run: Run, prepared: Prepared) -> None:
    """Save the states of the neural teachers that take part, unless they are there."""
    run.key("mix")
    events = training_events(prepared)

    def save(out: Path, name: str) -> None:
        teacher = load_model(run.out / PLACES[name] / MODEL).to(choose_device())
        save_soft_labels(out, teacher, events, run.progress)

    for name in load_factors(run.out / "mix"):
        if name in LABELS:
            teacher = {"teacher": run.key(PLACES[name])}
            run.stage(LABELS[name], {}, teacher, partial(save, name=name))


def student_origin(run: Run) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings and the inputs that the student is made from."""
    settings = {"student": asdict(run.config.student), "distill": asdict(run.config.distill)}
    return settings, {"prepared": run.key("prepared"), "mix": run.key("mix")}


def check_student(run: Run) -> None:
    """Raises InputError unless the student is there, and made as the settings say from the teachers that are there."""
    if run.key("student") != make_key("student", *student_origin(run)):
        raise InputError(
            f"{run.out / 'student'}: made with other settings or teachers than are there now; "
            f"run 'python -m training distill --out {run.out}' first"
        )


def open_recipe(run: Run) -> Recipe:
    """Return how the student is taught. Raises InputError for a term that the mixed teachers cannot teach."""
    settings = run.config.distill
    terms = parse_terms(settings.terms)
    check_terms(terms, replace(pupil_of(run.config), members=list(load_factors(run.out / "mix"))))
    return Recipe(terms, settings.alpha, settings.temperature, settings.teacher_temperature)


def open_source(run: Run, prepared: Prepared, factors: Mapping[str, float] | None = None) -> Source:
    """Open what each teacher of the mix says at the training events, and what else of it can be taught.

    factors: of other teachers than the mix's.
    """
    labels: list[SoftLabels] = []
    states = model = None
    device = choose_device()
    for name, factor in (factors or load_factors(run.out / "mix")).items():
        if name in LABELS:
            labels.append(load_soft_labels(run.out / LABELS[name], device, factor))
            if states is None and name in NEURAL:
                states = load_soft_labels(run.out / LABELS[name], device)
                model = load_model(run.out / PLACES[name] / MODEL).to(device)
        else:
            linear = load_linear(run.out / "linear")
            labels.append(LinearLabels(linear, training_events(prepared), factor, device))
    popularity = np.array([item.popularity for item in prepared.items], dtype=np.float64)
    probe = make_probe(prepared, run.config.student.max_history)
    return Source(MixedLabels(labels), popularity, states, model, probe)


def open_size(config: Config, section: str) -> Size:
    """Return the size of teacher or student."""
    settings: Teacher | Student = getattr(config, section)
    blocks = parse_names(config, f"{section}.blocks")
    is_unit = isinstance(settings, Student) and settings.unit
    return Size(settings.dim, blocks, settings.heads, settings.dropout, settings.max_history, is_unit)


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
    )
