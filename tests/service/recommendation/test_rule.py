"""Re-ranking rules: applied to every list after scoring, and before it is cut to k."""

import asyncio
import time

import numpy as np
import pytest

from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.model.student import Student
from service.recommendation.budget import BudgetRule
from service.recommendation.job import Found, Job, Query, Taste
from service.recommendation.ranker import Ranker
from service.recommendation.rule import apply_rules, depth_of
from service.search.protocol import Ranked
from tests.service.toy import MAX_HISTORY, write_toy

RULE = BudgetRule(default_s=10.0, store_share=0.5)


class Caller:
    """Waits for ever."""

    is_gone = False


class OneOfThree:
    """Of rows that are alike modulo 3 only the best is shown first; the others follow."""

    def depth(self, query: Query) -> int:
        """As Rule says."""
        return 2 * query.k

    def apply(self, query: Query, ranked: Ranked) -> Ranked:
        """As Rule says."""
        seen: set[int] = set()
        rows, scores = ranked
        first = [place for place, row in enumerate(rows) if row % 3 not in seen and not seen.add(row % 3)]  # type: ignore[func-returns-value]
        order = [*first, *(place for place in range(len(rows)) if place not in first)]
        return [rows[place] for place in order], np.asarray(scores)[order]


class DropsOdd:
    """Shows even rows alone."""

    def depth(self, query: Query) -> int:
        """As Rule says."""
        return 60

    def apply(self, query: Query, ranked: Ranked) -> Ranked:
        """As Rule says."""
        kept = [place for place, row in enumerate(ranked[0]) if row % 2 == 0]
        return [ranked[0][place] for place in kept], np.asarray(ranked[1])[kept]


def query(k: int, candidates: list[str] | None = None) -> Query:
    return Query("u", k, None, (), True, candidates, Caller(), RULE.start(time.monotonic(), None), is_debug=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Student, Catalogue]:
    bundle = write_toy(tmp_path_factory.mktemp("rule") / "bundle")
    return Student(bundle), Catalogue(bundle)


async def rank(model: tuple[Student, Catalogue], rules: list, seen: list[int], k: int, rows: list[int] | None = None):
    ranker = Ranker(*model, Metrics("0"), max_history=MAX_HISTORY, rules=rules)
    job = Job(query(k), asyncio.get_running_loop().create_future(), None, rows, (), ())
    (ranking,) = ranker.rank([Found(job, Taste(np.array(seen, dtype=np.int32)))])
    return ranking.answer


async def test_rule_changes_the_order_and_k_items_are_left(model: tuple[Student, Catalogue]) -> None:
    plain, ruled = await rank(model, [], [1, 2], 6), await rank(model, [OneOfThree()], [1, 2], 6)

    assert len(ruled.ranked[0]) == 6
    assert {row % 3 for row in ruled.ranked[0][:3]} == {0, 1, 2}
    assert ruled.ranked[0][0] == plain.ranked[0][0]
    assert ruled.level == "full"
    assert not ruled.reasons


async def test_rules_are_applied_in_their_order_to_popular_items_and_to_candidates_too(
    model: tuple[Student, Catalogue],
) -> None:
    cold = await rank(model, [DropsOdd(), OneOfThree()], [], 5)
    chosen = await rank(model, [DropsOdd()], [1, 2], 5, rows=[3, 4, 6, 7])

    assert cold.reasons == ["cold_user"]
    assert list(cold.ranked[0]) == [0, 2, 4, 6, 8]
    assert set(chosen.ranked[0]) == {4, 6}
    assert chosen.reasons == ["not_enough_items"]
    assert chosen.funnel["returned"] == 2


async def test_scores_stay_those_of_their_rows(model: tuple[Student, Catalogue]) -> None:
    plain, ruled = await rank(model, [], [1, 2], 58), await rank(model, [OneOfThree()], [1, 2], 10)

    of_row = dict(zip(plain.ranked[0], plain.ranked[1].tolist(), strict=True))
    assert [of_row[row] for row in ruled.ranked[0]] == ruled.ranked[1].tolist()


def test_without_rules_no_more_than_k_are_ranked() -> None:
    ranked = ([3, 1, 2], np.array([3.0, 2.0, 1.0]))

    assert depth_of((), query(2)) == 2
    assert depth_of([OneOfThree(), DropsOdd()], query(2)) == 60
    assert list(apply_rules((), query(2), ranked)[0]) == [3, 1]
