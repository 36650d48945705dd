"""What diversity does to the lists of a bundle: the service's order, and figures worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.recommendation.diversity import MOST_DIVERSIFIED, Diversified
from tests.training.evaluation.shop import make_shop
from training.data.split import TEST
from training.evaluation.question import ask
from training.report import diversity
from training.report.diversity import VALUES, diversify, measure_diversity, similarity


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(1, 300), st.sampled_from(VALUES[1:]), st.integers(1, 40))
def test_order_is_that_of_the_service(seed: int, n_items: int, value: float, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n_items, 6)).astype(np.float32)
    scores = np.sort(rng.normal(size=n_items))[::-1]

    assert diversify(vectors, scores, value, k).tolist() == Diversified(vectors, scores, value).take(k).tolist()
    assert diversify(vectors, scores, 0.0, k).tolist() == list(range(min(k, n_items)))
    assert diversity.MOST_DIVERSIFIED == MOST_DIVERSIFIED


def test_similarity_is_the_mean_over_pairs() -> None:
    vectors = np.array([[2, 0], [0, 3], [1, 1]], dtype=np.float32)

    assert similarity(vectors) == pytest.approx((0 + 2 * 0.5**0.5) / 3)
    assert similarity(vectors[:1]) == 0


def test_table_has_a_row_of_each_value_and_the_first_is_the_plain_ranking() -> None:
    shop = make_shop()
    question = ask(shop, TEST)
    n_items = len(shop.items)
    vectors = np.random.default_rng(0).normal(size=(n_items, 4)).astype(np.float32)
    scores = np.linspace(1, 0, n_items, dtype=np.float32)

    rows = measure_diversity(question, lambda places, _: np.repeat(scores[None], len(places), axis=0), vectors, 5)

    assert [row["diversity"] for row in rows] == list(VALUES)
    histories = question.histories(np.arange(len(question.users)))
    expected, listed = [], set()
    for target, seen in zip(question.target, histories, strict=True):
        if len(seen):
            left = [row for row in range(n_items) if row not in seen or not question.exclude_seen][:10]
            expected.append(1 / np.log2(left.index(target) + 2) if target in left else 0.0)
            listed |= set(left)
    assert rows[0]["ndcg@10"] == pytest.approx(np.mean(expected))
    assert rows[0]["coverage"] == len(listed) / n_items
    assert rows[0]["requests"] == len(expected)
