"""The routes of items against a running service: what is put counts at once, and outlives the process and the store."""

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.bundle import Bundle
from service.catalogue.live_item import LiveItem
from service.client import Client, RefusedError
from service.item.shelf import shard_of
from tests.service.running import ADMIN_KEY, KEY, Running, metric, wait_for
from tests.service.toy import DIM, described_items, write_toy, write_toy_sum

ODD_IDS = [
    "search",
    "search/",
    ".",
    "..",
    "../recommend",
    "a/b",
    "//",
    "%2F",
    "%2E%2E",
    "x?y#z",
    "+",
    '"\\',
    "é😀",
    "l" * 128,
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy(tmp_path_factory.mktemp("items") / "bundle", items=described_items())


@pytest.fixture(scope="module")
def service(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(bundle.path, tmp_path_factory.mktemp("items-data")) as running:
        yield running


def put(service: Running, item_id: str, **fields: Any) -> dict[str, Any]:
    answer = service.client.put(f"/items/{item_id}", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def get(service: Running, item_id: str) -> dict[str, Any]:
    answer = service.client.get(f"/items/{item_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_price_that_is_put_counts_in_the_next_answer(service: Running) -> None:
    answer = put(service, "i20", title="Lamp", attributes={"brand": "Z"}, numbers={"price": 5000})

    assert answer["state"] == "live"
    assert answer["from"] == ["bundle"]
    assert 0 < answer["visible_ms"] < 1000
    found = service.recommend(history=["i3"], k=3, filter={"price": {"gt": 4000}}, fields=["title", "brand", "tag"])
    assert [(i["item_id"], i["title"], i["brand"], i["tag"]) for i in found["items"]] == [("i20", "Lamp", ["Z"], None)]
    assert ids(service.recommend(history=["i3"], k=3, filter={"brand": "Z"})) == ["i20"]


def test_attribute_without_a_value_is_none_to_filters_and_fields(service: Running) -> None:
    put(service, "i44", attributes={"brand": [], "tag": ["odd"]})
    asked = {"history": ["i1"], "filter": {"brand": None, "tag": "odd"}, "fields": ["brand", "tag", "price"]}

    (item,) = service.recommend(**asked)["items"]

    assert {name: item[name] for name in asked["fields"]} == {"brand": None, "tag": ["odd"], "price": None}


def test_patch_changes_what_it_names_and_keeps_the_rest(service: Running) -> None:
    before = get(service, "i21")

    service.client.patch("/items/i21", json={"numbers": {"price": 6000}, "attributes": {"tag": None}})

    after = get(service, "i21")
    assert after["numbers"] == {**before["numbers"], "price": 6000}
    assert (after["title"], after["attributes"]) == (before["title"], {"brand": before["attributes"]["brand"]})
    service.client.patch("/items/i21", json={"title": "Sofa"})
    assert get(service, "i21") == {**after, "title": "Sofa"}


def test_withdrawn_item_is_in_no_answer_until_it_is_put_again(service: Running) -> None:
    (best, *_) = ids(service.recommend(history=["i3"], k=5))

    assert service.client.delete(f"/items/{best}").json()["state"] == "withdrawn"

    assert service.client.get(f"/items/{best}").status_code == 404
    assert service.client.patch(f"/items/{best}", json={}).status_code == 404
    assert best not in ids(service.recommend(history=["i3"], k=60))
    assert best not in ids(service.recommend(user_id="nobody", k=60))
    assert ids(service.recommend(history=["i3"], k=3, candidates=[best, "i30"])) == ["i30"]
    pinned = service.recommend(history=["i3"], k=3, pin=[{"item_id": best, "position": 1}])
    assert (best in ids(pinned), pinned["dropped_pins"]) == (False, [best])
    funnel = service.recommend(history=["i3"], k=3, exclude_seen=False, debug=True)["debug"]["funnel"]
    assert funnel["catalogue"] == funnel["filter"] == funnel["seen"] == 59
    put(service, best, title="again")
    assert best in ids(service.recommend(history=["i3"], k=60))


def test_item_is_not_shown_once_it_has_expired(service: Running) -> None:
    put(service, "i22", title="soon gone", expires_at=time.time() + 0.5)
    assert get(service, "i22")["title"] == "soon gone"

    wait_for(lambda: service.client.get("/items/i22").status_code == 404)

    assert "i22" not in ids(service.recommend(history=["i3"], k=60))


def test_list_is_judged_item_by_item(service: Running) -> None:
    items = [
        {"item_id": "i23", "title": "one"}, {"item_id": "i24", "titel": "two"}, "i25", {"item_id": "i26",
        "numbers": {"brand": 3}}, {"item_id": "i27", "vectors": [1.0] * (DIM + 1)}, {"item_id": "i23", "title": "last"},
        {"item_id": "i28", "attributes": {"not": "x"}}, {"item_id": "i29", "description": "é" * 10_000,
        "attributes": {f"a{n}": ["é" * 1000] for n in range(20)}},
    ]  # fmt: skip

    answer = service.client.post("/items", json={"items": items}).json()

    assert (answer["accepted"], [each["index"] for each in answer["rejected"]]) == (2, [1, 2, 3, 4, 6, 7])
    assert "under attributes" in answer["rejected"][2]["message"]
    assert answer["ignored_ids"] == []
    assert get(service, "i23")["title"] == "last"


def test_list_tells_each_unknown_id_of_like_once_and_knows_its_own_items(service: Running) -> None:
    first = {"item_id": "listed-1", "like": ["gone", "listed-2", "i5", "lost"]}
    second = {"item_id": "listed-2", "like": ["lost", "never"]}
    refused = {"item_id": "listed-3", "like": ["of a refused item"], "titel": "x"}

    answer = service.client.post("/items", json={"items": [first, refused, second]}).json()

    assert (answer["accepted"], answer["ignored_ids"]) == (2, ["gone", "lost", "never"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"titel": "x"}, "titel"),
        ({"numbers": {"price": "5"}}, "numbers.price"),
        ({"numbers": {"brand": 5}}, "numbers.brand"),
        ({"booleans": {"price": True}}, "booleans.price"),
        ({"vectors": [1.0]}, "vectors"),
        ({"expires_at": 1e12}, "expires_at"),
        ({"attributes": {"any": "x"}}, "attributes"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(service: Running, body: dict[str, Any], field: str) -> None:
    answer = service.client.put("/items/i40", json=body)

    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["details"][0]["field"] == field
    assert get(service, "i40")["state"] == "bundle"


def test_search_finds_words_of_titles_and_obeys_the_filter(service: Running) -> None:
    put(service, "i41", title="Écran plat 4K", booleans={"in_stock": True})

    def found(**body: Any) -> list[str]:
        return ids(service.client.post("/items/search", json=body).json())

    assert found(text="ecr PLAT") == ["i41"]
    assert found(text="plat", filter={"in_stock": False}) == []
    assert found(text="title 41") == []
    assert found(text="title 4", k=2) == ["i4", "i40"]
    assert found(text='"*', k=2) == []
    assert found(k=3) == ["i0", "i1", "i2"]
    refused = service.client.post("/items/search", json={"filter": {"pric": 3}})
    assert 'did you mean \\"price\\"' in refused.text


def test_new_item_is_recommended_filtered_and_stands_in_histories(service: Running) -> None:
    answer = put(service, "n1", title="New", attributes={"brand": ["A"]}, numbers={"price": 9000}, like=["i5", "gone"])

    assert (answer["state"], answer["from"], answer["ignored_ids"]) == ("live", ["like", "attributes"], ["gone"])
    asked = {"history": ["i5"], "k": 60}
    assert ids(service.recommend(**asked))[0] == "n1"
    assert ids(service.recommend(**asked, filter={"price": 9000})) == ["n1"]
    assert "n1" not in ids(service.recommend(**asked, exclude=["n1"]))
    assert ids(service.recommend(**asked, candidates=["i8", "n1"])) == ["n1", "i8"]
    assert ids(service.recommend(**asked, pin=[{"item_id": "n1", "position": 3}]))[2] == "n1"
    assert "n1" in ids(service.recommend(history=["n1"], k=5, exclude_seen=False))
    assert ids(service.recommend(history=["n1"], k=1)) == ["i5"]
    assert ids(service.recommend(user_id="stranger", k=200))[-1] == "n1"
    shaped = service.recommend(**asked, max_per=[{"attribute": "brand", "n": 1}], diversity=0.2, debug=True)
    assert ids(shaped)[0] == "n1"
    assert ids(service.client.post("/items/search", json={"text": "new"}).json()) == ["n1"]
    service.client.delete("/items/n1")
    assert "n1" not in ids(service.recommend(**asked))


def test_history_with_a_new_item_is_the_same_to_every_worker(bundle: Bundle, tmp_path: Path) -> None:
    with Running(bundle.path, tmp_path / "data") as service:
        service.send({"user_id": "u", "item_id": "i3"}, {"user_id": "u", "item_id": "n2"})
        assert ids(service.recommend(user_id="u", k=5)) == ids(service.recommend(history=["i3"], k=5))

        put(service, "n1", like=["i9"])
        put(service, "n2", like=["i5"])

        both = ids(service.recommend(history=["i3", "n2"], k=5))
        assert ids(service.recommend(user_id="u", k=5)) == both
        assert ids(service.recommend(user_id="u", k=5)) == both
        service.kill()
        service.start()  # n1 and n2 may have each other's rows now
        assert ids(service.recommend(user_id="u", k=5)) == both


def test_new_item_is_part_of_the_trend(tmp_path: Path) -> None:
    bundle = write_toy_sum(tmp_path / "bundle")
    with Running(bundle.path, tmp_path / "data") as service:
        put(service, "n1", like=["i5"])
        service.send(*({"user_id": f"u{n}", "item_id": "n1"} for n in range(200)))

        wait_for(lambda: ids(service.recommend(user_id="stranger", k=1)) == ["n1"])


def test_swap_of_the_model_keeps_live_items_and_drops_those_that_it_brings(tmp_path: Path) -> None:
    first, second = write_toy(tmp_path / "first"), write_toy(tmp_path / "second", n_items=62, seed=1)
    manifest = second.path / "manifest.json"
    with Running(first.path, tmp_path / "data") as service:
        put(service, "i61", title="mine", like=["i5"])
        put(service, "n1", title="new", like=["i5"])
    manifest.write_text(manifest.read_text().replace("2026-01-01T00", "2999-01-01T00"))

    with Running(second.path, tmp_path / "data") as service:
        assert (get(service, "i61")["title"], get(service, "n1")["title"]) == ("title 61", "new")
        assert "n1" in ids(service.recommend(history=["i5"], k=3))


def test_nothing_acknowledged_is_lost_when_a_worker_and_the_store_are_killed(bundle: Bundle, tmp_path: Path) -> None:
    with Running(bundle.path, tmp_path / "data") as service:
        confirmed = set()
        for n in range(12):
            listed = [{"item_id": f"n{n}-{place}", "title": "x"} for place in range(50)]
            if n == 5:
                os.kill(service.store_pid(), signal.SIGKILL)
            try:
                answer = service.client.post("/items", json={"items": listed})
            except httpx.TransportError:
                continue
            if answer.status_code == 200:
                confirmed |= {each["item_id"] for each in listed}
        service.kill()
        service.start()

        found = service.client.post("/items/search", json={"text": "x", "k": 200}).json()
        assert len(found["items"]) == 200
        assert len(confirmed) >= 250
        missing = [each for each in confirmed if service.client.get(f"/items/{each}").status_code != 200]
        assert missing == []


def test_changes_outlive_the_service_and_its_store(bundle: Bundle, tmp_path: Path) -> None:
    with Running(bundle.path, tmp_path / "data") as service:
        put(service, "i5", title="kept", numbers={"price": 7000})
        service.client.delete("/items/i6")
        service.kill()

        service.start()

        assert get(service, "i5")["title"] == "kept"
        assert service.client.get("/items/i6").status_code == 404
        assert ids(service.recommend(history=["i3"], k=3, filter={"price": 7000})) == ["i5"]


def test_withdrawn_item_stands_in_histories_of_a_service_that_never_saw_it(bundle: Bundle, tmp_path: Path) -> None:
    with Running(bundle.path, tmp_path / "data") as service:
        put(service, "n1", like=["i9"], attributes={"brand": "A"})
        service.send({"user_id": "anna", "item_id": "n1"}, {"user_id": "anna", "item_id": "i4"})
        assert service.client.delete("/items/n1").status_code == 200
        asked = ({"history": ["i3", "n1"], "k": 60}, {"user_id": "anna", "k": 60})
        before = [service.recommend(**each) for each in asked]
        similar = service.similar(item_id="n1", k=60)
        service.kill()

        service.start()

        for each, answer in zip(asked, before, strict=True):
            after = service.recommend(**each)
            assert (after["items"], after["ignored_ids"]) == (answer["items"], [])
            assert "n1" not in ids(after)
        assert service.similar(item_id="n1", k=60)["items"] == similar["items"]
        assert service.client.get("/items/n1").status_code == 404
        put(service, "n1", title="again")
        assert ids(service.recommend(history=["i3"], candidates=["n1"])) == ["n1"]


def test_bundle_that_was_made_later_knows_better(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle")
    with Running(bundle.path, tmp_path / "data") as service:
        put(service, "i5", title="kept")
        service.client.delete("/items/i6")
    manifest = bundle.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("2026-01-01T00", "2999-01-01T00"))

    with Running(bundle.path, tmp_path / "data") as service:
        assert get(service, "i5")["title"] == "title 5"
        assert service.client.get("/items/i6").status_code == 404


def test_full_shelf_takes_changes_but_no_more_items(bundle: Bundle, tmp_path: Path) -> None:
    with Running(bundle.path, tmp_path / "data", live_items="2") as service:
        put(service, "i1", title="a")
        put(service, "i2", title="b")

        refused = service.client.put("/items/i3", json={"title": "c"})

        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "too_many_items")
        put(service, "i1", title="d")
        service.client.delete("/items/i2")
        assert service.client.put("/items/i3", json={"title": "c"}).status_code == 409  # the bundle would bring it back


def test_what_is_withdrawn_or_expired_makes_room(bundle: Bundle, tmp_path: Path) -> None:
    with Running(bundle.path, tmp_path / "data", live_items="2") as service:
        put(service, "n1", title="a")
        put(service, "n2", title="b", expires_at=time.time() - 1)
        put(service, "n3", title="c")
        service.client.delete("/items/n1")
        put(service, "n4", title="d")

        assert service.client.put("/items/n5", json={}).status_code == 409
        service.kill()
        service.start()
        shown = [service.client.get(f"/items/n{n}").status_code for n in range(1, 6)]
        assert shown == [404, 404, 200, 200, 404]


def test_live_items_bring_only_so_many_attributes(bundle: Bundle, tmp_path: Path) -> None:
    with Running(bundle.path, tmp_path / "data") as service:
        items = [{"item_id": f"n{n}", "numbers": {f"size{n}_{each}": 1 for each in range(60)}} for n in range(5)]
        answer = service.client.post("/items", json={"items": items}).json()
        put(service, "n9", numbers={f"more{n}": 1 for n in range(20)})
        refused = service.client.put("/items/n8", json={"booleans": {"size0_x": True}, "numbers": {"price": 1}})

        assert (answer["accepted"], [each["index"] for each in answer["rejected"]]) == (3, [3, 4])
        assert refused.status_code == 422
        assert refused.json()["error"]["details"][0]["field"] == "booleans.size0_x"
        assert "did you mean" in refused.json()["error"]["message"]
        put(service, "n8", numbers={"price": 1, "size0_3": 2}, attributes={"brand": "A"})
        assert ids(service.recommend(history=[], filter={"size0_3": 2})) == ["n8"]


def test_foreign_records_and_changes_stop_nobody(bundle: Bundle, tmp_path: Path) -> None:
    with Running(bundle.path, tmp_path / "data") as service:
        put(service, "n1", title="a")
        store = service.store()
        shard = f"retort:items:{{retort:items:{shard_of('n1')}}}"
        fields: list[dict[str, Any]] = [{"expires_at": "soon"}, {"title": 5}, {"attributes": {"brand": 5}}, {"like": 5}]
        ids_here = (each for n in itertools.count() if shard_of(each := f"x{n}") == shard_of("n1"))
        for item_id, wrong in zip(ids_here, fields, strict=False):
            store.hset(f"{shard}:records", item_id, LiveItem(time.time(), "put", wrong).pack())
            store.zadd(f"{shard}:changes", {item_id: store.hincrby(f"{shard}:state", "n", 1)})
        store.zadd(f"{shard}:changes", {b"\xff": store.hincrby(f"{shard}:state", "n", 1), "i5": "inf", "i6": 1e300})

        put(service, "n1", title="b")
        service.kill()
        service.start()

        assert get(service, "n1")["title"] == "b"
        assert put(service, "n2", title="c")["state"] == "live"
        assert "Traceback" not in service.log_text()


def test_two_items_that_give_a_new_name_in_two_kinds_are_not_both_taken(bundle: Bundle, tmp_path: Path) -> None:
    with Running(bundle.path, tmp_path / "data") as service:
        items: list[dict[str, Any]] = [
            {"item_id": "n1", "attributes": {"size": "XL", "gone": None}}, {"item_id": "n2", "numbers": {"size": 5}},
            {"item_id": "n3", "attributes": {"size": ["S"]}},
            {"item_id": "n4", "booleans": {"size": None, "gone": True}},
            {"item_id": "n5", "numbers": {"both": 1}, "booleans": {"both": True}},
        ]  # fmt: skip

        answer = service.client.post("/items", json={"items": items}).json()

        assert (answer["accepted"], [each["index"] for each in answer["rejected"]]) == (3, [1, 4])
        assert (
            "numbers.size: its values are of the kind text; put it under attributes" in answer["rejected"][0]["message"]
        )
        assert "both: its values are of the kind" in answer["rejected"][1]["message"]
        refused = service.client.put("/items/n6", json={"numbers": {"x": 1}, "attributes": {"x": "a"}})
        assert refused.status_code == 422, refused.text
        assert set(ids(service.recommend(history=[], filter={"size": ["XL", "S"]}))) == {"n1", "n3"}


@pytest.mark.parametrize("item_id", ODD_IDS)
def test_item_of_any_id_is_reached_by_every_route(service: Running, item_id: str) -> None:
    with Client(service.url, deadline_ms=5000) as client:
        assert client.put_items([{"item_id": item_id, "title": "Odd one"}]).accepted == 1
        assert client.item(item_id)["item_id"] == item_id
        assert client.put_item(item_id, title="Odd one", numbers={"price": -7})["state"] == "live"
        client.patch_item(item_id, booleans={"in_stock": True})

        found = client.search_items("odd", filter={"price": -7, "in_stock": True})
        listed = client.recommend(history=["i1"], filter={"price": -7}, k=5)

        assert [item["item_id"] for item in found] == [item_id]
        assert listed.item_ids == [item_id]
        assert client.similar(item_id, k=1).ignored_ids == []
        assert client.withdraw_item(item_id)["state"] == "withdrawn"
        with pytest.raises(RefusedError) as raised:
            client.item(item_id)
        assert raised.value.code == "not_found"


def test_item_named_search_is_written_by_the_scope_and_counted_as_an_item(bundle: Bundle, tmp_path: Path) -> None:
    with Running(bundle.path, tmp_path / "data", api_keys=KEY) as service:
        headers = {"X-API-Key": KEY}

        wrote = service.client.put("/items/search", json={"title": "x"}, headers=headers)
        read = service.client.get("/items/search", headers=headers)
        found = service.client.post("/items/search", json={"text": "title"}, headers=headers)
        counted = service.client.get("/metrics").text

        assert [wrote.status_code, read.status_code, found.status_code] == [403, 404, 200]
        total = "retort_http_requests_total"
        assert metric(counted, total, route="/items/{item_id}", method="GET", code="404") == 1
        assert metric(counted, total, route="/items/search", method="POST", code="200") == 1
        assert metric(counted, total, route="/items/search", method="GET") == 0


@pytest.mark.parametrize("place", [0, 1, 2])
def test_key_that_holds_something_else_is_named(bundle: Bundle, tmp_path: Path, place: int) -> None:
    with Running(bundle.path, tmp_path / "data") as service:
        shard = f"retort:items:{{retort:items:{shard_of('n1')}}}"
        key = f"{shard}:{('records', 'changes', 'state')[place]}"
        service.store().set(key, "mine")

        for refused in (
            service.client.put("/items/n1", json={"title": "a"}),
            service.client.post("/items", json={"items": [{"item_id": "n1", "title": "a"}]}),
        ):
            assert refused.status_code == 503
            assert f"{key} is a string, and must be a {('hash', 'zset', 'hash')[place]}" in refused.text
            assert "Retry-After" not in refused.headers
        assert service.recommend(history=["i1"])["quality"]["level"] == "full"
        service.store().delete(key)
        assert wait_for(lambda: service.client.put("/items/n1", json={"title": "a"}).status_code == 200)


def test_item_can_be_withdrawn_wherever_it_was_put(bundle: Bundle, tmp_path: Path) -> None:
    with Running(bundle.path, tmp_path / "data", "--workers", "2") as service:
        callers = [httpx.Client(base_url=service.url, trust_env=False) for _ in range(6)]  # each of one worker
        for n, caller in enumerate(callers * 3):
            put(service, f"w{n}", title="a")
            assert caller.patch(f"/items/w{n}", json={"title": "b"}).status_code == 200
            put(service, f"v{n}", title="a")
            assert caller.delete(f"/items/v{n}").status_code == 200
        for caller in callers:
            caller.close()


def test_other_workers_follow_within_a_second(bundle: Bundle, tmp_path: Path) -> None:
    with Running(bundle.path, tmp_path / "data", "--workers", "2") as service:
        host, port = service.url.removeprefix("http://").split(":")
        callers = [HTTPConnection(host, int(port)) for _ in range(8)]  # each of one worker

        def title(caller: HTTPConnection) -> str:
            caller.request("GET", "/items/i7")
            return str(json.loads(caller.getresponse().read())["title"])

        for n in range(5):
            put(service, "i7", title=f"round {n}")
            end = time.monotonic() + 1
            for caller in callers:
                wait_for(lambda caller=caller, n=n: title(caller) == f"round {n}", timeout_s=end - time.monotonic())
        for caller in callers:
            caller.close()


def test_writing_needs_a_key_that_names_it(bundle: Bundle, tmp_path: Path) -> None:
    keys = {"api_keys": f"{KEY},items:{KEY}-items", "admin_key": ADMIN_KEY}
    with Running(bundle.path, tmp_path / "data", **keys) as service:

        def status(method: str, path: str, key: str) -> int:
            headers = {"X-API-Key": key}
            body = {} if method == "GET" else {"json": {"text": "title"} if path.endswith("search") else {"title": "x"}}
            return service.client.request(method, path, headers=headers, **body).status_code

        assert [status("PUT", "/items/i1", key) for key in (KEY, f"{KEY}-items", ADMIN_KEY)] == [403, 200, 200]
        assert [status("GET", "/items/i1", key) for key in (KEY, f"{KEY}-items")] == [200, 200]
        assert [status("POST", "/items/search", key) for key in (KEY, f"{KEY}-items")] == [200, 200]
        assert status("POST", "/recommend", f"{KEY}-items") == 403
