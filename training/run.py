"""The stages of a run directory, in order: what each one reads, writes and is skipped by.

    prepared/  teacher/  soft_labels/  student/  [refit/]  compressed/  bundle/  metrics.json  report.html

This module is the only one that sees the config; it hands each stage its values and the directories it works on.
"""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from service.bundle import BundleError, open_bundle, read_manifest
from training.baseline import parse_models, rank_baselines
from training.checkpoint import load_model
from training.compress import RANKING as COMPRESSED_RANKING
from training.compress import compress, load_table
from training.config import Config, Student, Teacher
from training.distill import STUDENT, distill, refit_student
from training.encoder import Size
from training.errors import InputError
from training.evaluation import Ranking
from training.export import export
from training.fit import Schedule, choose_device, load_curve
from training.interactions import Prepared, load_prepared, parse_columns, prepare
from training.progress import Progress
from training.quality import summarise_quality
from training.report import write_report
from training.sequences import select_events
from training.soft_labels import save_soft_labels
from training.stage import file_fingerprint, make_key, read_key, run_stage
from training.teacher import CURVE, MODEL, RANKING, train_teacher

PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "polars")


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

    run.stage("prepared", {"prepare": asdict(settings), "split": asdict(split)}, inputs, work)
    _describe_data(run)


def run_teacher(run: Run) -> None:
    """Train the teacher."""
    prepared = run.prepared()
    settings = run.config.teacher
    run.stage(
        "teacher",
        asdict(settings),
        {"prepared": run.key("prepared")},
        lambda out: train_teacher(
            out, prepared, size=_size(settings), schedule=_schedule(settings), progress=run.progress
        ),
    )


def run_distill(run: Run) -> None:
    """Save the soft labels once, train the student with them, and the same student without."""
    prepared = run.prepared()
    settings, terms = run.config.student, run.config.distill
    run.stage("soft_labels", {}, {"teacher": run.key("teacher")}, lambda out: _save_soft_labels(run, prepared, out))
    run.stage(
        "student",
        {"student": asdict(settings), "distill": asdict(terms)},
        {"prepared": run.key("prepared"), "soft_labels": run.key("soft_labels")},
        lambda out: distill(
            out,
            prepared,
            run.out / "soft_labels",
            size=_size(settings),
            schedule=_schedule(settings),
            alpha=terms.alpha,
            temperature=terms.temperature,
            progress=run.progress,
        ),
    )


def run_refit(run: Run) -> None:
    """Train teacher and student once more, on everything, for the epochs that were best."""
    prepared = run.prepared()
    config = run.config
    epochs = {
        "teacher": _best_epochs(run.out / "teacher" / CURVE),
        "student": _best_epochs(run.out / "student" / "student_curve.json"),
    }
    run.stage(
        "refit",
        {"epochs": epochs},
        {"student": run.key("student"), "teacher": run.key("teacher")},
        lambda out: refit_student(
            out,
            prepared,
            teacher=(_size(config.teacher), _schedule(config.teacher), epochs["teacher"]),
            student=(_size(config.student), _schedule(config.student), epochs["student"]),
            alpha=config.distill.alpha,
            temperature=config.distill.temperature,
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
        lambda out: compress(out, prepared, run.out / source / STUDENT, items=settings.items),
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
    bundle = export(out, prepared, run.out / source / STUDENT, table, manifest)
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
        "teacher": Ranking.load(run.out / "teacher" / RANKING),
        "student": Ranking.load(run.out / "student" / "student_ranking.npz"),
        "student_alone": Ranking.load(run.out / "student" / "alone_ranking.npz"),
    }
    if not run.refit:
        rankings["compressed"] = Ranking.load(run.out / "compressed" / COMPRESSED_RANKING)
    return summarise_quality(rankings, len(run.prepared().items))


def _save_soft_labels(run: Run, prepared: Prepared, out: Path) -> None:
    events = select_events(prepared.user, prepared.item, prepared.part == 0, len(prepared.users))
    teacher = load_model(run.out / "teacher" / MODEL).to(choose_device())
    save_soft_labels(out, teacher, events, run.progress)


def _size(settings: Teacher | Student) -> Size:
    return Size(settings.dim, settings.layers, settings.heads, settings.dropout, settings.max_history)


def _schedule(settings: Teacher | Student) -> Schedule:
    return Schedule(settings.learning_rate, settings.batch_positions, settings.epochs, settings.patience, settings.seed)


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
