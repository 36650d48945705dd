"""Fit, judge, save: what is written, what an interruption leaves, and a refit's course; on the chain world."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.data.prepared import load_prepared
from training.data.split import TRAIN
from training.evaluation.judge import Ranking
from training.evaluation.trained import (
    Files,
    open_course,
    open_refit_course,
    train_and_save,
    train_or_load,
    trained,
)
from training.model.checkpoint import load_model
from training.model.curve import load_curve
from training.model.encoder import Size, make_model
from training.model.fit import Schedule
from training.progress import Progress
from training.teacher.transformer import learn_hard as lesson

SIZE = Size(dim=16, blocks=("pool",), heads=2, dropout=0.0, max_history=8)
SCHEDULE = Schedule(0.01, 256, epochs=2, positions=10**9, patience=2, seed=1)


def student(prepared):
    return make_model(len(prepared.items), SIZE, SCHEDULE.seed)


@pytest.fixture(scope="module")
def prepared(finished_run):
    return load_prepared(finished_run / "prepared")


@pytest.fixture(scope="module")
def course(prepared):
    return open_course(prepared, SCHEDULE, Progress())


def test_training_leaves_weights_curve_and_ranking_and_no_checkpoint(prepared, course, tmp_path):
    model = student(prepared)
    files = Files(*(tmp_path / name for name in ("model", "curve", "ranking", "checkpoint", "rule")))

    train_and_save(model, lesson, course, prepared, files)

    assert {path.name for path in tmp_path.iterdir()} == {"model", "curve", "ranking"}
    assert load_model(files.model).items.weight.equal(model.items.weight)
    assert len(load_curve(files.curve)) == 2
    assert len(Ranking.load(files.ranking).ranks) > 100


def test_interrupted_work_on_a_trained_model_does_not_lose_the_training(prepared, course, tmp_path):
    first, again = student(prepared), student(prepared)

    with pytest.raises(KeyboardInterrupt), trained(first, lesson, course, tmp_path / "checkpoint"):
        raise KeyboardInterrupt
    assert (tmp_path / "checkpoint").exists()
    with trained(again, lesson, course, tmp_path / "checkpoint") as curve:
        seconds = [row.seconds for row in curve]

    assert torch.equal(first.items.weight, again.items.weight)
    assert len(seconds) == 2
    assert not (tmp_path / "checkpoint").exists()


def test_refit_trains_on_every_event_for_exactly_its_epochs(prepared, tmp_path):
    course = open_refit_course(prepared, replace(SCHEDULE, positions=1, patience=0), 3, Progress())

    with trained(student(prepared), lesson, course, tmp_path / "checkpoint") as curve:
        assert len(curve) == 3

    assert len(course.events.item) == len(prepared.item)
    assert course.validate is None


def test_model_that_is_there_is_loaded_and_not_trained(prepared, course, tmp_path):
    model = train_or_load(tmp_path / "model.safetensors", student(prepared), lesson, course)

    loaded = train_or_load(tmp_path / "model.safetensors", student(prepared), None, course)

    assert loaded.items.weight.equal(model.items.weight)


def test_weights_are_of_the_events_that_a_course_trains_on(prepared):
    weight = np.where(prepared.part == TRAIN, 1.0 + prepared.item % 3, 1000.0)  # of what is held out all are heavy

    course = open_course(replace(prepared, weight=weight), SCHEDULE, Progress())
    refit = open_refit_course(replace(prepared, weight=weight), SCHEDULE, 1, Progress())

    for each, of in ((course, weight[prepared.part == TRAIN]), (refit, weight)):
        assert len(each.importance) == len(each.events.item)
        assert each.importance[each.events.is_target()].mean() == pytest.approx(1.0, rel=1e-5)
        light = of < 1000
        np.testing.assert_allclose((each.importance / of)[light], (each.importance / of)[light][0], rtol=1e-5)
    assert open_course(prepared, SCHEDULE, Progress()).importance is None
    assert open_course(replace(prepared, weight=np.full(len(weight), 3.0)), SCHEDULE, Progress()).importance is None


def test_items_whose_events_weigh_little_are_recommended_less(finished_run, tmp_path):
    prepared = load_prepared(finished_run / "prepared")
    is_light = prepared.item % 2 == 0
    shares = []
    for place, weight in enumerate((None, np.where(is_light, 0.02, 1.0))):
        longer = replace(SCHEDULE, epochs=15, patience=15)
        course = open_course(replace(prepared, weight=weight), longer, Progress())
        model = make_model(len(prepared.items), SIZE, seed=1)
        train_or_load(tmp_path / f"{place}.safetensors", model, lesson, course)
        rows = torch.from_numpy(np.arange(len(prepared.items))[:, None])
        with torch.no_grad():
            likely = model.scores(model.users(rows)).softmax(dim=1).mean(dim=0)
        shares.append(float(likely[::2].sum()))

    assert shares[1] < 0.8 * shares[0]
