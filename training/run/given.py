"""The stages of what models are given beside the history: trend/ and neighbours/; and the two, opened."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from service.bundle import Gap, ItemTable, NeighbourRule, Neighbours, Parts, ScoreRule, TrendRule
from training.data.prepared import Prepared
from training.data.trend import live_counts
from training.evaluation.given import Given
from training.evaluation.given_trend import choose_trend
from training.evaluation.with_given import load_rule
from training.model.curve import load_curve
from training.run.config import Student, parse_names, parse_numbers
from training.run.directory import Run, open_members
from training.teacher.linear import LINEAR, load_linear
from training.teacher.mix import load_factors, mix_scorer
from training.teacher.neighbour import choose_table, linear_rows, response_rows
from training.teacher.transformer import files_in

TREND, TABLE, ABOUT = "trend", "neighbours", "about.json"
ROWS, WEIGHTS, SCALES = "neighbours.npy", "neighbour_weights.npy", "neighbour_scales.npy"
PLAIN = Gap([0.0], [1.0], [1.0], 0.0)


def run_trend(run: Run) -> dict[str, str]:
    """Choose the trend's half-life, where it is a part of the score; return the stage as an input of others."""
    if TREND not in parse_names(run.config, "student.parts"):
        return {}
    prepared, half_lives = run.prepared(), run.config.student.half_lives
    tried = {} if half_lives == Student().half_lives else {"half_lives": half_lives}  # older runs keep their key

    def work(out: Path) -> None:
        about = choose_trend(prepared, parse_numbers(run.config, "student.half_lives"), run.progress)
        _write(out, about)
        run.progress.note(f"trend: half-life {about['half_life_s'] / 3600:g} h, e {about['epsilon']:g}")

    run.stage(TREND, tried, {"prepared": run.key("prepared")}, work)
    return {TREND: run.key(TREND)}


def run_neighbours(run: Run) -> dict[str, str]:
    """Cut the neighbours' table, where it is a part of the score; return the stage as an input of others."""
    if TABLE not in parse_names(run.config, "student.parts"):
        return {}
    prepared = run.prepared()
    depth = run.config.student.max_history

    def work(out: Path) -> None:
        factors = load_factors(run.out / "mix")
        linear = run.out / LINEAR.place
        if LINEAR.name in parse_names(run.config, "teacher.members"):
            matrix = linear_rows(load_linear(linear))
        else:
            members = open_members(run)
            score, _ = mix_scorer({name: members[name] for name in factors}, factors)
            matrix = response_rows(score, len(prepared.items))
        trend = open_given(run, prepared, with_table=False)
        near, about = choose_table(prepared, matrix, depth, run.progress, trend.logs_of if trend else None)
        about["is_left_out"] = about["ndcg@10"] < _best_without(run)
        for name, array in ((ROWS, near.rows), (WEIGHTS, near.weights), (SCALES, near.scales)):
            np.save(out / name, array)
        _write(out, about)
        text = f"{near.rows.shape[1]} an item, decay {about['decay']:g}, validation NDCG@10 {about['ndcg@10']:.4f}"
        worse = ": left out, the student alone without them is better" if about["is_left_out"] else ""
        run.progress.note(f"neighbours: {text}{worse}")

    run.stage(TABLE, {"depth": depth}, {"mix": run.key("mix")}, work)
    return {TABLE: run.key(TABLE)}


def _best_without(run: Run) -> float:
    """Return the validation NDCG@10 of the student alone without neighbours; 0 where it is no teacher.

    A student with a table that ranks worse than that leans on it all the same, and is worse than without one.
    """
    alone = next((run.out / kind.place for kind in run.members() if kind.is_student_alone), None)
    return 0.0 if alone is None else max(row.validation for row in load_curve(files_in(alone).curve))


def has_table(run: Run) -> bool:
    """Return whether the student is given neighbours: they are a part of the score, and were not left out."""
    return TABLE in parse_names(run.config, "student.parts") and not _read(run.out / TABLE).get("is_left_out", False)


def open_given(run: Run, prepared: Prepared, *, with_table: bool = True) -> Given | None:
    """Return what the student is given, or the teachers, who have no table; None where that is nothing."""
    wanted = parse_names(run.config, "student.parts")
    rule, near = ScoreRule(PLAIN), None
    if TREND in wanted:
        run.key(TREND)
        about = _read(run.out / TREND)
        as_of = int(prepared.timestamp_ms.max()) / 1000
        rule = replace(rule, trend=TrendRule(about["half_life_s"], about["epsilon"], as_of))
    if TABLE in wanted and with_table:
        run.key(TABLE)
    if with_table and has_table(run):
        place, about = run.out / TABLE, _read(run.out / TABLE)
        near = Neighbours(np.load(place / ROWS), np.load(place / WEIGHTS), np.load(place / SCALES))
        rule = replace(rule, neighbours=NeighbourRule(about["weight"], about["decay"], about["depth"]))
    return Given(prepared, Parts(rule, near)) if rule.parts != ["taste"] else None


def with_parts(table: ItemTable, given: Given | None, rule_file: Path) -> ItemTable:
    """Return the item table with the parts of the score that a student's rule has kept."""
    rule = load_rule(rule_file)
    if given is None or rule is None:
        return table
    counts = None
    if rule.trend is not None:
        live = live_counts(given.prepared, rule.trend.half_life_s)
        just_after = int(given.prepared.timestamp_ms.max()) + 1
        counts = live.before(np.array([just_after], dtype=np.int64))
    return replace(table, parts=Parts(rule, given.parts.neighbours if rule.neighbours else None, counts))


def _write(out: Path, about: dict[str, Any]) -> None:
    (out / ABOUT).write_text(json.dumps(about, indent=1) + "\n")


def _read(out: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((out / ABOUT).read_text())
    return about
