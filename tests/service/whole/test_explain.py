"""Why an item is returned: every claim of an explanation is computed again by the running service."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.recommendation.explanation import MOST_EXPLORED, MOST_NAMED
from tests.service.running import Running
from tests.service.toy import N_ITEMS, described_items, toy_parts, write_toy, write_toy_sum

ITEMS = st.integers(0, N_ITEMS - 1).map(lambda row: f"i{row}")
N_LARGE = 3000


@pytest.fixture(scope="module", params=["taste", "sum", "approximate"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("explain")
    if request.param == "taste":
        write_toy(folder / "bundle", items=described_items())
    else:
        n_items = N_LARGE if request.param == "approximate" else N_ITEMS
        parts = toy_parts(n_items, as_of=4e9)  # counts do not fade between two requests
        write_toy_sum(folder / "bundle", n_items=n_items, parts=parts, items=described_items(n_items))
    index = "approximate" if request.param == "approximate" else "exact"
    with Running(folder / "bundle", folder / "data", index=index) as running:
        yield running


def ids(answer: Mapping[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def check_claims(service: Running, answer: Mapping[str, Any], history: list[str], asked: Mapping[str, Any]) -> None:
    """Compute every claim of an answer again: asked is the request, but for its history."""
    offset = asked.get("offset", 0)
    for item in answer["items"]:
        assert math.fsum(item["parts"].values()) == pytest.approx(item["score"], abs=1e-9)
        assert len(item["because"]) <= MOST_NAMED
        shares = [cause["share"] for cause in item["because"]]
        assert shares == sorted(shares, reverse=True) and sum(shares) <= 1.0002
    claims = {cause["item_id"]: cause["without"]["items"] for item in answer["items"] for cause in item["because"]}
    for item_id, claimed in claims.items():
        rest = [each for each in history if each != item_id]
        again = service.recommend(
            **{**asked, "history": rest, "exclude": [*asked.get("exclude", ()), item_id], "explain": False}
        )
        assert ids(again) == claimed, item_id
    for item in answer["items"]:
        for cause in item["because"]:
            listed = cause["without"]["items"]
            rank = 1 + offset + listed.index(item["item_id"]) if item["item_id"] in listed else None
            assert cause["without"]["rank"] == rank


RULES = {
    "filter": st.sampled_from([{"brand": ["A", "B"]}, {"price": {"lt": 40}}]),
    "boost": st.just([{"if": {"tag": "new"}, "by": 2.5}]),
    "max_per": st.just([{"attribute": "brand", "n": 2}]),
    "diversity": st.just(0.4),
    "offset": st.just(3),
    "pin": st.builds(lambda item_id: [{"item_id": item_id, "position": 2}], ITEMS),
    "exclude": st.lists(ITEMS, max_size=3),
    "exclude_seen": st.booleans(),
    "candidates": st.lists(ITEMS, min_size=5, max_size=30),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(ITEMS, min_size=1, max_size=8),
    st.integers(1, 8),
    st.sets(st.sampled_from(sorted(RULES)), max_size=3).flatmap(
        lambda names: st.fixed_dictionaries({name: RULES[name] for name in names})
    ),
)
def test_every_claim_is_what_the_service_answers(
    service: Running, history: list[str], k: int, rules: dict[str, Any]
) -> None:
    asked = {**rules, "k": k, "budget_ms": 1000}

    answer = service.recommend(**asked, history=history, explain=True)

    assert "explanation" not in answer
    assert ids(answer) == ids(service.recommend(**asked, history=history))
    check_claims(service, answer, history, asked)


def test_stored_history_is_explained_as_the_same_history_inline(service: Running) -> None:
    history = ["i9", "i8", "i9", "i2", "i30", "i31"]
    service.send(*[{"user_id": "known", "item_id": i, "timestamp": 100 + t} for t, i in enumerate(history)])
    service.send({"user_id": "known", "item_id": "i40", "type": "dislike", "timestamp": 200})

    answer = service.recommend(user_id="known", k=5, explain=True, budget_ms=1000)
    cached = service.recommend(user_id="known", k=5, explain=True, budget_ms=1000)

    check_claims(service, answer, history, {"k": 5, "exclude": ["i40"], "budget_ms": 1000})
    assert [item["because"] for item in answer["items"]] == [item["because"] for item in cached["items"]]
    assert all(item["because"] for item in answer["items"][:1])


def test_only_the_newest_items_of_a_long_history_are_left_out(service: Running) -> None:
    history = [f"i{row}" for row in range(MOST_EXPLORED + 10)]

    answer = service.recommend(history=history, k=20, explain=True, budget_ms=1000)

    named = {cause["item_id"] for item in answer["items"] for cause in item["because"]}
    assert named <= set(history[-MOST_EXPLORED:])


def test_one_item_carried_everything(service: Running) -> None:
    answer = service.recommend(history=["i7", "i7"], k=3, explain=True, budget_ms=1000)

    for item in answer["items"]:
        (cause,) = item["because"]
        assert (cause["item_id"], cause["share"]) == ("i7", 1.0)
    stranger = service.recommend(history=[], exclude=["i7"], k=3)
    assert answer["items"][0]["because"][0]["without"]["items"] == ids(stranger)


def test_popular_items_have_parts_of_what_they_are_and_no_cause(service: Running) -> None:
    answer = service.recommend(history=[], k=3, explain=True)

    assert answer["explanation"] == {"left_out": "fallback"}
    for item in answer["items"]:
        assert "because" not in item
        (kind,) = [name for name, part in item["parts"].items() if part]
        assert kind in ("trend", "popularity") and item["parts"][kind] == item["score"]


def test_explanation_that_does_not_fit_is_left_out(service: Running) -> None:
    history = [f"i{row}" for row in range(20)]
    for _ in range(5):  # so that its cost is known
        service.recommend(history=history, k=20, explain=True, diversity=0.5, budget_ms=1000)
    before = service.metric("retort_deadline_exceeded_total", stage="explain")

    asked = {"history": history, "k": 20, "explain": True, "diversity": 0.5}
    answers = [service.recommend(**asked, budget_ms=budget) for budget in (1, 2, 3, 5)]

    for answer in answers:
        assert len(answer["items"]) == 20 and all("parts" in item for item in answer["items"])
        assert all("because" in item for item in answer["items"]) == ("explanation" not in answer)
        assert (answer["quality"]["level"] == "fallback") == (answer.get("explanation") == {"left_out": "fallback"})
    n_late = sum(answer.get("explanation") == {"left_out": "deadline"} for answer in answers)
    assert service.metric("retort_deadline_exceeded_total", stage="explain") == before + n_late


def test_explanations_are_timed_and_unexplained_answers_say_nothing_of_it(service: Running) -> None:
    before = service.metric("retort_stage_duration_seconds_count", stage="explain")

    answer = service.recommend(history=["i1", "i2"], explain=True, debug=True, budget_ms=1000)
    plain = service.recommend(history=["i1", "i2"], debug=True)

    assert answer["debug"]["stages_ms"]["explain"] > 0
    assert service.metric("retort_stage_duration_seconds_count", stage="explain") == before + 1
    assert "explain" not in plain["debug"]["stages_ms"]
    assert not {"parts", "because"} & set(plain["items"][0])
    assert [item["parts"] for item in answer["items"]] == plain["debug"]["parts"]
