"""What a request asks of its list, against a plain slow way to make the list out of all scores."""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.bundle import Bundle
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.model.student import Student
from service.recommendation.budget import Budget
from service.recommendation.diversity import MOST_DIVERSIFIED, Diversified
from service.recommendation.job import Answer, Found, Job, Query, Taste
from service.recommendation.ranker import Ranker
from service.recommendation.rule import Cap, Rules
from service.search.choice import open_search
from tests.service.toy import MAX_HISTORY, exact_scores, quantised, write_toy, write_toy_sum

N_ITEMS = 300
ALWAYS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
ROWS = st.integers(0, N_ITEMS - 1)


class Nobody:
    is_gone = False


def many_valued(seed: int) -> list[list[int]]:
    """The values of each item of an attribute: none, one or two of seven."""
    rng = np.random.default_rng(seed)
    return [sorted(set(rng.integers(0, 7, size=rng.integers(0, 3)).tolist())) for _ in range(N_ITEMS)]


def cap_of(values: Sequence[Sequence[int]], n: int) -> Cap:
    codes = np.array([value for each in values for value in each], dtype=np.int32)
    starts = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return Cap(codes, starts, 7, n)


@pytest.fixture(scope="module", params=["float32", "int8", "sum", "approximate"])
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ranker, Catalogue, Bundle]:
    path = tmp_path_factory.mktemp("rule") / "bundle"
    bundle = (write_toy_sum if request.param == "sum" else write_toy)(path, n_items=N_ITEMS)
    if request.param == "int8":
        bundle = replace(bundle, table=quantised(bundle.table))
    student = Student(bundle)
    search = None
    if request.param == "approximate":
        codes = Path(tmp_path_factory.mktemp("codes"))
        search = open_search(bundle, student.encode, kind="approximate", directory=codes, warn=print)
        search.measured = replace(search.measured, depths=(N_ITEMS, N_ITEMS))
        search.measured.codes.share = 1.0  # all are looked at, so that the answer is the exact one
    catalogue = Catalogue(bundle, search)
    return Ranker(student, catalogue, Metrics("0"), max_history=MAX_HISTORY), catalogue, bundle


def ask(ranker: Ranker, rules: Rules | None, seen: Sequence[int], **fields) -> Answer:
    """The answer for a user who has seen some rows. fields: of the query and the job."""
    now = time.monotonic()
    of_job = {name: fields.pop(name) for name in ("candidates", "excluded") if name in fields}
    query = Query(
        "u", fields.pop("k", 5), None, (), True, None, Nobody(), Budget(now, now + 60, now + 60), rules=rules, **fields
    )
    rows = of_job.get("candidates")
    taste = Taste(np.array(seen, dtype=np.int32))
    with closing(asyncio.new_event_loop()) as loop:
        job = Job(query, loop.create_future(), taste, rows, of_job.get("excluded", ()), (), mask=query.mask)
        if rules is not None:
            job.boost = rules.total_boost(N_ITEMS)
            job.placed = {position: int(item_id[1:]) for position, item_id in rules.pins.items()}
        (ranking,) = ranker.rank([Found(job, taste)])
    return ranking.answer


def slow_diversity(rows: list[int], scores: list[float], vectors: np.ndarray, diversity: float) -> list[int]:
    """The first 40 by maximal marginal relevance, one number at a time."""
    spread = scores[0] - scores[-1]
    relevance = [(score - scores[-1]) / spread if spread else 1.0 for score in scores]
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    left, chosen = list(range(len(rows))), []
    while left and len(chosen) < 40:
        nearest = [max([0.0, *(float(units[place] @ units[other]) for other in chosen)]) for place in left]
        values = [
            (1 - diversity) * relevance[place] - diversity * near for place, near in zip(left, nearest, strict=True)
        ]
        best = int(np.argmax(values))
        chosen.append(left.pop(best))
    return [rows[place] for place in chosen]


def slow_list(rows: list[int], rules: Rules, values: Sequence[Sequence[Sequence[int]]], n: int) -> list[int | None]:
    """The positions 1 to n of a list of rows, best first; None where nothing stands. values: for each cap."""
    placed = {position: int(item_id[1:]) for position, item_id in rules.pins.items()}
    rows = [row for row in rows if row not in placed.values()]
    counts = [{} for _ in rules.caps]
    for row in placed.values():
        for count, of_item in zip(counts, values, strict=True):
            for value in of_item[row]:
                count[value] = count.get(value, 0) + 1
    kept = []
    for row in rows:
        each = list(zip(rules.caps, counts, values, strict=True))
        if all(count.get(value, 0) < cap.n for cap, count, of_item in each for value in of_item[row]):
            kept.append(row)
            for _, count, of_item in each:
                for value in of_item[row]:
                    count[value] = count.get(value, 0) + 1
    return [placed[place] if place in placed else (kept.pop(0) if kept else None) for place in range(1, n + 1)]


SHARES, FACTORS = st.sampled_from([0.02, 0.5, 0.9]), st.sampled_from([0.2, 1.5, 9.0])
RULES = st.fixed_dictionaries(
    {},
    optional={
        "offset": st.integers(0, N_ITEMS + 20),
        "boosts": st.lists(st.tuples(st.integers(0, 99), SHARES, FACTORS), max_size=3),
        "caps": st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60)), min_size=1, max_size=2),
        "filter": st.tuples(st.integers(0, 99), st.sampled_from([0.0, 0.03, 0.4, 1.0])),
        "pins": st.dictionaries(st.integers(1, 30), ROWS, max_size=4),
    },
)


@settings(max_examples=20, deadline=None, suppress_health_check=ALWAYS)
@given(
    RULES,
    st.lists(ROWS, max_size=8),
    st.sets(ROWS, max_size=9),
    st.none() | st.sets(ROWS, max_size=90),
    st.integers(1, 40),
)
def test_page_is_that_of_the_plain_slow_way(parts, asked, seen, excluded, candidates, k) -> None:
    ranker, catalogue, _ = parts
    listed = None if candidates is None else sorted(candidates)
    pins = {place: row for place, row in asked.get("pins", {}).items() if row not in excluded}
    pins = {place: row for place, row in pins.items() if listed is None or row in listed}
    seed, share = asked.get("filter", (0, 1.0))
    mask = np.random.default_rng(seed).random(N_ITEMS) < share if "filter" in asked else None
    if mask is not None:
        listed = None if listed is None else [row for row in listed if mask[row]]
        pins = {place: row for place, row in pins.items() if mask[row]}
    pins = {place: f"i{row}" for row, place in {row: place for place, row in pins.items()}.items()}
    masks = [np.random.default_rng(seed).random(N_ITEMS) < share for seed, share, _ in asked.get("boosts", ())]
    boosts = [(raised, math.log(by)) for raised, (*_, by) in zip(masks, asked.get("boosts", ()), strict=True)]
    values = [many_valued(seed) for seed, _ in asked.get("caps", ())]
    caps = [cap_of(of_item, n) for of_item, (_, n) in zip(values, asked.get("caps", ()), strict=True)]
    rules = Rules(offset=asked.get("offset", 0), boosts=boosts, caps=caps, pins=pins)
    common = {"k": k, "excluded": sorted(excluded), "candidates": listed, "is_debug": True, "mask": mask}

    answer = ask(ranker, rules, seen, **common)

    plain = ask(ranker, None, seen, **{**common, "k": N_ITEMS, "excluded": (), "candidates": None, "mask": None})
    scores = dict(zip(plain.ranked[0], plain.ranked[1].astype(np.float64), strict=True))
    scores |= dict(zip(seen, known_scores(ranker, seen), strict=True))
    for raised, added in boosts:
        scores = {row: score + added * bool(raised[row]) for row, score in scores.items()}
    let_through = [row for row in (range(N_ITEMS) if listed is None else listed) if mask is None or mask[row]]
    allowed = [row for row in let_through if row not in excluded | set(seen)]
    order = sorted(allowed, key=lambda row: (-scores[row], row if seen else catalogue.popular.places[row]))
    whole = slow_list(order, rules, values, N_ITEMS + 100)
    expected = [row for row in whole[rules.offset : rules.offset + k] if row is not None]
    assert list(answer.ranked[0]) == expected
    np.testing.assert_allclose(answer.ranked[1], [scores[row] for row in expected], rtol=1e-5, atol=1e-5)
    assert ("not_enough_items" in answer.reasons) == (len(expected) < k)
    assert answer.funnel == {
        "catalogue": N_ITEMS,
        "filter": len(let_through),
        "seen": len(allowed),
        "rules": sum(row is not None for row in whole) + sum(place > len(whole) for place in pins),
        "returned": len(expected),
        "history": min(len(seen), MAX_HISTORY),
    }
    for score, each in zip(answer.ranked[1], answer.parts, strict=not (boosts == [] and not answer.parts)):
        assert math.isclose(sum(each.values()), float(str(score)), abs_tol=1e-9)


def known_scores(ranker: Ranker, seen: Sequence[int]) -> list[float]:
    """The scores of what the user has seen: no list shows them unless they are pinned."""
    if not seen:
        return []
    answer = ask(ranker, Rules(pins={place: f"i{row}" for place, row in enumerate(dict.fromkeys(seen), 1)}), seen, k=8)
    found = dict(zip(answer.ranked[0], answer.ranked[1].astype(np.float64), strict=True))
    return [found[row] for row in seen]


@pytest.mark.parametrize("diversity", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("seen", [[], [3, 4, 5]])
def test_diversity_is_that_of_the_formula_and_pages_share_nothing(parts, diversity, seen) -> None:
    ranker, catalogue, _ = parts
    plain = ask(ranker, None, seen, k=N_ITEMS)
    rows, scores = list(plain.ranked[0]), plain.ranked[1].tolist()
    expected = slow_diversity(rows, scores, catalogue.vectors(rows), diversity)
    values = many_valued(1)
    capped = Rules(diversity=diversity, caps=[cap_of(values, 3)])

    pages = [ask(ranker, Rules(diversity=diversity, offset=first), seen, k=20) for first in (0, 20, 40, 60)]

    assert [row for page in pages for row in page.ranked[0]][:40] == expected
    assert len({row for page in pages for row in page.ranked[0]}) == 80
    of_row = dict(zip(rows, scores, strict=True))
    assert [of_row[row] for row in pages[1].ranked[0]] == pytest.approx(pages[1].ranked[1].tolist())
    shown = ask(ranker, capped, seen, k=12).ranked[0]
    assert list(shown) == [row for row in slow_list(expected, capped, [values], 12) if row is not None]


def test_no_diversity_is_bit_identical_to_no_rules(parts) -> None:
    ranker, *_ = parts
    plain, ruled = ask(ranker, None, [1, 2], k=9), ask(ranker, Rules(diversity=0.0), [1, 2], k=9)

    assert list(plain.ranked[0]) == list(ruled.ranked[0])
    assert plain.ranked[1].tobytes() == ruled.ranked[1].tobytes()


def test_order_after_the_best_thousand_is_that_of_the_scores() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(MOST_DIVERSIFIED, 24)).astype(np.float32)
    scores = np.sort(rng.normal(size=MOST_DIVERSIFIED))[::-1]

    few, all_at_once = Diversified(vectors, scores, 0.3), Diversified(vectors, scores, 0.3)
    taken = [row for n in (1, 9, 90, 2000, 5) for row in few.take(n).tolist()]

    assert taken == all_at_once.take(MOST_DIVERSIFIED).tolist()
    assert sorted(taken) == list(range(MOST_DIVERSIFIED))


def test_short_answer_says_where_the_items_went_without_being_asked(parts) -> None:
    ranker, *_ = parts
    few = [[0]] * N_ITEMS

    answer = ask(ranker, Rules(caps=[cap_of(few, 2)]), [1, 2, 3], k=5, excluded=[9])

    assert answer.reasons[-1] == "not_enough_items"
    assert answer.funnel == {"catalogue": N_ITEMS, "filter": N_ITEMS, "seen": N_ITEMS - 4, "rules": 2, "returned": 2}
    assert not answer.parts


def test_plain_neighbours_in_a_batch_stay_as_they_are(parts) -> None:
    ranker, catalogue, bundle = parts
    if catalogue.parts is not None:
        pytest.skip("its scores depend on the time")
    scores = exact_scores(bundle.table, [1, 2])
    mask = np.zeros(N_ITEMS, dtype=np.bool_)
    mask[7] = True

    boosted = ask(ranker, Rules(boosts=[(mask, 50.0)]), [1, 2], k=3)

    assert boosted.ranked[0][0] == 7
    assert boosted.ranked[1][0] == pytest.approx(scores[7] + 50.0, abs=0.05)
