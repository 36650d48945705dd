"""The studies of a run directory: what is tried beside the stages to choose or to explain.

    search/  ablation/  capacity/  compression/

Each keeps its finished trials, so that it goes on where it was stopped.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from training.data.prepared import Prepared
from training.distillation.source import Source, save_logits
from training.distillation.student import STUDENT
from training.distillation.teaching import Recipe
from training.distillation.term import TERMS, check_terms, missing, parse_terms
from training.errors import InputError
from training.evaluation.trained import open_course
from training.model.checkpoint import load_model
from training.run.config import Compress, parse_candidates, parse_numbers, pupil_of
from training.run.config_file import dump_config
from training.run.directory import (
    Run,
    check_student,
    ensure_soft_labels,
    made_of,
    open_members,
    open_recipe,
    open_schedule,
    open_size,
    open_source,
    open_taught,
    open_untaught,
)
from training.run.given import open_given, run_neighbours
from training.stage import keep_or_clear, make_key
from training.study.ablation import Plan, Setup, ablate
from training.study.capacity import Teaches, measure_capacity
from training.study.compression import VARIANTS, compress_all
from training.study.compression import Setup as CompressionSetup
from training.study.search import Budget, Space, Stored, search
from training.study.trial import Shared
from training.teacher.mix import calibrate, load_trials
from training.teacher.registry import mixed_members

LOGITS = "logits.npy"  # removed when the study is finished


def run_search(run: Run) -> Run:
    """Choose the student on validation under the budget; returns the run so set, and writes config.toml."""
    prepared, config = run.prepared(), run.config
    run.key("mix")
    taught = open_taught(run)
    for blocks in parse_candidates(config):
        check_terms(taught.recipe.terms, replace(pupil_of(config), student_blocks=blocks))
    run_neighbours(run)
    ensure_soft_labels(run, prepared)
    settings, student = config.search, config.student
    shared: dict[str, Any] = {"student": made_of(student) | {"dim": 0, "blocks": ""}, "items": config.compress.items}
    shared |= {"terms": config.distill.terms, "scored": "as served"}
    if config.compress.encoder != Compress.encoder:
        shared["encoder"] = config.compress.encoder
    if config.distill.teacher_temperature:
        shared["teacher_temperature"] = config.distill.teacher_temperature
    key = make_key("search", shared | {"positions": settings.positions}, {"mix": run.key("mix")})
    out = run.out / "search"
    keep_or_clear(out, key)
    run.progress.stage("search", "started")
    chosen = search(
        _open_shared(run, prepared, out, settings.positions),
        open_source(run, prepared, open_given(run, prepared)),
        taught,
        space=Space(
            parse_numbers(config, "search.dims"),
            parse_candidates(config),
            parse_numbers(config, "search.alphas"),
            parse_numbers(config, "search.temperatures"),
            settings.minutes,
        ),
        stored=Stored(config.compress.items, config.compress.encoder),
        budget=Budget(settings.budget_ms, settings.budget_mb, settings.runtime_mb),
    )
    run.progress.note(f"chosen: {chosen.name()}")
    config = replace(
        config,
        student=replace(student, dim=chosen.dim, blocks=",".join(chosen.blocks)),
        distill=replace(config.distill, alpha=chosen.alpha, temperature=chosen.temperature),
    )
    (run.out / "config.toml").write_text(dump_config(config), encoding="utf-8")
    return replace(run, config=config)


def run_ablation(run: Run) -> dict[str, Any]:
    """Train students with each way to transfer and leave the table of what each adds; returns it."""
    prepared, config = run.prepared(), run.config
    run_neighbours(run)
    ensure_soft_labels(run, prepared)
    settings, student = config.ablation, config.student
    plan = Plan(
        _ablated_terms(run),
        parse_numbers(config, "ablation.scales"),
        range(student.seed, student.seed + settings.seeds),
        settings.best,
        settings.worst,
        config.distill.smoothing,
    )
    out = run.out / "ablation"
    keyed = {"student": made_of(student) | {"blocks": "", "seed": 0}, "positions": settings.positions}
    taught = {"alpha": config.distill.alpha, "temperature": config.distill.temperature}
    if config.distill.teacher_temperature:
        taught["teacher_temperature"] = config.distill.teacher_temperature
    keep_or_clear(out, make_key("ablation", keyed | taught, {"mix": run.key("mix")}))
    run.progress.stage("ablation", "started")
    shared = _open_shared(run, prepared, out, settings.positions)
    soft = Recipe({"kl": 1.0}, config.distill.alpha, config.distill.temperature, config.distill.teacher_temperature)
    source = _save_logits(shared, open_source(run, prepared, open_given(run, prepared)))
    table = ablate(Setup(shared, source, open_size(config, "student"), student.alone_dropout, soft), plan)
    (out / LOGITS).unlink(missing_ok=True)
    return table


def run_capacity(run: Run) -> dict[str, Any]:
    """Train students of several widths alone and under each teacher, and leave the table of gains; returns it."""
    prepared, config = run.prepared(), run.config
    run_neighbours(run)
    ensure_soft_labels(run, prepared)
    taught, settings = open_taught(run), config.capacity
    out = run.out / "capacity"
    keyed = {"student": made_of(config.student) | {"dim": 0}, "positions": settings.positions, "rows": "with costs"}
    keep_or_clear(out, make_key("capacity", keyed | asdict(taught.recipe), {"mix": run.key("mix")}))
    run.progress.stage("capacity", "started")
    teachers = {}
    opened, members, given = open_members(run), mixed_members(run.out), open_given(run, prepared)
    trend = open_given(run, prepared, with_table=False)
    for name in members if len(members) > 1 else ():
        factor, validation = calibrate(prepared, opened[name], trend)
        teachers[name] = Teaches(open_source(run, prepared, given, {name: factor}), validation)
    best = max(trial["ndcg@10"] for trial in load_trials(run.out / "mix"))
    return measure_capacity(
        _open_shared(run, prepared, out, settings.positions),
        parse_numbers(config, "capacity.dims"),
        teachers | {"mix": Teaches(open_source(run, prepared, given), best)},
        taught,
        open_untaught(run),
    )


def _open_shared(run: Run, prepared: Prepared, out: Path, positions: int, **changed: Any) -> Shared:
    """Return what the students of a study share. positions, changed: of the student's schedule."""
    schedule = replace(open_schedule(run.config.student), positions=positions, **changed)
    return Shared(out, prepared, open_course(prepared, schedule, run.progress, open_given(run, prepared)))


def _save_logits(shared: Shared, source: Source) -> Source:
    """Return the source with its logits saved in LOGITS, where that is a file of bearable size."""
    course = shared.course
    return save_logits(source, course.events, len(shared.prepared.items), shared.out / LOGITS, course.progress)


def run_compression(run: Run) -> dict[str, Any]:
    """Shrink the run's student in every way, measure each, and leave the table; returns it."""
    check_student(run)
    prepared, config = run.prepared(), run.config
    settings = config.compression
    names = [name.strip() for name in settings.variants.split(";") if name.strip()] or list(VARIANTS)
    for name in names:
        if name not in VARIANTS:
            raise InputError(f"compression.variants: unknown variant {name!r}; known: {'; '.join(VARIANTS)}")
    recipe = open_recipe(run)
    run_neighbours(run)
    ensure_soft_labels(run, prepared)
    out = run.out / "compression"
    keyed = {"positions": settings.positions, "learning_rate": settings.learning_rate, "recipe": asdict(recipe)}
    keep_or_clear(out, make_key("compression", keyed, {"student": run.key("student")}))
    run.progress.stage("compression", "started")
    shared = _open_shared(run, prepared, out, settings.positions, learning_rate=settings.learning_rate)
    source = _save_logits(shared, open_source(run, prepared, open_given(run, prepared)))
    student = load_model(run.out / "student" / STUDENT)
    table = compress_all(CompressionSetup(shared, student, source, recipe), names)
    (out / LOGITS).unlink(missing_ok=True)
    return table


def _ablated_terms(run: Run) -> dict[str, tuple[float, tuple[str, ...]]]:
    """Return weight and student's blocks of each term that can be taught; what cannot is said, or refused if named."""
    config = run.config
    wanted = config.ablation.terms
    weights = parse_terms(wanted, "ablation.terms") if wanted else {name: term.weight for name, term in TERMS.items()}
    weights.pop("kl", None)  # one of the bases
    pupil = replace(pupil_of(config), members=mixed_members(run.out))
    terms = {}
    for name, weight in weights.items():
        blocks = tuple(pupil.student_blocks)
        if TERMS[name].needs_attention and "attention" not in blocks:
            blocks = (*blocks, "attention")
        fits = replace(pupil, student_blocks=blocks)
        reason = missing(TERMS[name], fits)
        if reason and wanted:
            check_terms({name: weight}, fits)
        if reason:
            run.progress.note(f"{name} is left out: {reason}")
        else:
            terms[name] = (weight, blocks)
    return terms
