"""What weights of events do to a training: the bound, the unit, weights that are alike, and what a model learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.model.test_fit import SIZE, chain
from training.data.event import Events
from training.distillation.source import Source
from training.distillation.teaching import Recipe, learn_from, learn_smoothed
from training.distillation.term import TERMS
from training.model.batch import training_batches
from training.model.encoder import make_model
from training.model.fit import Course, Learner, Schedule, fit, train_step
from training.model.importance import MOST, importance_of, most_weight
from training.progress import Progress
from training.teacher.soft_labels import StateLabels
from training.teacher.transformer import learn_hard

N_ITEMS = 40
STILL = replace(SIZE, dropout=0.0)
DRAWN = {"adversarial", "relations", "meta", "feedback", "closure"}  # of positions or items that are drawn


def one_user(n_events):
    return Events(np.arange(n_events, dtype=np.int32), np.array([0, n_events]))


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1e9), min_size=1, max_size=300))
def test_the_bound_is_a_multiple_of_the_mean_of_what_it_leaves(weights):
    weight, bound = np.array(weights), np.inf
    for _ in range(2000):  # from above, until it stays
        bound = MOST * np.minimum(weight, bound).mean()

    found = most_weight(weight)

    np.testing.assert_allclose(np.minimum(weight, found), np.minimum(weight, bound), rtol=1e-4)
    cut = np.minimum(weight, found)
    assert cut.sum() ** 2 / (cut**2).sum() >= len(weight) / MOST * (1 - 1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1e6), min_size=3, max_size=100), st.floats(0.001, 1000))
def test_the_mean_over_targets_is_one_whatever_the_unit(weights, unit):
    weight = np.array(weights)
    events = one_user(len(weight))

    found, again = importance_of(events, weight), importance_of(events, weight * unit)

    if found is None:
        assert np.ptp(weight[1:]) < 1e-6 * weight.max()
        return
    assert found[1:].mean() == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_allclose(again, found, rtol=1e-5)
    doubled = importance_of(events, 2 * weight)
    assert doubled is not None and np.array_equal(doubled, found)


def test_no_weights_and_weights_that_are_alike_are_none():
    events = one_user(5)

    assert importance_of(events, None) is None
    assert importance_of(events, np.full(5, 0.3)) is None
    assert importance_of(events, np.array([9.0, 1.0, 1.0, 1.0, 1.0])) is None, "the first of a user is no target"
    assert importance_of(events, np.zeros(5)) is None
    assert importance_of(Events(np.empty(0, dtype=np.int32), np.array([0])), np.empty(0)) is None


def test_a_weight_of_zero_counts_nothing_and_says_nothing_of_what_is_heavy():
    found = importance_of(one_user(101), np.array([1.0, *[0.0] * 99, 3.0]))

    assert found is not None and found.tolist() == [pytest.approx(100 / 3), *[0.0] * 99, 100.0]


def test_one_event_of_a_billion_does_not_silence_the_others():
    found = importance_of(one_user(401), np.array([1.0, *[2.0] * 399, 1e9]))

    assert found is not None
    assert found[-1] == pytest.approx(MOST) and found[1:-1].sum() == pytest.approx(400 - MOST)


def a_batch():
    (batch, *_) = training_batches(chain(), max_history=10, positions=24, seed=1)
    return batch


def lessons():
    rng = np.random.default_rng(0)
    states = rng.standard_normal((len(chain().item), 32)).astype(np.float16)
    labels = StateLabels(states, torch.from_numpy(rng.standard_normal((N_ITEMS, 32)).astype(np.float32)))
    first = torch.arange(8)[:, None]
    probe = ((first + torch.arange(5)) % N_ITEMS, first[:, 0] + 5)
    source = Source(labels, np.arange(N_ITEMS) + 1.0, labels, make_model(N_ITEMS, STILL, 5).eval(), lambda: probe)
    taught = {name: learn_from(source, Recipe({name: 1.0}, 0.5, 0.7), 1) for name in TERMS}
    return {"hard": learn_hard, "smoothed": learn_smoothed(0.1), **taught}


LESSONS = lessons()


def step(lesson, batch):
    """The loss of a step and its gradients."""
    torch.manual_seed(0)
    model = make_model(N_ITEMS, STILL, 1)
    learner = Learner.start(model, lesson(model), 1e-3)
    torch.manual_seed(3)
    value = train_step(learner, batch, 1e-3)
    weights = [weight for group in learner.optimizer.param_groups for weight in group["params"]]
    return value, [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]


@pytest.mark.parametrize("name", LESSONS)
def test_an_importance_of_one_is_none(name):
    batch = a_batch()

    value, gradients = step(LESSONS[name], batch)
    ours, of_ours = step(LESSONS[name], replace(batch, importance=torch.ones(len(batch.target))))

    assert ours == pytest.approx(value, rel=1e-5)
    for one, other in zip(gradients, of_ours, strict=True):
        torch.testing.assert_close(other, one, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(set(LESSONS) - DRAWN - {"confidence"}))
def test_a_loss_is_the_mean_of_each_positions_own_times_its_importance(name):
    """A position's own loss is that of the batch where it alone counts."""
    batch = a_batch()
    count = len(batch.target)
    importance = torch.from_numpy(np.random.default_rng(2).choice([0.0, 0.4, 1.0, 7.0], count)).float()

    value, _ = step(LESSONS[name], replace(batch, importance=importance))

    def own(place):
        alone = replace(batch, importance=torch.eye(count)[place])
        return step(LESSONS[name], alone)[0]

    assert value == pytest.approx(sum(float(importance[place]) * own(place) for place in range(count)), rel=1e-4)
    assert value != pytest.approx(step(LESSONS[name], batch)[0], rel=1e-3)


@pytest.mark.parametrize("name", LESSONS)
def test_a_target_of_importance_zero_moves_nothing(name):
    """Whatever the target and the teacher's label there are: both are replaced by others."""
    batch = a_batch()
    importance = torch.ones(len(batch.target))
    importance[::2] = 0.0
    batch = replace(batch, importance=importance)
    moved, event = batch.target.clone(), batch.event.clone()
    moved[::2], event[::2] = (moved[::2] + 7) % N_ITEMS, event[1::2][0]
    if name == "relations":  # which vectors are compared follows from the targets
        moved[::2] = batch.target[::2]

    value, gradients = step(LESSONS[name], batch)
    again, of_again = step(LESSONS[name], replace(batch, target=moved, event=event))

    if name != "confidence":  # its own weights are divided by their sum
        assert again == pytest.approx(value, rel=1e-5)
        for one, other in zip(gradients, of_again, strict=True):
            torch.testing.assert_close(other, one, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(set(LESSONS) - {"meta", "feedback"}))
def test_where_nothing_counts_there_is_no_gradient(name):
    batch = a_batch()

    value, gradients = step(LESSONS[name], replace(batch, importance=torch.zeros(len(batch.target))))

    assert value == 0.0
    assert all(not gradient.any() for gradient in gradients)


def branching(users=200, length=20, rare=0.25):
    """After each item comes the next one, or sometimes the one three on. Returns the events and which are rare."""
    rng = np.random.default_rng(0)
    is_rare = rng.random((users, length)) < rare
    walk = (rng.integers(N_ITEMS, size=(users, 1)) + np.cumsum(np.where(is_rare, 3, 1), axis=1)) % N_ITEMS
    return Events(walk.astype(np.int32).ravel(), np.arange(0, users * length + 1, length)), is_rare.ravel()


def learned_odds(path, events, weight):
    """How much likelier the rare step is than the usual one, to a model that was trained with weights."""
    model = make_model(N_ITEMS, replace(STILL, blocks=("pool",), max_history=1), 1)
    schedule = Schedule(0.01, 256, epochs=12, positions=10**9, patience=12, seed=1)
    course = Course(events, schedule, None, Progress(), importance=importance_of(events, weight))
    fit(model, learn_hard(model), course, path)
    rows = torch.arange(N_ITEMS)
    with torch.no_grad():
        scores = model.scores(model.users(rows[:, None]))
    return float((scores[rows, (rows + 3) % N_ITEMS] - scores[rows, (rows + 1) % N_ITEMS]).mean().exp())


def test_what_weighs_much_is_ranked_above_what_comes_more_often(tmp_path):
    events, is_rare = branching()

    plain = learned_odds(tmp_path / "plain", events, None)
    weighed = learned_odds(tmp_path / "weighed", events, np.where(is_rare, 9.0, 1.0))

    assert plain == pytest.approx(1 / 3, rel=0.25)
    assert weighed == pytest.approx(9 / 3, rel=0.25)


def test_few_heavy_events_count_by_their_weight(tmp_path):
    events, is_rare = branching(users=400, rare=0.02)

    plain = learned_odds(tmp_path / "plain", events, None)
    weighed = learned_odds(tmp_path / "weighed", events, np.where(is_rare, 20.0, 1.0))

    assert plain < 0.1
    assert weighed > 8 * plain
