"""The stages of a run directory, in order: what each one reads, writes and is skipped by.

    prepared/  [text/]  teacher/  [text_teacher/]  linear/  mix/  soft_labels/  student/  [refit/]  compressed/  bundle/
    metrics.json  report.html

The settings are opened by directory.py.
"""

import shutil
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from service.bundle import BundleError, open_bundle, read_manifest
from training.data.interaction_file import Cleaning
from training.data.prepare import parse_columns, prepare
from training.data.prepared import ITEMS, Prepared
from training.data.split import SplitRule
from training.distillation.refit import refit_student
from training.distillation.student import STUDENT, distill
from training.distillation.term import NEURAL
from training.errors import InputError
from training.evaluation.baseline import parse_models, rank_baselines
from training.evaluation.judge import Ranking
from training.evaluation.quality import summarise_quality
from training.export.compress import RANKING as COMPRESSED_RANKING
from training.export.compress import compress, load_table
from training.export.export import export
from training.model.checkpoint import load_model
from training.model.curve import load_curve
from training.model.item_table import Start, start_table
from training.report.page import write_report
from training.run.config import parse_names
from training.run.directory import (
    Run,
    check_student,
    ensure_soft_labels,
    open_alone_size,
    open_recipe,
    open_schedule,
    open_scorers,
    open_size,
    open_source,
    student_origin,
)
from training.stage import file_fingerprint, make_key
from training.teacher.item_text import VECTORS, describe, encode_texts, fingerprint_encoder
from training.teacher.kind import PLACES, member_rankings
from training.teacher.linear import load_linear, train_linear
from training.teacher.mix import RANKING as MIX_RANKING
from training.teacher.mix import load_factors, mix_teachers
from training.teacher.transformer import CURVE, MODEL, RANKING, train_teacher

PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "polars", "scipy")


def run_prepare(run: Run, interactions: Path, items: Path | None) -> None:
    """Read the files into prepared/ and say what was kept and dropped."""
    parse_models(run.config.baselines.models)  # a wrong name now, not after the training
    settings = run.config.prepare
    cleaning = Cleaning(
        parse_columns(settings.columns),
        [name.strip() for name in settings.events.split(",") if name.strip()],
        settings.min_weight,
        settings.max_malformed,
        settings.max_history,
    )
    rule = SplitRule(**asdict(run.config.split))
    inputs = {"interactions": file_fingerprint(interactions), "items": file_fingerprint(items) if items else ""}

    def work(out: Path) -> None:
        shutil.rmtree(out)  # prepare starts clean: it makes its directory itself
        prepare(interactions, items, out, cleaning, rule, settings.repeats)

    run.stage("prepared", {"prepare": asdict(settings), "split": rule.settings()}, inputs, work)
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
        run.stage("linear", {"scores": "log"}, inputs, lambda out: train_linear(out, prepared, run.progress))
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
    run_teacher(run)  # its settings may be new, and a twin has the student's
    settings = run.config.student
    recipe = open_recipe(run)
    ensure_soft_labels(run, prepared)
    run.stage(
        "student",
        *student_origin(run),
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
    check_student(run)
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
