"""Scenarios: put in one service and used in every one that shares its store, from a file without one, after a swap."""

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.store.embedded import socket_path
from tests.service.running import ADMIN_KEY, SWAP_S, Running, run_command, wait_for
from tests.service.toy import described_items, write_toy

HOME = {"k": 3, "filter": {"brand": ["A"]}, "boost": [{"if": {"tag": "new"}, "by": 2.0}], "exclude": ["i9"]}


def branded(*, has_brands: bool = True) -> list[Any]:
    """The toy items with texts alone, which any format of a bundle may hold."""
    items = [replace(item, numbers={}, booleans={}) for item in described_items()]
    if has_brands:
        return items
    return [replace(item, attributes={"tag": item.attributes["tag"]}) for item in items]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("branded") / "bundle", items=branded()).path


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(bundle, tmp_path_factory.mktemp("data")) as running:
        yield running


def items(answer: dict[str, Any]) -> list[tuple[str, float]]:
    return [(item["item_id"], item["score"]) for item in answer["items"]]


def put(service: Running, name: str, **fields: Any) -> None:
    response = service.client.put(f"/scenarios/{name}", json=fields)
    assert response.status_code == 200, response.text
    assert response.json() == {"name": name, "source": "store", "scenario": fields}


def ask(service: Running, **body: Any) -> tuple[int, dict[str, Any]]:
    """Ask over a new connection: any worker may take it."""
    connection = HTTPConnection(service.url.removeprefix("http://"), timeout=10)
    try:
        connection.request("POST", "/recommend", json.dumps(body), headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.mark.parametrize(
    "own",
    [
        {}, {"k": 2}, {"filter": {"brand": "B"}}, {"filter": None}, {"boost": []}, {"exclude": []}, {"offset": 4},
        {"diversity": 0.0}, {"pin": []}, {"max_per": []}, {"candidates": None}, {"exclude_seen": True},
        {"fields": ["tag"]}, {"budget_ms": 900, "k": 10.0},
    ],
)  # fmt: skip
def test_field_of_the_request_wins_and_the_others_are_as_if_written_in_it(service: Running, own: dict) -> None:
    scenario = {
        "k": 4, "filter": {"brand": ["A", "B"]}, "boost": [{"if": {"tag": "new"}, "by": 3.0}], "exclude": ["i9"],
        "diversity": 0.4, "pin": [{"item_id": "i3", "position": 2}], "max_per": [{"attribute": "brand", "n": 6}],
        "candidates": [f"i{row}" for row in range(50)], "exclude_seen": False, "fields": ["title"], "budget_ms": 1000,
    }  # fmt: skip
    put(service, "all", **scenario)

    named = service.recommend(history=["i1", "i2"], scenario="all", **own)
    inline = service.recommend(**{"history": ["i1", "i2"], **scenario, **own})

    assert named["items"] == inline["items"]
    assert named["quality"] == inline["quality"]
    assert len(named["items"]) > 0


def test_scenario_is_read_listed_replaced_and_deleted(service: Running) -> None:
    client = service.client
    slashed = client.put("/scenarios/a%2Fb%3F", json=HOME)
    again = client.put("/scenarios/a%2Fb%3F", json={"k": 7})
    listed = client.get("/scenarios").json()["scenarios"]
    read = client.get("/scenarios/a%2Fb%3F").json()
    used = service.recommend(history=["i1"], scenario="a/b?")
    deleted = client.delete("/scenarios/a%2Fb%3F")
    gone = [client.delete("/scenarios/a%2Fb%3F").status_code, client.get("/scenarios/a%2Fb%3F").status_code]

    assert (slashed.status_code, again.status_code) == (200, 200)
    assert {"name": "a/b?", "source": "store"} in listed
    assert listed == sorted(listed, key=lambda each: each["name"])
    assert read == {"name": "a/b?", "source": "store", "scenario": {"k": 7}}
    assert len(used["items"]) == 7
    assert deleted.json() == {"name": "a/b?", "falls_back": False}
    assert gone == [404, 404]
    assert service.client.post("/recommend", json={"history": [], "scenario": "a/b?"}).status_code == 422


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"filter": {"brnd": "A"}}, 'filter.brnd: the items have no attribute "brnd"; did you mean "brand"?'),
        ({"max_per": [{"attribute": "brnd", "n": 1}]}, "max_per.0.attribute"),
        ({"boost": [{"if": {"tags": "new"}, "by": 2}]}, "boost.0.if.tags"),
        ({"fields": ["titel"]}, "fields.0"),
        ({"k": 0}, "k: "),
        ({"user_id": "u"}, "user_id: "),
        ({"history": []}, "history: "),
        ({"offset": 1}, "offset: "),
        ({"debug": True}, "debug: "),
        ({"scenario": "home"}, "scenario: "),
        ({"diversity": 2}, "diversity: "),
        ({"pin": [{"item_id": "i1", "position": 1}] * 2}, "pin: "),
        ({"colour": 1}, "colour: "),
    ],
)
def test_scenario_is_checked_when_it_is_put(service: Running, fields: dict, message: str) -> None:
    response = service.client.put("/scenarios/bad", json=fields)

    assert response.status_code == 422
    assert response.json()["error"]["message"].startswith(message)
    assert service.client.get("/scenarios/bad").status_code == 404


def test_names_and_bodies_are_bounded(service: Running) -> None:
    client = service.client
    status = {
        path: client.put(f"/scenarios/{path}", json={}).status_code
        for path in ("x" * 64, "x" * 65, "", "%00", "%ff", "%C2%85")
    }
    large = client.put("/scenarios/large", json={"exclude": ["x" * 100] * 900})
    wrong = client.put("/scenarios/large", content=b"[]", headers={"Content-Type": "application/json"})

    assert status == {"x" * 64: 200, "x" * 65: 422, "": 422, "%00": 422, "%ff": 422, "%C2%85": 422}
    assert (large.status_code, wrong.status_code) == (413, 422)
    for name in ("x" * 65, "", "a\n", 5):
        assert client.post("/recommend", json={"history": [], "scenario": name}).status_code == 422


def test_unknown_scenario_names_the_nearest_and_page_and_offset_are_judged_together(service: Running) -> None:
    put(service, "landing", k=200)
    client, before = service.client, service.metric("retort_scenario_requests_total", result="unknown")

    unknown = client.post("/recommend", json={"history": [], "scenario": "lnding"}).json()["error"]
    far = client.post("/recommend", json={"history": [], "scenario": "landing", "offset": 801}).json()["error"]
    near = client.post("/recommend", json={"history": [], "scenario": "landing", "offset": 801, "k": 5})
    null = client.post("/recommend", json={"history": [], "scenario": None})
    unread = client.get("/scenarios/lnding").json()["error"]

    assert unread["message"] == 'there is no scenario "lnding"; did you mean "landing"?'
    assert unknown["message"] == 'scenario: there is no scenario "lnding"; did you mean "landing"?'
    assert far["details"][0]["field"] == "offset" and '"landing"' in far["message"]
    assert (near.status_code, null.status_code) == (200, 200)
    assert service.metric("retort_scenario_requests_total", result="unknown") == before + 1


def test_every_worker_and_service_of_a_store_sees_a_change_within_a_second(bundle: Path, tmp_path: Path) -> None:
    url = f"unix://{socket_path(tmp_path / 'a')}"
    with (
        Running(bundle, tmp_path / "a", "--workers", "2") as first,
        Running(bundle, tmp_path / "b", redis_url=url) as second,
    ):
        for k in (3, 5):
            put(first, "home", k=k)
            done = time.monotonic()
            for service in (first, second):
                wait_for(
                    lambda service=service, k=k: all(
                        status == 200 and len(answer["items"]) == k
                        for status, answer in (ask(service, history=["i1"], scenario="home") for _ in range(12))
                    ),
                )
            assert time.monotonic() - done < 3.0, "a second, and the asking"
        assert second.client.delete("/scenarios/home").status_code == 200
        wait_for(lambda: {ask(first, history=[], scenario="home")[0] for _ in range(12)} == {422})


def _done(response: httpx.Response) -> Any:
    return response.json() if response.status_code == 200 else None


def test_what_was_known_goes_on_without_the_store_and_a_file_needs_none(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "scenarios.toml"
    path.write_text('[home]\nk = 2\n[home.filter]\nbrand = ["A"]\n["my list"]\nk = 3\n')
    with Running(bundle, tmp_path / "data", scenarios=str(path)) as service:
        client = service.client
        put(service, "home", k=5)
        put(service, "kept", k=6)
        os.kill(service.store_pid(), signal.SIGSTOP)
        refused = client.put("/scenarios/late", json={"k": 1})
        found = {
            name: len(service.recommend(history=["i1"], scenario=name)["items"]) for name in ("home", "kept", "my list")
        }
        os.kill(service.store_pid(), signal.SIGCONT)
        deleted = wait_for(lambda: _done(client.delete("/scenarios/home")))
        back = client.get("/scenarios/home").json()
        undeletable = client.delete("/scenarios/home")

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    assert found == {"home": 5, "kept": 6, "my list": 3}
    assert back == {"name": "home", "source": "file", "scenario": {"k": 2, "filter": {"brand": ["A"]}}}
    assert deleted == {"name": "home", "falls_back": True}
    assert undeletable.status_code == 404
    assert "RETORT_SCENARIOS" in undeletable.json()["error"]["message"]


def test_attribute_that_a_swap_took_away_is_told_by_scenario_and_field(bundle: Path, tmp_path: Path) -> None:
    poorer = write_toy(tmp_path / "poorer", items=branded(has_brands=False))
    with Running(bundle, tmp_path / "data") as service:
        put(service, "home", **HOME)
        assert len(service.recommend(history=["i1"], scenario="home")["items"]) == 3
        done = run_command("publish", str(poorer.path), "--data-dir", str(tmp_path / "data"))
        assert done.returncode == 0, done.stderr
        wait_for(lambda: service.client.get("/model").json()["version"] == poorer.manifest.version, SWAP_S)
        refused = service.client.post("/recommend", json={"history": ["i1"], "scenario": "home"})
        own = service.recommend(history=["i1"], scenario="home", filter={"tag": "new"})
        faulty = service.client.post("/recommend", json={"history": [], "scenario": "home", "filter": {"brand": "A"}})
        counted = service.metric("retort_scenario_requests_total", result="misfit")

    message = '"home" does not fit the model that is served: filter.brand: the items have no attribute "brand"'
    assert refused.status_code == 422
    assert refused.json()["error"]["details"][0]["field"] == "scenario"
    assert message in refused.json()["error"]["message"]
    assert len(own["items"]) == 3
    assert faulty.json()["error"]["details"][0]["field"] == "filter.brand"
    assert counted == 1


def test_writing_needs_the_admin_key_or_a_key_that_names_the_scope(bundle: Path, tmp_path: Path) -> None:
    keys = {"api_keys": "a-key-for-everything,scenarios:a-key-for-scenarios,recommend:a-key-to-recommend"}
    names = ("a-key-for-everything", "a-key-for-scenarios", "a-key-to-recommend", ADMIN_KEY)
    with Running(bundle, tmp_path, admin_key=ADMIN_KEY, **keys) as service:
        found = {
            key: [
                service.client.request(method, path, json={}, headers={"X-API-Key": key}).status_code
                for method, path in (
                    ("PUT", "/scenarios/s"), ("GET", "/scenarios/s"), ("GET", "/scenarios"), ("DELETE", "/scenarios/s"),
                )
            ]
            for key in names[::-1]
        }  # fmt: skip

    assert found == {
        ADMIN_KEY: [200, 200, 200, 200],
        "a-key-to-recommend": [403, 404, 200, 403],
        "a-key-for-scenarios": [200, 200, 200, 200],
        "a-key-for-everything": [403, 404, 200, 403],
    }


def test_file_that_is_wrong_stops_the_start(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"home": {"k": 0}}')
    arguments = ("--bundle", str(bundle), "--data-dir", str(tmp_path / "data"), "--port", "0")

    done = run_command("serve", *arguments, scenarios=str(path))

    assert done.returncode == 2
    assert "s.json: scenario 'home': k: " in done.stderr
