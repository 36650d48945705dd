"""Tables as text: every number of a small table stands in its line."""

import pytest

from training.report.text import (
    ablation_lines,
    capacity_lines,
    comparison_lines,
    compression_lines,
    findings,
    newcomer_lines,
    request_lines,
    row_title,
    summary_lines,
)
from training.study.ablation import ON_HARD, ON_KL

GAIN = {"difference": 0.1, "low": 0.05, "high": 0.2, "per_seed": [0.08, 0.12]}
TERM = {
    "base": ON_HARD, "term": "hint", "weight": 2.0, "extra_block": False, "seeds": [1, 2], "validation": 0.3,
    "ndcg@10": 0.22, "coverage@10": 0.5, "gini@10": 0.4, "difference": GAIN, "verdict": "helps",
}  # fmt: skip
ALONE = TERM | {"term": None, "weight": 0.0, "ndcg@10": 0.2, "verdict": ""}


def test_findings_name_what_helps_and_what_hurts():
    row = {"base": ON_KL, "term": "hint", "verdict": "hurts", "ndcg@10": 0.1, "extra_block": False}
    rows = [
        row | {"term": None},
        row,
        row | {"term": "closure", "verdict": "helps"},
        row | {"term": "attention", "verdict": "helps", "ndcg@10": 0.09, "extra_block": True},
    ]

    on_hard, on_soft = findings({"rows": rows})

    assert on_hard == "on the hard loss: nothing was tried"
    assert on_soft == (
        "on the soft labels: helps: closure, attention (of a student with another block, which stays below the one "
        "without); hurts: hint"
    )


@pytest.mark.parametrize(
    ("row", "title"),
    [
        (TERM, "hard loss + hint x 2"),
        (ALONE | {"base": ON_KL}, "soft labels alone"),
        (TERM | {"term": "attention", "extra_block": True}, "hard loss + attention x 2 (with attention)"),
    ],
)
def test_a_row_of_an_ablation_says_how_its_students_were_taught(row, title):
    assert row_title(row) == title


def test_the_lines_of_an_ablation_are_its_rows_its_findings_and_what_it_took():
    lines = ablation_lines({"rows": [ALONE, TERM], "trials": 3, "minutes": 1.25})

    assert len(lines) == 1 + 2 + 2 + 1
    assert "+10.0% (+5.0% to +20.0%)" in lines[2] and lines[2].endswith("helps")
    assert lines[3] == "on the hard loss: helps: hint"
    assert lines[-1] == "3 students, 1.2 minutes"


def test_the_lines_of_the_capacity_study_name_width_teacher_and_gain():
    rows = [
        {"dim": 8, "teacher": "taste", "validation": 0.09, "ndcg@10": 0.04, "item_bytes": 12.0, "score_us": 20.0},
        {"dim": 8, "teacher": "alone", "validation": 0.1, "ndcg@10": 0.05, "item_bytes": 120.0, "score_us": 30.0},
        {"dim": 8, "teacher": "text_teacher", "validation": 0.2, "ndcg@10": 0.06, "item_bytes": 120.0, "score_us": 30.0,
         "gain": GAIN},
    ]  # fmt: skip

    lines = capacity_lines({"rows": rows, "teachers": {"mix": 0.3}, "minutes": 2.0})

    assert lines[1].split() == ["8", "taste", "alone", "0.0900", "0.0400", "12", "20"]
    assert lines[2].split() == ["8", "alone", "0.1000", "0.0500", "120", "30"]
    assert "text teacher" in lines[3] and lines[3].endswith("+10.0% (+5.0% to +20.0%)")
    assert lines[4] == "teachers on validation: mix 0.3000; 2.0 minutes"


def test_the_lines_of_the_compression_study_hold_quality_size_and_time():
    judged = {"ndcg@10": 0.2, "ndcg@10_interval": [0.1, 0.3]}
    cost = {"encoder_bytes": 1000, "items_bytes": 2000, "parameters": 300, "encode_us": 5.0, "score_us": 9.0}

    lines = compression_lines({"rows": {"int8": {"before": judged, "after": judged} | cost}, "minutes": 1.0,
                               "timed_items": 20_000})  # fmt: skip

    assert lines[1].split() == ["int8", *["0.2000", "0.1000", "to", "0.3000"] * 2, "1,000", "2,000", "300", "5", "9"]
    assert lines[2] == "1.0 minutes; 20,000 items scored"


def test_the_lines_of_a_run_leave_empty_what_a_model_has_not():
    row = {"ndcg@10": 0.2, "ndcg@10_interval": [0.1, 0.3], "hr@10": 0.4}
    models = {"teacher": row | {"parameters": 1000, "bytes": 4000, "encode_us": 12.3}, "own_peer": row}

    lines = summary_lines({"models": models})

    assert lines[1].split() == ["Teacher", "0.2000", "0.1000", "to", "0.3000", "0.4000", "1,000", "4,000", "12"]
    assert lines[2].split() == ["own", "peer", "0.2000", "0.1000", "to", "0.3000", "0.4000"]
    assert len(lines[1]) == len(lines[2]), "the columns stay under their headings"


def test_the_lines_of_a_run_say_where_a_model_is_below_the_bar():
    row = {"ndcg@10": 0.2, "of_bar": {"ratio": 0.5, "low": 0.4, "high": 0.6}}
    cold = {"title": "users without a history", "requests": 3, "models": {"student": row | {"of_bar": None}}}
    kinds = {"all": {"title": "all requests", "requests": 1234, "models": {"student": row, "ease": row}}, "cold": cold}

    lines = request_lines({"bar": {}, "by_request": kinds}, {"student": "Student", "ease": "EASE"})

    assert "  0: all requests, 1,234" in lines and "  1: users without a history, 3" in lines
    assert lines[-2].split() == ["Student", "0.2000", "0.50!", "0.2000"]
    assert lines[-1].split() == ["EASE", "0.2000", "0.50!"]


def test_the_lines_of_several_runs_say_which_models_are_the_same_in_all():
    row = {"ndcg@10": 0.2, "ndcg@10_interval": [0.1, 0.3], "hr@10": 0.4}
    table = {
        "models": {"student": row | {"ndcg@10_spread": 0.01}, "ease": row | {"ndcg@10_spread": None}},
        "titles": {"student": "Student, distilled", "ease": "EASE"},
        "ndcg@10_differences": {"student / ease": GAIN},
        "by": "seed",
    }

    lines = comparison_lines(table)

    assert "0.0100" in lines[1] and " same " in lines[2]
    assert lines[-1].endswith("+10.0% (+5.0% to +20.0%); seeds +8.0%, +12.0%")


def test_a_difference_from_next_to_nothing_is_no_percentage():
    huge = {"difference": 2.86e11, "low": 0.5, "high": 5e11, "per_seed": [2.86e11, -0.1]}
    models = {"student": {"ndcg@10": 0.2, "ndcg@10_interval": [0.1, 0.3], "ndcg@10_spread": None, "hr@10": 0.4}}
    table = {"models": models, "titles": {"student": "student"}, "ndcg@10_differences": {"student / ease": huge}}

    (line,) = [line for line in comparison_lines(table | {"by": "seed", "bar": None}) if "student / ease" in line]

    assert line.split("/ ease")[1].split() == [
        "over",
        "10",
        "times",
        "(+50.0%",
        "to",
        "over",
        "10",
        "times);",
        "seeds",
        "over",
        "10",
        "times,",
        "-10.0%",
    ]


AHEAD = {"difference": 0.5, "low": 0.25, "high": 0.75}
JUDGED = {
    "held_out": 1234, "requests": 2345, "users": 2000, "data": "d",
    "models": {
        "encoder": {"ndcg@10": 0.3, "ndcg@10_interval": [0.2, 0.4], "hr@10": 0.5},
        "random": {"ndcg@10": 0.2, "ndcg@10_interval": [0.1, 0.3], "hr@10": 0.4, "encoder_ahead": AHEAD},
    },
}  # fmt: skip


def test_the_lines_of_new_items_say_how_far_the_encoder_is_ahead():
    titles = {"encoder": "Item encoder", "random": "Chance"}

    _, heading, ours, chance = newcomer_lines({"titles": titles, "judged": JUDGED})

    assert heading == "1,234 items held out whole, ranked among themselves; 2,345 requests"
    assert ours.split() == ["Item", "encoder", "0.3000", "0.2000", "to", "0.4000", "0.5000"]
    assert chance.endswith("0.4000  encoder +50.0% (+25.0% to +75.0%)")


@pytest.mark.parametrize("found", [{}, {"judged": {}}, {"judged": {"left_out": "why"}}])
def test_there_are_no_lines_of_new_items_when_none_were_judged(found):
    assert newcomer_lines(found) == []
