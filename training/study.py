"""The studies of a run directory: what is tried beside the stages to choose or to explain. search/

Each keeps its finished trials, so that it goes on where it was stopped.
"""

from dataclasses import asdict, replace

from training.config import Distill, dump_config, parse_candidates, parse_numbers, pupil_of
from training.run import Run, ensure_soft_labels, open_recipe, open_schedule, open_size, open_source
from training.search import Budget, Candidate, Space, search
from training.stage import keep_or_clear, make_key
from training.term import check_terms


def run_search(run: Run) -> Run:
    """Choose the student on validation under the budget; returns the run so set, and writes config.toml."""
    prepared, config = run.prepared(), run.config
    recipe = open_recipe(run)
    for blocks in parse_candidates(config):
        check_terms(recipe.terms, replace(pupil_of(config), student_blocks=blocks))
    ensure_soft_labels(run, prepared)
    settings, student = config.search, config.student
    shared = {"student": asdict(student) | {"dim": 0, "blocks": ""}, "items": config.compress.items}
    if config.distill.terms != Distill.terms:
        shared["terms"] = config.distill.terms
    key = make_key("search", shared | {"positions": settings.positions}, {"mix": run.key("mix")})
    out = run.out / "search"
    keep_or_clear(out, key)
    run.progress.stage("search", "started")
    chosen = search(
        out,
        prepared,
        open_source(run, prepared),
        space=Space(
            parse_numbers(config, "search.dims"),
            parse_candidates(config),
            parse_numbers(config, "search.alphas"),
            parse_numbers(config, "search.temperatures"),
            settings.minutes,
        ),
        terms=recipe.terms,
        start=Candidate(student.dim, (), config.distill.alpha, config.distill.temperature),
        size=open_size(config, "student"),
        schedule=replace(open_schedule(student), positions=settings.positions),
        items=config.compress.items,
        budget=Budget(settings.budget_ms, settings.budget_mb),
        progress=run.progress,
    )
    run.progress.note(f"chosen: {chosen.name()}")
    chosen_student = replace(student, dim=chosen.dim, blocks=",".join(chosen.blocks))
    taught = replace(config.distill, alpha=chosen.alpha, temperature=chosen.temperature)
    config = replace(config, student=chosen_student, distill=taught)
    (run.out / "config.toml").write_text(dump_config(config), encoding="utf-8")
    return replace(run, config=config)
