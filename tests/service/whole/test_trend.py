"""The live trend of a running service: it follows what is sent, and little of it can be made up."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.bundle import Parts
from tests.service.running import ADMIN_KEY, Running, wait_for
from tests.service.toy import N_ITEMS, toy_parts, write_toy_sum

SHOP, STOLEN = "the-key-of-the-whole-shop", "another-key-that-was-stolen"


def parts(age_s: float = 0.0) -> Parts:
    """Counts as of a while ago: 7.5 events of the tenth item, and next to none of the later half."""
    made = toy_parts(as_of=time.time() - age_s)
    counts = 7.5 * (10 / np.arange(1, N_ITEMS + 1)) ** 0.7
    counts[N_ITEMS // 2 :] = 0
    return replace(made, counts=counts[None].astype(np.float32))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    bundle = write_toy_sum(tmp_path_factory.mktemp("bundle") / "sum", parts=parts())
    with Running(
        bundle.path, tmp_path_factory.mktemp("data"), api_keys=f"{SHOP},{STOLEN}", admin_key=ADMIN_KEY
    ) as running:
        running.client.headers["X-API-Key"] = SHOP
        crowd = [{"user_id": f"u{n}", "item_id": f"i{n % 30}", "event_id": f"{n}"} for n in range(300)]
        running.send(*crowd)
        wait_for(lambda: running.metric("retort_trend_mass", source="key_1") > 150)
        yield running


def listed(service: Running, **body) -> list[str]:
    """The ids of an answer of ten."""
    return [item["item_id"] for item in service.recommend(**{"k": 10, **body})["items"]]


def attack(service: Running, key: str, item: str, users: list[str], **fields) -> None:
    events = [{"user_id": user, "item_id": item, **fields} for user in users]
    sent = httpx.post(f"{service.url}/events", json={"events": events}, headers={"X-API-Key": key}, trust_env=False)
    assert sent.json()["accepted"] == len(events)


def trend_of(service: Running, item: str) -> float:
    """The count of an item."""
    answer = service.recommend(user_id="a stranger", candidates=[item], k=1, debug=True)
    assert answer["debug"]["parts"][0]["trend"] == answer["items"][0]["score"]
    return float(np.exp(answer["items"][0]["score"]) - 0.05)


def test_what_many_choose_is_shown_to_strangers_within_seconds(service: Running) -> None:
    users = [f"fan{n}" for n in range(900)]
    before = listed(service, user_id="a stranger")

    attack(service, SHOP, "i40", users)

    wait_for(lambda: trend_of(service, "i40") > 25)
    assert "i40" not in before
    assert "i40" in listed(service, user_id="a stranger", k=5)
    quality = service.recommend(user_id="a stranger")["quality"]
    assert quality == {"level": "fallback", "reasons": ["cold_user"]}


@pytest.mark.parametrize(
    ("key", "item", "most"), [(SHOP, "i50", 3.3), (STOLEN, "i51", 1.2)], ids=["own key", "small key"]
)
def test_ten_made_up_events_do_not_reach_everybody(service: Running, key: str, item: str, most: float) -> None:
    before = [listed(service, user_id=f"u{n}") for n in range(30)]

    attack(service, key, item, [f"fake-{item}-{n}" for n in range(10)])

    wait_for(lambda: trend_of(service, item) > 0.9)
    attack(service, SHOP, "i1", [f"marker-{item}"])  # whoever has counted this has counted the attack
    seen = trend_of(service, "i1")
    wait_for(lambda: trend_of(service, "i1") >= seen)
    assert trend_of(service, item) < most
    assert item not in listed(service, user_id="a stranger")
    after = [listed(service, user_id=f"u{n}") for n in range(30)]
    gained = sum(item in new and item not in old for old, new in zip(before, after, strict=True))
    assert gained <= 10


def test_one_user_counts_once_whatever_times_the_events_claim(service: Running) -> None:
    now = time.time()
    events = [{"user_id": "one", "item_id": "i52", "timestamp": now - 0.001 * n} for n in range(200)]
    events += [{"user_id": "one", "item_id": "i52", "timestamp": now + n} for n in range(200)]

    service.send(*events)

    wait_for(lambda: trend_of(service, "i52") > 0.5)
    assert trend_of(service, "i52") < 2.1


def test_parts_of_every_score_add_up(service: Running) -> None:
    service.send(*({"user_id": "known", "item_id": f"i{row}"} for row in (3, 5, 3)))

    answer = service.recommend(user_id="known", debug=True, k=60)

    assert answer["quality"]["level"] == "full"
    for item, each in zip(answer["items"], answer["debug"]["parts"], strict=True):
        assert each["taste"] + each["neighbours"] + each["trend"] == pytest.approx(item["score"], abs=1e-12)
    assert any(each["neighbours"] for each in answer["debug"]["parts"])


def test_time_since_the_last_event_weighs_the_parts(service: Running) -> None:
    day = 86_400
    for user, at in (("late", time.time() - 300 * day), ("now", time.time())):
        service.send({"user_id": user, "item_id": "i9", "timestamp": at})

    trends = []
    for user in ("late", "now"):
        for _ in range(2):  # from the history, and from the record
            answer = service.recommend(user_id=user, candidates=["i0"], debug=True)
            trends.append(answer["debug"]["parts"][0]["trend"])

    late, again, fresh, fresh_again = trends
    assert late == pytest.approx(again, abs=0.01)
    assert fresh == pytest.approx(fresh_again, abs=0.05)
    assert late > 3 * fresh


def test_masses_are_told_by_source(service: Running) -> None:
    attack(service, STOLEN, "i0", ["u1", "u2"])

    wait_for(lambda: service.metric("retort_trend_mass", source="key_2") > 0.5)

    assert service.metric("retort_trend_mass", source="bundle") == pytest.approx(float(parts().counts.sum()), rel=0.1)
    assert service.metric("retort_trend_mass", source="anonymous") == 0
    assert 0 <= service.metric("retort_trend_age_seconds") < 60


def test_without_a_store_old_counts_are_told(tmp_path: Path) -> None:
    bundle = write_toy_sum(tmp_path / "bundle", parts=parts(age_s=7 * 3600))

    with Running(bundle.path, tmp_path / "data", redis_url=f"unix://{tmp_path}/nowhere.sock") as running:
        answer = running.recommend(history=["i1"])
        stranger = running.recommend(history=[])

        assert answer["quality"] == {"level": "full", "reasons": ["stale_trend"]}
        assert stranger["quality"]["reasons"] == ["cold_user", "stale_trend"]
        assert running.metric("retort_trend_age_seconds") > 6 * 3600


def test_factor_of_the_trend_is_told_in_the_parts_and_explained(service: Running) -> None:
    asked = {"history": ["i3", "i7"], "k": 60, "exclude_seen": False, "explain": True}
    plain, without, twice = (service.recommend(**asked, **more) for more in ({}, {"trend": 0}, {"trend": 2.0}))

    parts = [{item["item_id"]: item["parts"] for item in answer["items"]} for answer in (plain, without, twice)]
    for item_id, whole in parts[0].items():
        assert parts[1][item_id]["trend"] == 0.0
        assert parts[2][item_id]["trend"] == pytest.approx(2 * whole["trend"], abs=2e-2)  # it moves meanwhile
        for name in ("taste", "neighbours"):
            assert parts[1][item_id][name] == pytest.approx(whole[name], abs=1e-4)
    for answer in (plain, without, twice):
        for item in answer["items"]:
            assert sum(item["parts"].values()) == pytest.approx(item["score"], abs=1e-9)
            for cause in item["because"]:
                rest = [each for each in asked["history"] if each != cause["item_id"]]
                assert len(cause["without"]["items"]) == 59 and rest
    assert listed(service, **asked | {"k": 10, "trend": 1}) == listed(service, **asked | {"k": 10})


def test_strangers_get_the_trend_whatever_its_factor(service: Running) -> None:
    plain, without = (service.recommend(user_id="a stranger", **more) for more in ({}, {"trend": 0}))

    assert [item["item_id"] for item in without["items"]] == [item["item_id"] for item in plain["items"]]
    assert without["items"][0]["score"] == pytest.approx(plain["items"][0]["score"], abs=1e-2)
    assert without["quality"] == plain["quality"]


@pytest.mark.parametrize("trend", [-0.1, 10.1, True, "1", None, [1]])
def test_wrong_factor_is_named(service: Running, trend: object) -> None:
    answer = service.client.post("/recommend", json={"user_id": "u", "trend": trend})

    assert (answer.status_code, answer.json()["error"]["details"][0]["field"]) == (422, "trend")


def test_items_that_go_with_others_take_the_factor_too(service: Running) -> None:
    bundle_says = service.similar(item_id="i3", k=60, debug=True)
    without = service.similar(item_id="i3", k=60, debug=True, trend=0)

    assert any(part["trend"] for part in bundle_says["debug"]["parts"])
    assert not any(part["trend"] for part in without["debug"]["parts"])


def test_a_scenario_says_the_factor_where_the_scores_have_a_trend(service: Running, shared_service: Running) -> None:
    admin = {"X-API-Key": ADMIN_KEY}
    assert service.client.put("/scenarios/calm", json={"trend": 0}, headers=admin).status_code == 200
    asked = {"history": ["i3", "i7"], "k": 60, "debug": True}

    calm, loud = service.recommend(**asked, scenario="calm"), service.recommend(**asked, scenario="calm", trend=1)

    assert not any(part["trend"] for part in calm["debug"]["parts"])
    assert any(part["trend"] for part in loud["debug"]["parts"])
    refused = shared_service.client.post("/recommend", json={"history": ["i1"], "trend": 0.5})
    assert refused.status_code == 422
    assert refused.json()["error"]["message"] == "trend: the scores of the model that answers have no trend"
    assert shared_service.recommend(history=["i1"], trend=1.0)["quality"]["level"] == "full"
