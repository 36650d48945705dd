"""Items that go with others: the pairs, the counts by hand, the score of the service, and weights that find a plan."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.bundle import Item, ItemTable, SimilarRule, parse_similar, usual_rule
from tests.service.toy import N_ITEMS, slow_similar, toy_parts, write_toy_sum
from training.data.prepared import Prepared
from training.data.split import TEST, TRAIN, VAL
from training.evaluation import similar
from training.evaluation.similar import Pairs, Parts, _sum, count_together, judge_similar, pairs_of

DAY_MS = 86_400_000


def make_prepared(rows, n_items: int) -> Prepared:
    """Rows of user, item, time in ms and part."""
    user, item, time, part = (np.array(column) for column in zip(*rows, strict=True))
    return Prepared(
        users=[f"u{n}" for n in range(user.max() + 1)],
        items=[Item(f"i{n}", float((item[part == TRAIN] == n).sum()), None, {}) for n in range(n_items)],
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        timestamp_ms=time.astype(np.int64),
        part=part.astype(np.uint8),
        report={"repeat_consumption": False},
    )


def test_pairs_are_of_one_user_and_one_session_and_two_items():
    prepared = make_prepared(
        [
            (0, 0, 0, TRAIN), (0, 1, 10, TEST), (0, 1, 20, TEST), (0, 2, 20 + DAY_MS, TEST),
            (0, 3, 21 + 2 * DAY_MS, TEST), (1, 4, 0, TEST), (1, 5, 0, TEST),
        ],
        6,
    )  # fmt: skip

    pairs = pairs_of(prepared, TEST, 100)

    assert list(zip(pairs.user, pairs.anchor, pairs.target, pairs.asked_ms, strict=True)) == [
        (0, 0, 1, 10), (0, 1, 2, 20 + DAY_MS), (1, 4, 5, 0),
    ]  # fmt: skip
    assert len(pairs_of(prepared, TEST, 2).user) == 2
    assert len(pairs_of(prepared, VAL, 2).user) == 0


def test_co_occurrence_counts_training_in_both_directions():
    prepared = make_prepared(
        [
            (0, 0, 0, TRAIN), (0, 1, 5, TRAIN), (0, 2, 9 + DAY_MS, TRAIN), (0, 0, 9 + DAY_MS, TRAIN),
            (0, 1, 9 + DAY_MS, TEST), (1, 1, 0, TRAIN), (1, 0, 0, TRAIN),
        ],
        3,
    )  # fmt: skip

    assert count_together(prepared).toarray().tolist() == [[0, 2, 1], [2, 0, 0], [1, 0, 0]]


def test_weighed_parts_are_the_score_of_the_service(tmp_path: Path):
    parts = toy_parts()
    without_trend = replace(parts, rule=replace(parts.rule, trend=None), counts=None)
    bundle = write_toy_sum(tmp_path / "bundle", parts=without_trend)
    rule = SimilarRule(0.7, 1.3, 0.4, 0.0)
    anchors = np.array([3, 17, 59])
    nobody = np.zeros(3, dtype=np.int64)

    found = Parts(make_prepared([(0, 0, 0, TRAIN)], N_ITEMS), bundle.table, bundle.table.gather)
    scores = _sum(found.of(Pairs(nobody, anchors, nobody, nobody)), rule.to_json(), found.names)

    for own, anchor in zip(scores, anchors, strict=True):
        assert own == pytest.approx(slow_similar(bundle, rule, [anchor], []), abs=1e-4)


@pytest.fixture(scope="module")
def couples() -> tuple[Prepared, ItemTable]:
    """Item 2n and item 2n + 1 are taken together; their vectors say so, and the encoder says nothing."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(400):
        for step, couple in enumerate(rng.choice(20, 3, replace=False)):
            part = (TRAIN, VAL, TEST)[step]
            both = rng.permutation([2 * couple, 2 * couple + 1])
            rows += [(user, item, step * 10 * DAY_MS + user, part) for item in both]
    vectors = np.repeat(rng.normal(size=(20, 8)), 2, axis=0).astype(np.float32)
    return make_prepared(rows, 40), ItemTable(vectors + rng.normal(scale=0.1, size=(40, 8)).astype(np.float32))


def test_weights_go_to_what_tells_on_validation_and_are_those_of_logits(couples):
    prepared, table = couples
    noise = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)

    about = judge_similar(prepared, table, lambda rows: noise[rows])

    rule = parse_similar(about["similar"])
    models = about["models"]
    assert rule.angle > 3 * rule.next and rule.neighbours == rule.trend == 0
    assert models["mix"]["ndcg@10"] > 0.9 and models["next"]["ndcg@10"] < 0.5
    assert models["together"]["ndcg@10"] > 0.95, "training has the couples too"
    assert set(models) == {"mix", "next", "angle", "together"}
    assert models["next"]["mix_ahead"]["low"] > 0
    scores = _sum(Parts(prepared, table, lambda rows: noise[rows]).of(pairs_of(prepared, VAL, 400)), about["similar"])
    pairs = pairs_of(prepared, VAL, 400)
    scores[np.arange(len(scores)), pairs.anchor] = -np.inf
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    assert chances[np.arange(len(scores)), pairs.target].mean() > 0.5, "sure where it may be"


def test_weights_are_in_reach_of_a_bundle_however_small_the_scores_are(couples):
    prepared, _ = couples
    vectors = 1e-4 * np.eye(40, dtype=np.float32)

    about = judge_similar(prepared, ItemTable(vectors), lambda rows: vectors[rows ^ 1])

    assert parse_similar(about["similar"]).next == pytest.approx(1e6, rel=0.01)
    assert about["models"]["mix"]["ndcg@10"] == 1.0


def test_a_large_catalogue_fits_its_weights_to_enough_pairs(couples, monkeypatch):
    prepared, table = couples
    usual = judge_similar(prepared, table, table.gather)["similar"]
    for name in ("VALUES", "FITTED"):
        monkeypatch.setattr(similar, name, 40)  # one pair's

    few = judge_similar(prepared, table, table.gather)

    assert few["tried"]
    assert few["similar"] == pytest.approx(usual, rel=0.5)


def test_an_item_without_neighbours_has_something_to_be_compared_by(couples):
    prepared, _ = couples
    pairs = pairs_of(prepared, VAL, 400)

    class Said:
        """Neighbours know all, vectors nothing."""

        def of(self, some):
            known = np.zeros((len(some.target), 40), dtype=np.float32)
            known[np.arange(len(known)), some.target] = 1
            noise = np.random.default_rng(0).normal(size=(2, *known.shape)).astype(np.float32)
            return {"next": noise[0], "neighbours": known, "angle": noise[1]}

    rule, tried = similar._choose(Said(), pairs)

    assert tried[0]["ndcg@10"] == 1.0
    assert rule.neighbours > 0 and rule.next + rule.angle > 0


def test_too_few_pairs_choose_nothing(couples):
    _, table = couples
    few = make_prepared([(0, 0, 0, TRAIN), (0, 1, DAY_MS * 3, VAL), (0, 2, DAY_MS * 6, TEST)], 40)

    about = judge_similar(few, table, table.gather)

    assert (about["similar"], about["models"], about["tried"]) == (usual_rule(None).to_json(), {}, [])
