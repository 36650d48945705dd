"""Pictures: each is a data address, and the front of a search is the right one."""

import base64

import pytest

from training.model.curve import Epoch
from training.report.plot import (
    group_label,
    pareto_front,
    plot_bars,
    plot_capacity,
    plot_curves,
    plot_differences,
    plot_front,
    plot_groups,
    plot_widths,
)

TITLES = {"student": "The student", "ease": "Its rival"}
GAIN = {"difference": 0.1, "low": -0.05, "high": 0.2}
ROW = {
    "ndcg@10": 0.2,
    "ndcg@10_interval": [0.1, 0.3],
    "by_history": [
        {"from": 1, "to": 4, "users": 3, "ndcg@10": 0.1},
        {"from": 5, "to": None, "users": 0, "ndcg@10": None},
    ],
}
MODELS = {"student": ROW, "ease": ROW}


def trial(dim, quality, cost, **more):
    return {"dim": dim, "kind": "pool", "items": "int8", "ndcg@10": quality, "encode_us": cost, "chosen": False} | more


def drawn(address):
    """Return the SVG in a data address, without the shapes of its letters: its comments keep the words."""
    head, _, body = address.partition(",")
    assert head == "data:image/svg+xml;base64"
    return base64.b64decode(body).decode()


def test_the_front_is_what_nothing_cheaper_beats():
    trials = [trial(8, 0.1, 10), trial(16, 0.3, 20), trial(24, 0.2, 30), trial(32, 0.4, 40), trial(9, 0.05, 10)]

    assert [row["dim"] for row in pareto_front(trials, "encode_us")] == [8, 16, 32]


def test_bars_and_groups_name_their_models():
    for picture in (plot_bars(MODELS, TITLES), plot_groups(MODELS, list(MODELS), TITLES, "by_history")):
        assert "The student" in drawn(picture) and "Its rival" in drawn(picture)


def test_curves_begin_at_epoch_1():
    picture = drawn(plot_curves({"student": [Epoch(0, 3.0, 0.1, 1.0), Epoch(1, 2.0, 0.2, 1.0)]}, TITLES))

    assert "The student" in picture and "validation NDCG@10" in picture


def test_the_chosen_trial_of_a_search_is_named_beside_the_front():
    trials = [trial(8, 0.1, 10), trial(16, 0.3, 20, chosen=True)]

    picture = drawn(plot_front(trials, "encode_us", "microseconds"))

    assert "16 wide, pool, int8" in picture and "none is better in both" in picture


def test_differences_and_the_capacity_study_are_drawn():
    rows = [{"dim": dim, "teacher": name, "ndcg@10": 0.1, "gain": GAIN} for dim in (8, 16) for name in ("alone", "mix")]

    capacity = drawn(plot_capacity({"rows": rows, "teachers": {"mix": 0.3}}, {"mix": "taught by the mix"}))

    assert "taught by the mix" in capacity
    costs = [row | {"item_bytes": row["dim"] + 4, "score_us": 2 * row["dim"]} for row in rows]
    widths = drawn(plot_widths(costs, {"alone": "no teacher", "mix": "taught by the mix"}))
    assert "no teacher" in widths and "bytes of an item" in widths and "microseconds" in widths
    assert "hard loss + hint" in drawn(plot_differences([("hard loss + hint", GAIN, True), ("another", GAIN, False)]))


@pytest.mark.parametrize(
    ("group", "row", "label"),
    [
        ("by_popularity", {"items": 1234}, "1,234 items"),
        ("by_history", {"from": 5, "to": 9}, "5 to 9 events"),
        ("by_history", {"from": 50, "to": None}, "50 and more"),
    ],
)
def test_groups_are_named_for_the_reader(group, row, label):
    assert group_label(group, row) == label
