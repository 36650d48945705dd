"""What a model is given at a training position and at a request: the table, and the trend strictly before."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from service.bundle import NeighbourRule, Parts, ScoreRule, TrendRule
from tests.training.evaluation.shop import N_ITEMS, make_busy_shop, make_shop
from training.data import trend
from training.data.split import TEST
from training.evaluation.given import Given, keep_parts, to_neighbours, to_sparse
from training.evaluation.given_weights import fit_rule
from training.evaluation.question import ask
from training.evaluation.with_given import learn_rule, load_rule, validation_score_given
from training.model.encoder import Size, make_model
from training.parallel.evidence import Evidence, Fitted, Form
from training.progress import Progress

TREND = TrendRule(10.0, 0.1, 1.0)
ROWS = np.array([[1, 2], [2, -1], [0, 3], [5, 4], [-1, -1], [0, 1]], dtype=np.int32)
WEIGHTS = np.array([[1.0, -0.5], [2.0, 0.0], [1.0, 1.0], [0.25, 4.0], [0.0, 0.0], [3.0, 1.0]], dtype=np.float32)


def given(shop, gap=None):
    near = to_neighbours(ROWS, WEIGHTS)
    rule = ScoreRule(gap, neighbours=NeighbourRule(2.0, 0.5, 3), trend=TREND)
    return Given(shop, Parts(rule, near))


def slow(shop):
    """The shop with seconds where it has milliseconds."""
    return replace(shop, timestamp_ms=shop.timestamp_ms * 1000)


def student(**more):
    return make_model(N_ITEMS, Size(4, ("pool",), 1, 0.0, 5, has_trend=True, **more), 0)


def test_a_table_of_int8_is_near_what_it_was_made_of():
    dense = to_sparse(to_neighbours(ROWS, WEIGHTS)).toarray()

    assert dense[0].tolist() == pytest.approx([0, 1, -0.5, 0, 0, 0], abs=0.01)
    assert not dense[4].any()


def test_the_table_speaks_for_the_history_up_to_a_position_and_for_no_other_user():
    said = given(slow(make_shop())).table_at(np.array([0, 1, 2])).numpy()  # user 0: items 0 and 1; user 1: item 1

    table = 2 * to_sparse(to_neighbours(ROWS, WEIGHTS)).toarray()
    np.testing.assert_allclose(said, [table[0], table[1] + 0.5 * table[0], table[1]], atol=1e-6)


@pytest.mark.parametrize(
    ("most_values", "left"),
    [pytest.param(trend.MOST_VALUES, 1, id="a snapshot"), pytest.param(0, 0.5, id="too many items for snapshots")],
)
def test_the_trend_at_a_position_is_that_strictly_before_the_event_to_predict(monkeypatch, most_values, left):
    """A snapshot is not decayed to the time of the position, which is a half-life later here."""
    monkeypatch.setattr(trend, "MOST_VALUES", most_values)
    shop = slow(make_shop())

    logs = given(shop).trend_at(torch.tensor([0, 2]))  # predicted: user 0 at 20, user 1 at 15

    before = {0: 1, 1: 1}  # both users' first events, at 10
    counts = np.exp(logs[1].numpy()) - TREND.epsilon
    assert [item for item, count in enumerate(counts) if count > 0.01] == list(before)
    counts = np.exp(logs[0].numpy()) - TREND.epsilon
    assert counts[:2] == pytest.approx([left, left], abs=0.01)
    assert counts[4] == pytest.approx(0, abs=0.01), "nothing later is"


def test_a_scorer_adds_up_taste_table_and_live_counts_and_ranks_cold_users_by_the_trend():
    shop = slow(make_busy_shop())
    own, question = given(shop), ask(shop, TEST)
    scorer = own.scorer(question, lambda rows: np.zeros((len(rows), N_ITEMS), dtype=np.float32), own.rule_of(3.0))

    scores = {int(place): row for places, rows in question.batches(5) for place, row in
              zip(places, scorer(places, rows), strict=True)}  # fmt: skip

    counts = own.live.before(question.asked_ms)
    cold = int(np.flatnonzero(question.lengths() == 0)[0])
    np.testing.assert_allclose(scores[cold], np.log(counts[cold] + 0.1), rtol=1e-5)
    warm = int(np.flatnonzero(question.lengths() > 0)[0])
    table = own.parts.speak(question.histories(np.array([warm]))[0])
    expected = 3 * np.log(counts[warm] + 0.1)
    expected[table[0]] += table[1]
    np.testing.assert_allclose(scores[warm], expected, rtol=1e-4, atol=1e-5)


def test_logits_of_a_position_learn_the_weight_of_the_trend():
    model, own = student(), given(slow(make_shop()))

    logits = own.add(model, torch.zeros(1, N_ITEMS), torch.tensor([0]))
    logits.log_softmax(dim=1)[0, 2].backward()

    assert model.trend_weight is not None and model.trend_weight.grad != 0


def test_parts_can_be_left_out_of_a_rule():
    assert keep_parts(given(slow(make_shop())).parts.rule, ["taste", "trend"]).parts == ["taste", "trend"]


def test_the_fitted_rule_is_written_and_read_and_validates(tmp_path):
    shop, model = slow(make_shop()), student().eval()

    rule = learn_rule(model, given(shop), tmp_path / "score.json", Progress())

    read = load_rule(tmp_path / "score.json")
    assert read is None or read.parts == rule.parts
    assert 0 <= validation_score_given(shop, given(shop), rule)(model) <= 1


def test_a_rule_is_left_as_it_is_where_there_is_nothing_to_fit_to():
    shop = slow(make_shop())
    shop.part[shop.part == 1] = 0
    own = given(shop)
    own = Given(shop, Parts(own.rule_of(1.0), own.parts.neighbours))

    rule, about = fit_rule(
        ask(shop, 1), lambda rows: np.zeros((len(rows), N_ITEMS), dtype=np.float32), own, 5, Progress(is_quiet=True)
    )

    assert rule == own.parts.rule
    assert about == {"requests": 0}


def test_fitted_scores_follow_their_form():
    form = Form(("trend",), 1)
    one = torch.ones(1)
    fitted = Fitted(form, one, one * 0, one * 2, torch.ones(()), torch.zeros(()))
    evidence = Evidence(torch.tensor([0]), torch.ones(1), None, torch.ones(1, 2), None, torch.tensor([[0.0, 1.0]]))
    assert fitted.scores(evidence).tolist() == [pytest.approx([0, 2 * np.log(2)])]
