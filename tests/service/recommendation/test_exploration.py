"""An explored list is the plain one but for one place of its lower half, which a new item has that may be shown."""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.catalogue.live_item import LiveItem
from service.experiment.answer_id import new_answer_id
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.model.item_encoder import ItemEncoder
from service.model.student import Student
from service.recommendation.budget import Budget
from service.recommendation.exploration import Explored
from service.recommendation.job import Answer, Found, Query, make_job
from service.recommendation.ranker import Ranker
from service.recommendation.rule import Cap, Rules
from service.search.choice import open_search
from tests.service.toy import DIM, MAX_HISTORY, described_items, toy_encoding, write_toy, write_toy_sum

N, N_LIVE, NOW = 300, 40, 1_800_000_000.0
ALWAYS = [HealthCheck.function_scoped_fixture]
ROWS = st.integers(0, N + N_LIVE - 1)


class Nobody:
    is_gone = False


def live_items(version: str) -> dict[str, LiveItem]:
    """New items of every origin; the last two are withdrawn and expired."""
    rng = np.random.default_rng(4)
    made: list[dict[str, Any]] = [{"title": "title 3"}, {"like": ["i7"]}, {"attributes": {"brand": ["A"]}}, {}]
    records = {
        f"n{n}": LiveItem(NOW, "put", made[n % 5] if n % 5 < 4 else {"vectors": rng.normal(size=DIM).tolist()}, version)
        for n in range(N_LIVE)
    }
    records[f"n{N_LIVE - 2}"] = LiveItem(NOW, "put", {"expires_at": NOW - 1})
    return records


@pytest.fixture(scope="module", params=["exact", "approximate", "sum"])
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ranker, Catalogue]:
    folder = tmp_path_factory.mktemp("explored")
    items = described_items(N)
    if request.param == "sum":
        bundle = write_toy_sum(folder / "bundle", n_items=N, items=items)
    else:
        bundle = write_toy(folder / "bundle", n_items=N, items=items, encoding=toy_encoding())
    student = Student(bundle)
    kind = "approximate" if request.param == "approximate" else "exact"
    search = open_search(bundle, student.encode, kind=kind, directory=folder, warn=lambda text: None)
    catalogue = Catalogue(bundle, search)
    student.gather_from(catalogue.table)
    if bundle.table.encoding is not None:
        catalogue.use_encoder(ItemEncoder(bundle))
    catalogue.take_live(live_items(bundle.manifest.version), NOW)
    catalogue.take_live({f"n{N_LIVE - 1}": LiveItem(NOW, "gone", {})}, NOW)
    return Ranker(student, catalogue, Metrics("0"), max_history=MAX_HISTORY), catalogue


def make_query(catalogue: Catalogue, history: Sequence[int], **fields: Any) -> Query:
    ids, now = catalogue.item_ids, time.monotonic()
    excluded, rows = [ids[row] for row in fields.pop("exclude", ())], fields.pop("candidates", None)
    listed = None if rows is None else [ids[row] for row in sorted(rows)]
    return Query(
        None, fields.pop("k", 10), [ids[row] for row in history], excluded, True, listed, Nobody(),
        Budget(now, now + 60, now + 60), recommendation_id=new_answer_id("0" * 64), **fields,
    )  # fmt: skip


def answer_of(ranker: Ranker, catalogue: Catalogue, query: Query) -> Answer:
    with closing(asyncio.new_event_loop()) as loop:
        job = make_job(query, catalogue, loop.create_future())
        assert job.taste is not None
        (ranking,) = ranker.rank([Found(job, job.taste)])
    return ranking.answer


def caps_of(catalogue: Catalogue, n: int) -> list[Cap]:
    """At most n items of one of five values, and of none where the row says so."""
    rows = np.arange(len(catalogue))
    values = [[row % 5] if row % 3 else [] for row in rows.tolist()]
    starts = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return [Cap(np.array([each for own in values for each in own], dtype=np.int32), starts, 5, n)]


ASKED = st.fixed_dictionaries(
    {"history": st.lists(ROWS, max_size=5), "k": st.integers(1, 12), "exclude": st.lists(ROWS, max_size=6)},
    optional={
        "candidates": st.sets(ROWS, min_size=1, max_size=200),
        "filter": st.tuples(st.integers(0, 99), st.sampled_from([0.05, 0.5, 1.0])),
        "boosts": st.sampled_from([0.2, 5.0]),
        "cap": st.integers(1, 4),
        "diversity": st.sampled_from([0.1, 0.7]),
        "pins": st.dictionaries(st.integers(1, 15), ROWS, max_size=4),
    },
)


def asked_of(catalogue: Catalogue, asked: dict[str, Any]) -> Query:
    """A query of what hypothesis chose."""
    rng = np.random.default_rng(asked.get("filter", (0, 1.0))[0])
    mask = rng.random(len(catalogue)) < asked["filter"][1] if "filter" in asked else None
    pinned = {row: place for place, row in asked.get("pins", {}).items()}
    rules = Rules(
        boosts=[(rng.random(len(catalogue)) < 0.3, math.log(asked["boosts"]))] if "boosts" in asked else [],
        caps=caps_of(catalogue, asked["cap"]) if "cap" in asked else [],
        diversity=asked.get("diversity", 0.0),
        pins={place: catalogue.item_ids[row] for row, place in pinned.items()},
    )
    is_plain = not (rules.boosts or rules.caps or rules.diversity or rules.pins)
    fields = {name: asked[name] for name in ("k", "exclude", "candidates") if name in asked}
    return make_query(catalogue, asked["history"], mask=mask, rules=None if is_plain else rules, **fields)


@settings(max_examples=25, deadline=None, suppress_health_check=ALWAYS)
@given(ASKED, st.integers(0, 1 << 32))
def test_only_one_place_of_the_lower_half_changes_and_what_it_gets_may_be_shown(parts, asked, seed) -> None:
    ranker, catalogue = parts
    query = asked_of(catalogue, asked)
    plain = answer_of(ranker, catalogue, query)
    explored = answer_of(ranker, catalogue, replace(query, explore=(seed, 0)))
    again = answer_of(ranker, catalogue, replace(query, explore=(seed, 0)))

    assert [*again.ranked[0]] == [*explored.ranked[0]]
    assert again.ranked[1].tobytes() == explored.ranked[1].tobytes()
    rows, place = [*explored.ranked[0]], explored.explored
    if place is None:
        assert rows == [*plain.ranked[0]]
        return
    row = rows[place]
    others = [*rows[:place], *rows[place + 1 :]]
    assert others == [*plain.ranked[0][:place], *plain.ranked[0][place + 1 :]]
    np.testing.assert_array_equal(np.delete(explored.ranked[1], place), np.delete(plain.ranked[1], place))
    assert len(rows) == query.k == len(set(rows))
    assert place >= (query.k + 1) // 2
    assert row >= catalogue.n_made
    assert row not in catalogue.live.withdrawn
    assert row not in {*asked["history"], *asked["exclude"], *asked.get("pins", {}).values()}
    assert query.mask is None or query.mask[row]
    assert row in asked.get("candidates", {row})
    assert place + 1 not in asked.get("pins", {}) or rows[place] != asked["pins"][place + 1]
    if "cap" in asked and row % 3:
        assert sum(other % 5 == row % 5 and other % 3 > 0 for other in others) < asked["cap"]
    alone = answer_of(ranker, catalogue, replace(query, k=1, candidates=[catalogue.item_ids[row]], mask=None, rules=
                      replace(query.rules, pins={}, caps=[]) if query.rules else None))  # fmt: skip
    assert explored.ranked[1][place] == pytest.approx(alone.ranked[1][0], abs=1e-4)


def test_list_is_explored_wherever_an_item_can_be_shown(parts) -> None:
    ranker, catalogue = parts
    for history in ([], [1, 2, 3]):
        shown = [answer_of(ranker, catalogue, make_query(catalogue, history, explore=(seed, 0))) for seed in range(40)]

        assert all(answer.explored in range(5, 10) for answer in shown)
        assert len({answer.explored for answer in shown}) == 5
        assert len({answer.ranked[0][answer.explored] for answer in shown}) > (1 if history else 5)

    assert answer_of(ranker, catalogue, make_query(catalogue, [1], k=1, explore=(1, 0))).explored is None
    only = make_query(catalogue, [1], k=2, candidates=[1, 2, 3, 4, N + 5, N + N_LIVE - 1], explore=(1, 0))
    found = answer_of(ranker, catalogue, only)
    assert found.explored is None or found.ranked[0][1] == N + 5


def test_share_of_lists_that_are_marked_is_within_its_bounds(parts) -> None:
    _, catalogue = parts
    for share in (0.0, 0.03, 0.5, 1.0):
        n = 1500
        marked = 0
        for _ in range(n):
            query = make_query(catalogue, [1])
            Explored(share).mark(query, catalogue)
            marked += bool(query.explore)

        assert abs(marked - n * share) <= 4.5 * math.sqrt(n * share * (1 - share))


def test_further_pages_are_not_explored_and_slots_of_a_page_are_drawn_apart(parts) -> None:
    _, catalogue = parts
    deep = make_query(catalogue, [1], rules=Rules(offset=10))
    Explored(1.0).mark(deep, catalogue)
    slots = []
    for _ in range(400):
        query = make_query(catalogue, [1])
        pair = replace(query), replace(query)
        for number, each in enumerate(pair):
            Explored(0.5).mark(each, catalogue, number)
        slots.append(tuple(bool(each.explore) for each in pair))

    assert not deep.explore
    assert len(set(slots)) == 4


def test_sure_item_of_a_high_score_is_drawn_more_often_than_one_of_a_low(parts) -> None:
    ranker, catalogue = parts
    history = [1, 2, 3]
    sure = [row for row in range(N, N + N_LIVE) if catalogue.origin(row) == ["vectors"]]
    assert catalogue.certainties(np.array(sure)).tolist() == [1.0] * len(sure)
    ranked = answer_of(ranker, catalogue, make_query(catalogue, history, k=len(sure), candidates=sure)).ranked[0]
    query = make_query(catalogue, history, k=4, candidates=[*range(N), *ranked])
    hidden = [row for row in ranked if row not in answer_of(ranker, catalogue, query).ranked[0]]

    drawn = [answer_of(ranker, catalogue, replace(query, explore=(seed, 0))) for seed in range(60)]

    rows = [answer.ranked[0][answer.explored] for answer in drawn if answer.explored is not None]
    assert rows.count(hidden[0]) > len(rows) / 4 > rows.count(hidden[-1])
