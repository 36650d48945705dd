"""Clients that two generators make of the document keep every field, and work on every route of a live service."""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from service.request.event import Event
from service.request.recommend import RecommendRequest
from tests.service.running import ADMIN_KEY, KEY, SWAP_S, Running, wait_for

USER = "a client/that was % generated"
ASKED = {
    "user_id": USER, "k": 3, "exclude": ["i1"], "exclude_seen": False, "candidates": ["i1", "i2", "i3", "i4", "gone"],
    "budget_ms": 1000, "debug": True, "explain": True, "filter": {}, "fields": ["title"],
}  # fmt: skip
SENT = {
    "user_id": USER, "item_id": "i5", "timestamp": 5.5, "type": "view", "value": 1.5, "recommendation_id": "r",
    "event_id": "e", "position": 3, "explored": True,
}  # fmt: skip
ITEM = {"title": "Client", "attributes": {"maker": ["A"]}, "numbers": {"cost": 5.5}, "like": ["i5"]}
SCENARIO = "a scenario's/own %"
NAMED = {"name": SCENARIO, "source": "store", "scenario": {"k": 4, "exclude": ["i1"]}}
PAGE = {"user_id": USER, "slots": [{"name": "a", "k": 3}, {"name": "b", "scenario": SCENARIO}]}
Load = Callable[[str], ModuleType]


def run(*command: str | Path) -> None:
    """Run a generator to its end, with the programs of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def package_of(folder: Path, name: str) -> Iterator[Load]:
    """Make the modules of a generated package importable; every one of them must compile."""
    sys.path.insert(0, str(folder))
    try:
        for path in sorted((folder / name).rglob("*.py")):
            module = ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
            importlib.import_module(module)
        yield lambda module: importlib.import_module(f"{name}.{module}" if module else name)
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def document(keyed_service: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_bytes(keyed_service.client.get("/openapi.json").content)
    return path


@pytest.fixture(scope="module")
def client_a(document: Path) -> Iterator[Load]:
    """The client of openapi-python-client."""
    generate = [sys.executable, "-m", "openapi_python_client", "generate", "--path", document, "--meta", "none"]
    run(*generate, "--fail-on-warning", "--output-path", document.parent / "client_a")
    with package_of(document.parent, "client_a") as load:
        yield load


@pytest.fixture(scope="module")
def client_b(document: Path) -> Iterator[Load]:
    """The Python client of openapi-generator, a Java program."""
    program = shutil.which(
        "openapi-generator-cli", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if program is None or shutil.which("java") is None:
        message = "NOT CHECKED: openapi-generator is not here (pip install openapi-generator-cli; it runs on Java)"
        if os.environ.get("RETORT_REQUIRE_OPENAPI_GENERATOR") == "1":
            pytest.fail(message)
        pytest.skip(message)
    run(program, "generate", "-i", document, "-g", "python", "-o", document.parent / "b", "-p", "packageName=client_b")
    with package_of(document.parent / "b", "client_b") as load:
        yield load


def test_first_client_keeps_every_field(client_a: Load) -> None:
    models = client_a("models")

    assert models.RecommendRequest.from_dict(ASKED).to_dict() == ASKED
    assert models.Event.from_dict(SENT).to_dict() == SENT
    assert {each.name.rstrip("_") for each in models.RecommendRequest.__attrs_attrs__} == set(
        RecommendRequest.model_fields
    )
    assert {each.name.rstrip("_") for each in models.Event.__attrs_attrs__} == set(Event.model_fields)


def test_second_client_keeps_every_field(client_b: Load) -> None:
    models = client_b("models")

    assert models.RecommendRequest.from_dict(ASKED).to_dict() == ASKED | {
        "history": None,
        "scenario": None,
        "offset": 0,
    }
    assert models.Event.from_dict(SENT).to_dict() == SENT
    assert set(models.RecommendRequest.model_fields) - {"additional_properties"} == set(RecommendRequest.model_fields)
    assert set(models.Event.model_fields) - {"additional_properties"} == set(Event.model_fields)


def test_first_client_works_on_every_route(
    client_a: Load, keyed_service: Running, published_versions: list[str]
) -> None:
    models, root = client_a("models"), client_a("")
    older, newer = published_versions
    client = root.AuthenticatedClient(keyed_service.url, ADMIN_KEY, raise_on_unexpected_status=True)

    def call(operation: str, *values: Any, **named: Any) -> Any:
        return client_a(f"api.{operation}").sync(*values, client=client, **named)

    event = models.Event.from_dict(SENT)
    sent = call("events.send_events", body=models.EventsRequest([event, event]))
    answer = call("recommendations.recommend", body=models.RecommendRequest.from_dict(ASKED))
    inline = call("recommendations.recommend", body=models.RecommendRequest(history=["i1", "i2"], k=5))
    put = call("items.put_item", "n/1", body=models.ItemFields.from_dict(ITEM))
    patched = call("items.patch_item", "n/1", body=models.ItemFields.from_dict({"title": "Client B"}))
    listed = call("items.put_items", body=models.ItemsRequest.from_dict({"items": [{**ITEM, "item_id": "n/2"}]}))
    item = call("items.read_item", "n/1")
    found = call("items.search_items", body=models.ItemsSearchRequest(text="client b"))
    gone = [call("items.withdraw_item", item_id).state for item_id in ("n/1", "n/2")]
    like = call("recommendations.similar", body=models.SimilarRequest(item_id="i3", user_id=USER, k=4))
    batch = call("recommendations.recommend_batch", body=models.BatchRequest.from_dict({"requests": [ASKED, {"k": 5}]}))
    named = call("scenarios.put_scenario", SCENARIO, body=models.Scenario.from_dict({"k": 4, "exclude": ["i1"]}))
    page = call("recommendations.page", body=models.PageRequest.from_dict(PAGE))
    all_named, read = call("scenarios.list_scenarios"), call("scenarios.read_scenario", SCENARIO)
    dropped = call("scenarios.delete_scenario", SCENARIO)
    kept = call("users.read_user", USER)
    erased = call("users.erase_user", USER)
    for version in (older, newer):
        live = call("model.activate_model", body=models.ActivateRequest(version))
        wait_for(lambda now=version: call("model.read_model").version == now, SWAP_S)
    back = call("model.roll_back_model")

    assert (sent.accepted, sent.duplicates, sent.rejected) == (1, 1, [])
    check_answer(answer)
    assert (len(inline.items), len(like.items)) == (5, 4)
    assert ((put.state, put.from_), patched.state, listed.accepted) == (("live", ["like"]), "live", 1)
    assert (item.title, item.numbers.to_dict(), found.items[0].item_id) == ("Client B", {"cost": 5.5}, "n/1")
    assert gone == ["withdrawn", "withdrawn"]
    check_answer(batch.answers[0])
    assert batch.answers[1].error.code == "malformed"
    assert named.to_dict() == read.to_dict() == NAMED
    assert [len(slot.items) for slot in page.slots] == [3, 4]
    assert SCENARIO in [each.name for each in all_named.scenarios]
    assert (dropped.name, dropped.falls_back) == (SCENARIO, False)
    assert (kept.user_id, kept.count, kept.history[0].item_id, kept.history[0].key) == (USER, 1, "i5", "e")
    assert (erased.user_id, erased.event_stream.erased, erased.event_stream.complete) == (USER, 1, True)
    assert (live.live, live.previous, back.live) == (newer, older, older)
    assert call("model.read_model").index.kind == "exact"
    assert call("operation.check_alive").alive is True
    assert call("operation.check_ready").store.is_up is True
    assert "retort_http_requests_total" in call("operation.read_metrics")
    client.get_httpx_client().close()


def test_clients_send_the_key_in_its_own_header_too(client_a: Load, client_b: Load, keyed_service: Running) -> None:
    scheme = {"prefix": "", "auth_header_name": "X-API-Key"}
    with client_a("").AuthenticatedClient(keyed_service.url, KEY, **scheme) as client:
        first = client_a("api.model.read_model").sync(client=client)
    root = client_b("")
    with root.ApiClient(root.Configuration(host=keyed_service.url, api_key={"api_key": KEY})) as client:
        second = root.ModelApi(client).read_model()
        client.rest_client.pool_manager.clear()

    assert first.n_items == second.n_items == 60


def test_first_client_understands_every_refusal(client_a: Load, keyed_service: Running) -> None:
    models, root = client_a("models"), client_a("")

    def ask(client: Any, **body: Any) -> Any:
        module = client_a("api.recommendations.recommend")
        with client:
            return module.sync(client=client, body=models.RecommendRequest(**body))

    def keyed(key: str) -> Any:
        return root.AuthenticatedClient(keyed_service.url, key, raise_on_unexpected_status=True)

    errors = [
        ask(root.Client(keyed_service.url, raise_on_unexpected_status=True), user_id="u"),
        ask(keyed("no key"), user_id="u"),
        ask(keyed(KEY), k=5),
        ask(keyed(KEY), user_id="u", k=201),
    ]

    codes = ["no_key", "wrong_key", "malformed", "malformed"]
    assert [each.error.code for each in errors] == codes
    assert errors[2].error.message == "give user_id, or history"
    assert errors[3].error.details[0].field == "k"


def test_second_client_works_on_every_route(
    client_b: Load, keyed_service: Running, published_versions: list[str]
) -> None:
    models, root = client_b("models"), client_b("")
    older, newer = published_versions
    with root.ApiClient(root.Configuration(host=keyed_service.url, access_token=ADMIN_KEY)) as client:
        users, model, operation = root.UsersApi(client), root.ModelApi(client), root.OperationApi(client)
        event = models.Event.from_dict(SENT)
        sent = root.EventsApi(client).send_events(models.EventsRequest(events=[event, event]))
        answer = root.RecommendationsApi(client).recommend(models.RecommendRequest.from_dict(ASKED))
        inline = root.RecommendationsApi(client).recommend(models.RecommendRequest(history=["i1", "i2"], k=5))
        items = root.ItemsApi(client)
        put = items.put_item("n/1", models.ItemFields.from_dict(ITEM))
        patched = items.patch_item("n/1", models.ItemFields(title="Client B"))
        listed = items.put_items(models.ItemsRequest.from_dict({"items": [{**ITEM, "item_id": "n/2"}]}))
        item = items.read_item("n/1")
        found = items.search_items(models.ItemsSearchRequest(text="client b"))
        gone = [items.withdraw_item(item_id).state for item_id in ("n/1", "n/2")]
        like = root.RecommendationsApi(client).similar(models.SimilarRequest(item_ids=["i3", "i4"], k=4))
        lists, scenarios = root.RecommendationsApi(client), root.ScenariosApi(client)
        batch = lists.recommend_batch(models.BatchRequest.from_dict({"requests": [ASKED, {"user_id": "u", "k": 5}]}))
        named = scenarios.put_scenario(SCENARIO, models.Scenario.from_dict({"k": 4, "exclude": ["i1"]}))
        page = lists.page(models.PageRequest.from_dict(PAGE))
        read = scenarios.read_scenario(SCENARIO)
        dropped = scenarios.delete_scenario(SCENARIO)
        kept = users.read_user(USER)
        erased = users.erase_user(USER)
        for version in (older, newer):
            live = model.activate_model(models.ActivateRequest(version=version))
            wait_for(lambda now=version: model.read_model().version == now, SWAP_S)
        back = model.roll_back_model()

        assert (sent.accepted, sent.duplicates, sent.rejected) == (1, 1, [])
        check_answer(answer)
        assert (len(inline.items), len(like.items)) == (5, 4)
        assert (put.state, patched.state, listed.accepted) == ("live", "live", 1)
        assert (item.title, item.numbers, found.items[0].item_id) == ("Client B", {"cost": 5.5}, "n/1")
        assert gone == ["withdrawn", "withdrawn"]
        check_answer(batch.answers[0].actual_instance)
        assert (named.name, read.scenario.k, read.scenario.exclude) == (SCENARIO, 4, ["i1"])
        assert [len(slot.items) for slot in page.slots] == [3, 4]
        assert (dropped.name, dropped.falls_back) == (SCENARIO, False)
        assert (kept.user_id, kept.count, kept.history[0].item_id, kept.history[0].key) == (USER, 1, "i5", "e")
        assert (erased.user_id, erased.event_stream.erased, erased.event_stream.complete) == (USER, 1, True)
        assert (live.live, live.previous, back.live) == (newer, older, older)
        assert model.read_model().index.kind == "exact"
        assert operation.check_alive().alive is True
        assert operation.check_ready().store.is_up is True
        assert "retort_http_requests_total" in operation.read_metrics()
        client.rest_client.pool_manager.clear()


def test_second_client_understands_a_refusal(client_b: Load, keyed_service: Running) -> None:
    models, root = client_b("models"), client_b("")
    client = root.ApiClient(root.Configuration(host=keyed_service.url, access_token=KEY))
    with client, pytest.raises(root.ApiException) as caught:
        root.RecommendationsApi(client).recommend(models.RecommendRequest(k=5))
    client.rest_client.pool_manager.clear()

    assert caught.value.status == 422
    assert caught.value.data.error.message == "give user_id, or history"


def check_answer(answer: Any) -> None:
    """What both clients must have got for ASKED: every field was sent, and every field of the answer was read."""
    assert answer.user_id == USER
    assert {item.item_id for item in answer.items} == {"i2", "i3", "i4"}
    assert all(isinstance(item.score, float) for item in answer.items)
    assert str(getattr(answer.quality.level, "value", answer.quality.level)) == "full"
    assert answer.ignored_ids == ["gone"]
    assert answer.took_ms > 0
    assert answer.debug.funnel is not None and answer.debug.stages_ms is not None
