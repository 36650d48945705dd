"""The stages of a run directory, in order: what each one reads, writes and is skipped by.

    prepared/  [text/]  teacher/  [text_teacher/]  linear/  mix/  soft_labels/  student/  [refit/]  compressed/  bundle/
    metrics.json  report.html

This module and study.py alone see the config; they hand each stage its values and the directories it works on.
"""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from service.bundle import BundleError, open_bundle, read_manifest
from training.baseline import parse_models, rank_baselines
from training.checkpoint import load_model
from training.compress import RANKING as COMPRESSED_RANKING
from training.compress import compress, load_table
from training.config import Config, Student, Teacher, parse_names, pupil_of
from training.distill import STUDENT, distill, refit_student
from training.encoder import Size
from training.errors import InputError
from training.evaluation import Ranking, Scorer
from training.export import export
from training.fit import Schedule, choose_device, load_curve
from training.interactions import ITEMS, TRAIN, Prepared, load_prepared, parse_columns, prepare
from training.linear import load_linear, train_linear
from training.member import LABELS, PLACES, member_rankings, open_member
from training.mix import RANKING as MIX_RANKING
from training.mix import load_factors, mix_teachers
from training.progress import Progress
from training.quality import summarise_quality
from training.report import write_report
from training.sequences import Events, select_events
from training.soft_labels import LinearLabels, MixedLabels, SoftLabels, load_soft_labels, save_soft_labels
from training.source import Source
from training.stage import file_fingerprint, make_key, read_key, run_stage
from training.start import Start, start_table
from training.teacher import CURVE, MODEL, RANKING, train_teacher
from training.teaching import Recipe, make_probe
from training.term import NEURAL, TERMS, check_terms, parse_terms
from training.text import VECTORS, describe, encode_texts, fingerprint_encoder

PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "polars", "scipy")


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


def run_prepare(run: Run, interactions: Path, items: Path | None) -> None:
    """Read the files into prepared/ and say what was kept and dropped."""
    parse_models(run.config.baselines.models)  # a wrong name now, not after the training
    settings, split = run.config.prepare, run.config.split
    inputs = {"interactions": file_fingerprint(interactions), "items": file_fingerprint(items) if items else ""}

    def work(out: Path) -> None:
        shutil.rmtree(out)  # prepare starts clean: it makes its directory itself
        prepare(
            interactions,
            items,
            out,
            columns=parse_columns(settings.columns),
            events=[name.strip() for name in settings.events.split(",") if name.strip()],
            min_weight=settings.min_weight,
            max_malformed=settings.max_malformed,
            max_history=settings.max_history,
            repeats=settings.repeats,
            **asdict(split),
        )

    rules = asdict(split)
    if split.test != "users":
        del rules["folds"], rules["fold"]  # they say nothing: what was prepared without them stays
    run.stage("prepared", {"prepare": asdict(settings), "split": rules}, inputs, work)
    _describe_data(run)


def run_teacher(run: Run) -> None:
    """Train the teachers, and choose on validation how they mix."""
    prepared = run.prepared()
    settings = asdict(run.config.teacher)
    members = parse_names(run.config, "teacher.members")
    settings.pop("members")
    settings.pop("text")
    inputs = {"prepared": run.key("prepared")}
    text = _ensure_text(run)
    size, schedule = open_size(run.config, "teacher"), open_schedule(run.config.teacher)
    for name in [member for member in members if member in NEURAL]:
        start = _start(run, name)
        run.stage(
            PLACES[name],
            settings,
            inputs | text,
            partial(train_teacher, prepared=prepared, size=size, schedule=schedule, start=start, progress=run.progress),
        )
    if "linear" in members:
        run.stage("linear", {}, inputs, lambda out: train_linear(out, prepared, run.progress))
    if "twin" in members:
        own = asdict(run.config.student)
        own.pop("start")
        size, schedule = open_alone_size(run.config), open_schedule(run.config.student)
        run.stage(
            "twin",
            own,
            inputs,
            partial(train_teacher, prepared=prepared, size=size, schedule=schedule, start=None, progress=run.progress),
        )
    keys = {name: run.key(PLACES[name]) for name in members}
    run.stage("mix", {}, keys, lambda out: mix_teachers(out, prepared, open_scorers(run), run.progress))


def run_distill(run: Run) -> None:
    """Save the soft labels once, train the student with them, and the same student without."""
    prepared = run.prepared()
    is_twin = "twin" in parse_names(run.config, "teacher.members")
    run.key("mix")
    if is_twin:
        run_teacher(run)  # the twin has the student's settings, which may be new
    settings = run.config.student
    mix = run.key("mix")
    inputs = {"prepared": run.key("prepared"), "mix": mix}
    recipe = open_recipe(run)
    ensure_soft_labels(run, prepared)
    run.stage(
        "student",
        {"student": asdict(settings), "distill": asdict(run.config.distill)},
        inputs,
        lambda out: distill(
            out,
            prepared,
            open_source(run, prepared),
            size=open_size(run.config, "student"),
            schedule=open_schedule(settings),
            start=_student_start(run),
            recipe=recipe,
            alone_size=open_alone_size(run.config),
            twin=[run.out / "twin" / name for name in (MODEL, CURVE, RANKING)] if is_twin else None,
            smoothing=run.config.distill.smoothing,
            progress=run.progress,
        ),
    )


def run_refit(run: Run) -> None:
    """Train teachers and student once more, on everything, for the epochs and with the settings that were best."""
    prepared = run.prepared()
    config = run.config
    factors = load_factors(run.out / "mix")
    recipe = open_recipe(run)
    for name in recipe.terms:
        if TERMS[name].asks_validation:
            raise InputError(f"distill.terms: {name} learns from validation, and --refit holds none out: leave it out")
    size, schedule = open_size(config, "teacher"), open_schedule(config.teacher)
    neural = {
        name: (size, schedule, _best_epochs(run.out / PLACES[name] / CURVE), _start(run, name))
        for name in factors
        if name in NEURAL
    }
    if "twin" in factors:
        epochs = _best_epochs(run.out / "twin" / CURVE)
        neural["twin"] = (open_alone_size(config), open_schedule(config.student), epochs, None)
    linear = load_linear(run.out / "linear").setting if "linear" in factors else None
    epochs = _best_epochs(run.out / "student" / "student_curve.json")
    run.stage(
        "refit",
        {"epochs": [*(one[2] for one in neural.values()), epochs]},
        {"student": run.key("student"), "mix": run.key("mix")},
        lambda out: refit_student(
            out,
            prepared,
            factors=factors,
            neural=neural,
            linear=linear,
            student=(open_size(config, "student"), open_schedule(config.student), epochs),
            starts_from_teacher=config.student.start == "teacher",
            recipe=recipe,
            progress=run.progress,
        ),
    )


def run_compress(run: Run) -> None:
    """Store the item table of the student that will be exported; with --refit, train that one first."""
    if run.refit:
        run_refit(run)
    prepared = run.prepared()
    settings = run.config.compress
    source = "refit" if run.refit else "student"
    run.stage(
        "compressed",
        asdict(settings),
        {source: run.key(source)},
        lambda out: compress(out, prepared, run.out / source / STUDENT, **asdict(settings)),
    )


def run_export(run: Run) -> None:
    """Write bundle/, reopen it, compare it with torch."""
    run_compress(run)
    prepared = run.prepared()
    source = "refit" if run.refit else "student"
    key = make_key("bundle", {"refit": run.refit}, {source: run.key(source), "compressed": run.key("compressed")})
    out = run.out / "bundle"
    if _exported_key(out) == key:
        run.progress.stage("bundle", "unchanged, skipped")
        return
    run.progress.stage("bundle", "started")
    manifest = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "repeat_consumption": bool(prepared.report["repeat_consumption"]),
        "split": prepared.report["split"],
        "refit": run.refit,
        "quality": run_quality(run),
        "lineage": _lineage(run, prepared, key),
    }
    table = load_table(run.out / "compressed")
    bundle = export(out, prepared, run.out / source / STUDENT, table, run.config.compress.encoder, manifest)
    run.progress.note(f"{out}: version {bundle.manifest.version}, reopened, answers as torch does")


def run_baselines(run: Run) -> None:
    """Train and rank what the models are compared with."""
    models = parse_models(run.config.baselines.models)
    prepared = run.prepared()
    run.stage(
        "baselines",
        {"models": models},
        {"prepared": run.key("prepared")},
        lambda out: rank_baselines(out, prepared, models, run.progress),
    )


def run_report(run: Run) -> None:
    """Write metrics.json and report.html from what the stages left."""
    open_bundle(run.out / "bundle")
    write_report(run.out, run.prepared(), run.progress)


def run_quality(run: Run) -> dict[str, Any]:
    """Return the manifest's quality: teacher, student, student alone, compressed; with intervals."""
    rankings = {
        "teacher": Ranking.load(run.out / "mix" / MIX_RANKING),
        **member_rankings(run.out),
        "student": Ranking.load(run.out / "student" / "student_ranking.npz"),
        "student_alone": Ranking.load(run.out / "student" / "alone_ranking.npz"),
    }
    if not run.refit:
        rankings["compressed"] = Ranking.load(run.out / "compressed" / COMPRESSED_RANKING)
    return summarise_quality(rankings, len(run.prepared().items))


def open_scorers(run: Run) -> dict[str, tuple[Scorer, int]]:
    """Open the teachers that the settings name: what scores with each, and the longest history that it reads."""
    members = {name: open_member(run.out, name) for name in parse_names(run.config, "teacher.members")}
    return {name: (member.scorer, member.max_history) for name, member in members.items()}


def training_events(prepared: Prepared) -> Events:
    """Return what is trained on."""
    return select_events(prepared.user, prepared.item, prepared.part == TRAIN, len(prepared.users))


def _ensure_text(run: Run) -> dict[str, str]:
    """Encode the items' texts unless that is done or not asked for; returns the stage as an input of others."""
    encoder = Path(run.config.teacher.text)
    if not run.config.teacher.text:
        return {}
    inputs = {"prepared": run.key("prepared"), "encoder": fingerprint_encoder(encoder)}
    texts = describe(pl.read_parquet(run.out / "prepared" / ITEMS))
    run.stage("text", {}, inputs, lambda out: encode_texts(out, texts, encoder, run.progress))
    return {"text": run.key("text")}


def _start(run: Run, name: str) -> Start | None:
    """What a neural teacher's item table starts from."""
    if not run.config.teacher.text:
        return None
    is_frozen = name == "text"
    table = start_table(np.load(run.out / "text" / VECTORS), run.config.teacher.dim, is_frozen=is_frozen)
    return Start(table, is_frozen)


def _student_start(run: Run) -> Start | None:
    """What the taught student's item table starts from."""
    if run.config.student.start == "random":
        return None
    names = [name for name in load_factors(run.out / "mix") if name in NEURAL]
    if not names:
        raise InputError("student.start=teacher: no transformer takes part in the mix, and a linear model has no table")
    items = load_model(run.out / PLACES[names[0]] / MODEL).items.weight.detach().numpy()
    return Start(start_table(items, run.config.student.dim, is_frozen=False))


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


def _best_epochs(curve: Path) -> int:
    rows = load_curve(curve)
    return 1 + max(rows, key=lambda row: row.validation).epoch


def _exported_key(out: Path) -> str | None:
    try:
        return read_manifest(out).lineage.get("key")
    except BundleError:
        return None


def _lineage(run: Run, prepared: Prepared, key: str) -> dict[str, Any]:
    config = asdict(run.config)
    return {
        "key": key,
        "config": config,
        "data": prepared.report["fingerprint"],
        "seeds": {name: config[name]["seed"] for name in ("teacher", "student")},
        "packages": {name: version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _describe_data(run: Run) -> None:
    report = run.prepared().report
    run.progress.note(
        f"{report['n_events']:,} events of {report['n_users']:,} users and {report['n_items']:,} items, "
        f"{report['repeat_share']:.1%} repeats "
        f"(seen items are {'' if report['repeat_consumption'] else 'not '}recommended)"
    )
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in report["dropped"].items() if count)
    run.progress.note(
        f"{report['rows_read']:,} rows read; dropped: {dropped or 'none'}; malformed: {report['malformed']['count']:,}"
    )
