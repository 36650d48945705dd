"""The stages of a run directory, in order: what each one reads and writes, and what it is skipped by.

    prepared/  [text/]  a directory a teacher  mix/  a directory for the labels of some  student/  [refit/]  compressed/
    item_encoder/  bundle/  [newcomers/]  metrics.json  report.html

The directories of the teachers are named in training/teacher (Kind.place). The settings are opened by directory.py.
"""

import shutil
import subprocess
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from service.bundle import BundleError, open_bundle, read_manifest
from training.data.prepare import prepare
from training.data.prepared import Prepared
from training.data.split import SplitRule
from training.distillation.refit import refit_student
from training.distillation.student import ALONE, STUDENT, distill, files_of
from training.engine.choice import IN_MEMORY, EngineWish, choose_engine
from training.evaluation.baseline import parse_models, rank_baselines
from training.evaluation.judge import Ranking
from training.evaluation.quality import summarise_quality
from training.evaluation.trained import open_course, open_refit_course
from training.evaluation.with_given import load_rule
from training.export.compress import RANKING as COMPRESSED_RANKING
from training.export.compress import Storage, compress, load_table
from training.export.export import export
from training.file.source import Place, find_source
from training.machine import available_bytes, return_freed_memory
from training.model.curve import best_epochs, load_curve
from training.report.page import write_report
from training.run.config import Compress
from training.run.directory import (
    Run,
    check_student,
    ensure_soft_labels,
    ensure_text,
    open_members,
    open_schedule,
    open_source,
    open_supplies,
    open_taught,
    open_untaught,
    student_origin,
    trend_offers,
)
from training.run.forecast import say_forecast
from training.run.given import has_table, open_given, run_neighbours, run_trend, with_parts
from training.run.newcomer import ENCODER, run_item_encoder, with_encoder
from training.run.reading import data_lines, open_cleaning
from training.run.similar import SIMILAR, run_similar, similar_weights
from training.stage import make_key
from training.teacher.kind import RANKING
from training.teacher.linear import LINEAR
from training.teacher.mix import load_factors, mix_teachers
from training.teacher.registry import KINDS, member_rankings, refit_order

ROOM = ".engine"  # what an engine keeps while it prepares the data, in the run directory
PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "polars", "scipy")


def run_prepare(run: Run, interactions: Place, items: Place | None, wish: EngineWish) -> None:
    """Read the files into prepared/ and say how they were read, what was kept and dropped, and what a run will need."""
    prepared = prepare_files(run, interactions, items, wish)
    return_freed_memory()
    for line in [*data_lines(prepared.report), *say_forecast(run.config, prepared)]:
        run.progress.note(line)


def prepare_files(run: Run, interactions: Place, items: Place | None, wish: EngineWish = IN_MEMORY) -> Prepared:
    """Read the files into prepared/, and return what was read."""
    parse_models(run.config.baselines.models)  # a wrong name now, not after the training
    settings = run.config.prepare
    cleaning = open_cleaning(settings)
    rule = SplitRule(**asdict(run.config.split))
    source = find_source(interactions)
    inputs = {"interactions": source.fingerprint, "items": find_source(items).fingerprint if items else ""}

    def work(out: Path) -> None:
        shutil.rmtree(out)  # prepare starts clean: it makes its directory itself
        engine, said = choose_engine(wish, source, run.out / ROOM, available_bytes())
        if said:
            run.progress.note(said)
        with run.progress.bar("bytes read", source.size) as bar:
            prepare(
                replace(source, watch=bar.advance), items, out, replace(cleaning, engine=engine), rule, settings.repeats
            )

    run.stage("prepared", {"prepare": asdict(settings), "split": rule.settings()}, inputs, work)
    return run.prepared()


def run_teacher(run: Run) -> None:
    """Train the teachers, and choose on validation how they mix."""
    prepared, members = run.prepared(), run.members()
    text, trend = ensure_text(run), run_trend(run)
    given = open_given(run, prepared, with_table=False)
    supplies = open_supplies(run, prepared, given)
    for kind in members:
        inputs = {"prepared": run.key("prepared")} | (text if kind.reads_texts else {})
        inputs |= {} if kind is LINEAR else trend
        train = partial(kind.train, supplies=supplies)
        run.stage(kind.place, kind.settings(supplies), inputs, train, together=kind.trains_together)
    keys = {kind.name: run.key(kind.place) for kind in members}

    def mix(out: Path) -> None:
        mix_teachers(out, prepared, lambda: open_members(run), run.progress, given)

    run.stage("mix", {}, keys | trend, mix, together=True)


def run_distill(run: Run) -> None:
    """Save the soft labels once, train the student with them, and the same student without."""
    prepared = run.prepared()
    run.key("mix")
    run_teacher(run)  # its settings may be new, and a teacher that is the student alone has the student's
    run_neighbours(run)
    taught, given = open_taught(run), open_given(run, prepared)
    ensure_soft_labels(run, prepared)

    def work(out: Path) -> None:
        course = open_course(prepared, open_schedule(run.config.student), run.progress, given, run.warm)
        distill(
            out,
            prepared,
            course,
            open_source(run, prepared, given),
            taught,
            open_untaught(run, has_table=has_table(run)),
        )

    run.stage("student", *student_origin(run), work, together=True)


def run_refit(run: Run) -> None:
    """Train teachers and student once more, on everything, for the epochs and with the settings that were best."""
    prepared, factors, taught = run.prepared(), load_factors(run.out / "mix"), open_taught(run)
    given = open_given(run, prepared)
    supplies = open_supplies(run, prepared, open_given(run, prepared, with_table=False))
    kinds = [KINDS[name] for name in refit_order(factors)]
    epochs = best_epochs(load_curve(files_of(run.out / "student", STUDENT).curve))
    all_epochs = [*(number for kind in kinds if (number := kind.best_epochs(run.out)) is not None), epochs]

    def work(out: Path) -> None:
        offers = [kind.refit(out, run.out, supplies, factors[kind.name]) for kind in kinds]
        everything = None if given is None else replace(given, on_everything=True)
        offers += trend_offers(run, everything, factors)
        course = open_refit_course(prepared, open_schedule(run.config.student), epochs, run.progress, given)
        refit_student(out, len(prepared.items), course, offers, taught)

    run.stage("refit", {"epochs": all_epochs}, {"student": run.key("student"), "mix": run.key("mix")}, work)


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
        lambda out: compress(out, prepared, run.out / source / STUDENT, _as_stored(run, settings)),
    )


def run_export(run: Run) -> None:
    """Write bundle/, reopen it, compare it with torch."""
    run_compress(run)
    prepared = run.prepared()
    source = "refit" if run.refit else "student"
    run_item_encoder(run, source)
    run_similar(run)
    inputs = {name: run.key(name) for name in (source, "compressed", ENCODER, SIMILAR)}
    key = make_key("bundle", {"refit": run.refit}, inputs)
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
        "similar": similar_weights(run),
        "history_types": prepared.report["settings"].get("history_types") or {},
    }
    rule = files_of(run.out / "student", STUDENT).rule
    table = with_parts(load_table(run.out / "compressed"), open_given(run, prepared), rule)
    table = with_encoder(run, table)
    bundle = export(out, prepared, run.out / source / STUDENT, table, run.config.compress.encoder, manifest)
    run.progress.note(f"{out}: version {bundle.manifest.version}, reopened, answers as torch does")


def _as_stored(run: Run, settings: Compress) -> Storage:
    """Return how the student is stored, and what it is judged with."""
    rule = load_rule(files_of(run.out / "student", STUDENT).rule)
    given = open_given(run, run.prepared()) if rule else None
    return Storage(settings.items, settings.encoder, given, rule)


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
        "teacher": Ranking.load(run.out / "mix" / RANKING),
        **member_rankings(run.out),
        "student": Ranking.load(files_of(run.out / "student", STUDENT).ranking),
        "student_alone": Ranking.load(files_of(run.out / "student", ALONE).ranking),
    }
    if not run.refit:
        rankings["compressed"] = Ranking.load(run.out / "compressed" / COMPRESSED_RANKING)
    return summarise_quality(rankings, len(run.prepared().items))


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
