"""The linear teacher, the mix, and the soft labels of both: against slow obvious formulas."""

import numpy as np
import pytest
import torch

from training.data.event import Events
from training.evaluation.question import Question
from training.teacher import linear_model
from training.teacher.calibration import best_floor, best_sharpness, log_scores
from training.teacher.linear import LinearLabels, load_linear, save_linear
from training.teacher.linear_model import LinearModel, Problem, Setting, covered_rows, decayed_history, fit_linear
from training.teacher.mix import choose_factors, share_grid
from training.teacher.soft_labels import MixedLabels, StateLabels

SETTING = Setting(decay=0.5, future=1, future_decay=1.0, penalty=2.0, discount=0.5, floor=0.1)
EVENTS = Events(np.array([0, 1, 2, 3, 1, 0, 2], dtype=np.int32), np.array([0, 4, 4, 7]))


def slow_history(items, n_items, decay, max_history):
    x = np.zeros(n_items)
    for age, item in enumerate(reversed(items[-max_history:])):
        x[item] += decay**age
    return x


def slow_weights(penalty, discount):
    rows, targets = [], []
    for items in ([0, 1, 2, 3], [1, 0, 2]):
        for place in range(len(items) - 1):
            rows.append(slow_history(items[: place + 1], 4, 0.5, 99))
            targets.append(np.eye(4)[items[place + 1]])
    x, y = np.array(rows), np.array(targets)
    popularity = np.bincount(EVENTS.item, minlength=4) + 1
    return np.linalg.inv(x.T @ x + penalty * np.eye(4)) @ x.T @ y / popularity**discount


def test_decayed_history_sums_the_past_of_the_same_user():
    history = decayed_history(EVENTS, 4, 0.5, 2).toarray()

    np.testing.assert_allclose(history[3], [0, 0, 0.5, 1])
    np.testing.assert_allclose(history[4], [0, 1, 0, 0])


def test_the_solution_is_the_ridge_regression():
    model = fit_linear(EVENTS, 4, np.arange(4), SETTING)

    np.testing.assert_allclose(model.weights, slow_weights(2.0, 0.5), atol=2e-3)


def test_a_longer_future_counts_the_next_items_with_their_decay():
    problem = Problem.build(EVENTS, 4, np.arange(4), 0.5, [(2, 0.8)])

    expected = np.zeros((4, 4))
    for items in ([0, 1, 2, 3], [1, 0, 2]):
        for place in range(len(items) - 1):
            y = sum(0.8**i * np.eye(4)[item] for i, item in enumerate(items[place + 1 : place + 3]))
            expected += np.outer(slow_history(items[: place + 1], 4, 0.5, 99), y)
    np.testing.assert_allclose(problem.target[2, 0.8], expected, atol=1e-5)


def random_events(n_users=300, n_items=40):
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, 30, n_users)
    return Events(rng.integers(0, n_items, lengths.sum()).astype(np.int32), np.append(0, np.cumsum(lengths)))


def test_pieces_give_the_products_of_the_whole(monkeypatch):
    events, rows, futures = random_events(), np.arange(5, 35), [(1, 1.0), (5, 0.8)]
    whole = Problem.build(events, 40, rows, 0.7, futures)
    monkeypatch.setattr(linear_model, "EVENTS_AT_ONCE", 50)
    pieces = Problem.build(events, 40, rows, 0.7, futures)

    history = decayed_history(events, 40, 0.7, 13).toarray()[:, rows]
    has_next = np.append(
        np.repeat(np.arange(300), events.lengths())[1:] == np.repeat(np.arange(300), events.lengths())[:-1], False
    )
    np.testing.assert_allclose(whole.gram, history[has_next].T @ history[has_next], rtol=1e-5)
    np.testing.assert_allclose(pieces.gram, whole.gram, rtol=1e-5)
    for future in futures:
        np.testing.assert_allclose(pieces.target[future], whole.target[future], rtol=1e-5)


def test_products_are_kept_for_another_solution_and_given_up_for_the_last():
    problem = Problem.build(random_events(), 40, np.arange(40), 0.5, [(1, 1.0)])
    gram = problem.gram.copy()

    first, again = problem.solve(SETTING), problem.solve(SETTING)
    np.testing.assert_array_equal(first.weights, again.weights)
    np.testing.assert_array_equal(problem.gram, gram)

    np.testing.assert_array_equal(problem.end(SETTING).weights, first.weights)
    assert not np.array_equal(problem.gram, gram)  # it was solved where it lay: a copy would take as much again


def test_items_beyond_the_covered_ones_score_zero():
    rows = covered_rows(EVENTS, 5, 3)
    scores = fit_linear(EVENTS, 5, rows, SETTING).scorer()(torch.tensor([[-1, 0, 1]]))

    assert rows.tolist() == [0, 1, 2]
    assert (scores[0, 3:] == 0).all() and (scores[0, :3] != 0).any()


def test_a_saved_model_comes_back(tmp_path):
    model = fit_linear(EVENTS, 4, np.arange(4), SETTING)

    save_linear(tmp_path, model, [])

    loaded = load_linear(tmp_path)
    assert loaded.setting == SETTING
    assert model.weights.flags.c_contiguous and loaded.weights.flags.c_contiguous
    np.testing.assert_array_equal(loaded.weights, model.weights)


@pytest.mark.parametrize("rows", [np.arange(4), np.array([1, 2])])
def test_linear_labels_are_the_scorer_at_every_event(rows):
    rng = np.random.default_rng(0)
    model = LinearModel(rng.normal(size=(len(rows), len(rows))).astype(np.float16), rows, 4, SETTING)
    labels = LinearLabels(model, EVENTS, 3.0, torch.device("cpu"))

    logits = labels.logits(torch.tensor([2, 5, 3, 4])).float().numpy()

    histories = torch.tensor([[-1, 0, 1, 2], [-1, -1, 1, 0], [0, 1, 2, 3], [-1, -1, -1, 1]])
    np.testing.assert_allclose(logits, 3 * model.scorer()(histories), rtol=0.01, atol=0.1)


def test_sums_of_rows_as_a_gpu_takes_them_are_the_products_of_histories(monkeypatch):
    monkeypatch.setattr("training.teacher.linear.has_bfloat16", lambda device_type: False)
    weights = np.random.default_rng(0).normal(size=(2, 2)).astype(np.float32)
    labels = LinearLabels(LinearModel(weights, np.array([1, 2]), 4, SETTING), EVENTS, 3.0, torch.device("cpu"))
    event = np.array([2, 5, 3, 4, 0])  # item 0 is not among the rows, so that the last history is empty

    torch.testing.assert_close(labels.add_rows(event), labels.multiply(event))


def test_mixed_labels_are_the_sum():
    states = StateLabels(np.ones((7, 2), dtype=np.float16), torch.ones(4, 2))
    mixed = MixedLabels([states, states])

    assert mixed.logits(torch.tensor([0, 1])).tolist() == [[4.0] * 4] * 2


def question(targets, n_items):
    users = np.arange(len(targets))
    known = Events(np.zeros(len(targets), dtype=np.int32), np.arange(len(targets) + 1))
    return Question(known, users, np.array(targets), False, n_items)


def test_the_grid_holds_every_share_once():
    shares = list(share_grid(3))

    assert len(shares) == len(set(shares)) == 66
    assert all(abs(sum(share) - 1) < 1e-9 for share in shares)


def test_scores_that_are_always_right_or_always_wrong_are_as_sharp_or_dull_as_can_be():
    right = 5 * np.eye(4, dtype=np.float32)

    assert best_sharpness(right, np.arange(4)) == 1e4
    assert best_sharpness(-right, np.arange(4)) == 1e-3


def test_sharpness_is_the_one_of_highest_likelihood():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(500, 6)).astype(np.float32)
    chances = torch.softmax(torch.from_numpy(logits) * 2.5, dim=-1).numpy()
    target = np.array([rng.choice(6, p=row / row.sum()) for row in chances])

    found = best_sharpness(logits, target)

    def likelihood(factor):
        return float(torch.log_softmax(torch.from_numpy(logits) * factor, -1)[torch.arange(500), target].mean())

    assert abs(found - 2.5) < 0.5
    assert likelihood(found) >= max(likelihood(found * 1.05), likelihood(found / 1.05))


def test_log_scores_rise_smoothly_through_zero():
    scores = np.linspace(-3, 9, 1201, dtype=np.float32)

    logits = log_scores(torch.from_numpy(scores), 2.0).numpy()

    np.testing.assert_allclose(logits[scores > 0], np.log1p(scores[scores > 0] / 2.0), atol=1e-5)
    np.testing.assert_allclose(logits[scores <= 0], scores[scores <= 0] / 2.0, atol=1e-5)
    slopes = np.diff(logits) / np.diff(scores)
    assert (slopes > 0).all() and (np.abs(np.diff(slopes)) < 0.01).all()


def test_the_best_floor_makes_probabilities_honest_that_a_softmax_of_them_cannot():
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.full(50, 0.1), size=2000).astype(np.float32)
    target = np.array([rng.choice(50, p=row / row.sum()) for row in chances.astype(np.float64)])
    noisy = chances + rng.normal(size=chances.shape).astype(np.float32) * 0.003

    def surprise(logits):
        sharp = torch.from_numpy(logits * np.float32(best_sharpness(logits, target)))
        return float(torch.nn.functional.cross_entropy(sharp, torch.from_numpy(target)))

    floor = best_floor(noisy, target)

    logits = log_scores(torch.from_numpy(noisy), floor).numpy()
    truth = float(-np.log(chances[np.arange(2000), target]).mean())
    assert surprise(logits) < truth + 0.1 < surprise(noisy) - 0.4
    assert (logits.argsort() == noisy.argsort()).all()


def test_a_floor_without_targets_or_scores_is_one():
    scores = np.ones((3, 4), dtype=np.float32)

    assert best_floor(scores, np.full(3, -1)) == 1.0
    assert best_floor(0 * scores, np.arange(3)) == 1.0


def test_a_member_that_only_harms_is_left_out():
    good = np.eye(30, dtype=np.float32)
    bad = -good

    factors, trials = choose_factors(question(range(30), 30), {"bad": bad, "good": good})

    assert list(factors) == ["good"] and factors["good"] > 0
    assert len(trials) == 11


def test_two_halves_of_the_truth_are_mixed():
    rng = np.random.default_rng(0)
    truth = np.eye(200, dtype=np.float32) * 2
    noisy = {name: truth + rng.normal(size=truth.shape).astype(np.float32) for name in ("one", "other")}

    factors, _ = choose_factors(question(range(200), 200), noisy)

    assert set(factors) == {"one", "other"}
