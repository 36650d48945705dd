"""The OpenAPI document says what is so: real answers keep to its schemas, and what it allows is accepted."""

import json
import os
import signal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema
import jsonschema_rs
import pytest

from tests.service.running import ADMIN_KEY, KEY, SWAP_S, Running, wait_for
from tests.service.toy import write_toy

OF_THE_GATE = {"401", "403", "429", "500", "503"}
OF_A_BODY = {"408", "413", "415", "422"}
OPERATIONS = {
    ("POST", "/recommend"): ("recommend", {"200"} | OF_A_BODY | OF_THE_GATE),
    ("POST", "/similar"): ("similar", {"200"} | OF_A_BODY | OF_THE_GATE),
    ("POST", "/recommend/batch"): ("recommend_batch", {"200"} | OF_A_BODY | OF_THE_GATE),
    ("POST", "/page"): ("page", {"200"} | OF_A_BODY | OF_THE_GATE),
    ("GET", "/scenarios"): ("list_scenarios", {"200"} | OF_THE_GATE),
    ("GET", "/scenarios/{name}"): ("read_scenario", {"200", "404", "422"} | OF_THE_GATE),
    ("PUT", "/scenarios/{name}"): ("put_scenario", {"200"} | OF_A_BODY | OF_THE_GATE),
    ("DELETE", "/scenarios/{name}"): ("delete_scenario", {"200", "404", "422"} | OF_THE_GATE),
    ("POST", "/events"): ("send_events", {"200"} | OF_A_BODY | OF_THE_GATE),
    ("GET", "/users/{user_id}"): ("read_user", {"200", "422"} | OF_THE_GATE),
    ("DELETE", "/users/{user_id}"): ("erase_user", {"200", "422"} | OF_THE_GATE),
    ("GET", "/items/{item_id}"): ("read_item", {"200", "404", "422"} | OF_THE_GATE),
    ("PUT", "/items/{item_id}"): ("put_item", {"200", "409"} | OF_A_BODY | OF_THE_GATE),
    ("PATCH", "/items/{item_id}"): ("patch_item", {"200", "404", "409"} | OF_A_BODY | OF_THE_GATE),
    ("DELETE", "/items/{item_id}"): ("withdraw_item", {"200", "404", "422"} | OF_THE_GATE),
    ("POST", "/items"): ("put_items", {"200"} | OF_A_BODY | OF_THE_GATE),
    ("POST", "/items/search"): ("search_items", {"200"} | OF_A_BODY | OF_THE_GATE),
    ("GET", "/model"): ("read_model", {"200"} | OF_THE_GATE),
    ("GET", "/model/versions"): ("list_versions", {"200"} | OF_THE_GATE),
    ("GET", "/metrics/hour"): ("read_hour", {"200"} | OF_THE_GATE),
    ("POST", "/model/activate"): ("activate_model", {"200", "404"} | OF_A_BODY | OF_THE_GATE),
    ("POST", "/model/compare"): ("compare_model", {"200", "404", "409"} | OF_A_BODY | OF_THE_GATE),
    ("POST", "/model/rollback"): ("roll_back_model", {"200", "404"} | OF_THE_GATE),
    ("GET", "/livez"): ("check_alive", {"200"}),
    ("GET", "/readyz"): ("check_ready", {"200", "503"}),
    ("GET", "/metrics"): ("read_metrics", {"200"}),
}
SHORT = {"name": "short", "candidates": ["i1"], "pin": [{"item_id": "i2", "position": 1}], "fields": ["title"]}
EVENT = {"user_id": "u", "item_id": "i1"}
KEYED = {"X-API-Key": KEY}
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture(scope="module")
def document(keyed_service: Running) -> dict[str, Any]:
    return keyed_service.client.get("/openapi.json").json()


def strict(schema: Any) -> Any:
    """Return a schema that also refuses every field that it does not name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return closed | {name: strict(part) for name, part in schema.items()}


def check(document: dict[str, Any], operation: tuple[str, str], response: Any) -> None:
    """Hold an answer against what the document says of its operation and status."""
    method, path = operation
    described = document["paths"][path][method.lower()]["responses"][str(response.status_code)]
    media_type = response.headers["content-type"].partition(";")[0]
    schema = described["content"][media_type]["schema"]
    value = response.json() if media_type == "application/json" else response.text
    jsonschema.validate(value, strict({**document, **schema}))
    assert {name.lower() for name in described.get("headers", {})} <= set(response.headers)


def test_every_operation_has_a_name_a_text_and_a_schema_for_each_status(document: dict[str, Any]) -> None:
    found = {
        (method.upper(), path): (operation["operationId"], set(operation["responses"]))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }

    assert found == OPERATIONS
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["description"], path
            for status, response in operation["responses"].items():
                (media,) = response["content"].values()
                assert media["schema"], (path, status)


def test_security_is_what_the_keys_ask_for(document: dict[str, Any], shared_service: Running) -> None:
    schemes = document["components"]["securitySchemes"]
    needed = [{"bearer": []}, {"api_key": []}]
    open_paths = {"/livez", "/readyz", "/metrics"}

    assert {(s["type"], s.get("scheme"), s.get("name")) for s in schemes.values()} == {
        ("http", "bearer", None), ("apiKey", None, "X-API-Key"),
    }  # fmt: skip
    assert "RETORT_ADMIN_KEY" in schemes["bearer"]["description"]
    without_keys = shared_service.client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["security"] == ([] if path in open_paths else needed), path
            optional = [] if path in open_paths else [{}, *needed]
            assert without_keys["paths"][path][method]["security"] == optional, path


@pytest.mark.parametrize(
    ("method", "path", "given", "status"),
    [
        ("POST", "/recommend", {"json": {"history": ["i1", "?"], "debug": True}, "headers": KEYED}, 200),
        ("POST", "/recommend", {"json": {"user_id": "cold", "k": 200}, "headers": KEYED}, 200),
        ("POST", "/recommend", {"json": {"user_id": "cold", "fields": ["title"]}, "headers": KEYED}, 200),
        ("POST", "/recommend", {"json": {"user_id": "cold", "filter": {"brand": "A"}}, "headers": KEYED}, 422),
        ("POST", "/similar", {"json": {"item_id": "i1", "debug": True}, "headers": KEYED}, 200),
        ("POST", "/similar", {"json": {"item_id": "gone"}, "headers": KEYED}, 422),
        ("POST", "/recommend", {"json": {"user_id": "u"}}, 401),
        ("POST", "/recommend", {"json": {"user_id": "u"}, "headers": {"X-API-Key": "wrong"}}, 403),
        ("POST", "/recommend", {"content": b" " * (1 << 20) + b"{}", "headers": KEYED}, 415),
        ("POST", "/recommend", {"json": {"user_id": "u" * (1 << 20)}, "headers": KEYED}, 413),
        ("POST", "/recommend", {"json": {"user_id": "u", "k": 0, "limit": 1}, "headers": KEYED}, 422),
        ("POST", "/recommend", {"content": b"{", "headers": KEYED | {"Content-Type": "application/json"}}, 422),
        ("POST", "/recommend", {"json": {"user_id": "u", "scenario": "?"}, "headers": KEYED}, 422),
        ("POST", "/recommend/batch", {"json": {"requests": [{"user_id": "u"}, {}, {"k": 0}]}, "headers": KEYED}, 200),
        ("POST", "/recommend/batch", {"json": {"requests": []}, "headers": KEYED}, 422),
        ("POST", "/page", {"json": {"history": ["?"], "slots": [{"name": "a"}, SHORT]}, "headers": KEYED}, 200),
        ("POST", "/page", {"json": {"user_id": "u", "slots": [{"name": "a", "k": 0}]}, "headers": KEYED}, 422),
        ("PUT", "/scenarios/s", {"json": {"k": 3, "exclude": ["i1"]}, "headers": ADMIN}, 200),
        ("PUT", "/scenarios/s", {"json": {"k": 0}, "headers": ADMIN}, 422),
        ("PUT", "/scenarios/s", {"json": {}, "headers": KEYED}, 403),
        ("PUT", "/scenarios/s", {"json": {"exclude": ["x" * 100] * 999}, "headers": ADMIN}, 413),
        ("GET", "/scenarios/s", {"headers": KEYED}, 200),
        ("GET", "/scenarios/no", {"headers": KEYED}, 404),
        ("GET", "/scenarios", {"headers": KEYED}, 200),
        ("DELETE", "/scenarios/s", {"headers": ADMIN}, 200),
        ("DELETE", "/scenarios/s", {"headers": ADMIN}, 404),
        ("DELETE", "/scenarios/%00", {"headers": ADMIN}, 422),
        ("POST", "/events", {"json": {"events": [EVENT, {}, EVENT | {"timestamp": 9e10}]}, "headers": KEYED}, 200),
        ("POST", "/events", {"json": {}, "headers": KEYED}, 422),
        ("POST", "/events", {"content": b"", "headers": KEYED}, 415),
        ("GET", "/users/nobody", {"headers": KEYED}, 200),
        ("GET", "/users/%00", {"headers": KEYED}, 422),
        ("GET", "/users/u", {}, 401),
        ("DELETE", "/users/nobody", {"headers": KEYED}, 200),
        ("DELETE", "/users/%ff", {"headers": KEYED}, 422),
        ("GET", "/model", {"headers": KEYED}, 200),
        ("GET", "/model", {}, 401),
        ("POST", "/model/activate", {"json": {"version": "0" * 16}, "headers": ADMIN}, 404),
        ("POST", "/model/activate", {"json": {"version": "0"}, "headers": ADMIN}, 422),
        ("POST", "/model/activate", {"json": {"version": "0" * 16}, "headers": KEYED}, 403),
        ("POST", "/model/compare", {"json": {"version": "0" * 16}, "headers": ADMIN}, 404),
        ("POST", "/model/compare", {"json": {"version": "0" * 16, "k": 0}, "headers": ADMIN}, 422),
        ("POST", "/model/rollback", {"headers": KEYED}, 403),
        ("GET", "/livez", {}, 200),
        ("GET", "/readyz", {}, 200),
        ("GET", "/metrics", {}, 200),
    ],
)  # fmt: skip
def test_answer_keeps_to_its_schema(
    document: dict[str, Any], keyed_service: Running, method: str, path: str, given: dict[str, Any], status: int
) -> None:
    response = keyed_service.client.request(method, path, **given)

    assert response.status_code == status, response.text
    for start, template in (("/users/", "/users/{user_id}"), ("/scenarios/", "/scenarios/{name}")):
        path = template if path.startswith(start) else path
    check(document, (method, path), response)


def test_user_with_a_history_and_an_embedding_keeps_to_its_schema(
    document: dict[str, Any], keyed_service: Running
) -> None:
    client, operation = keyed_service.client, ("GET", "/users/{user_id}")
    client.post("/events", json={"events": [EVENT | {"user_id": "kept", "event_id": "e" * 128}]}, headers=KEYED)
    client.post("/recommend", json={"user_id": "kept"}, headers=KEYED)

    wait_for(lambda: client.get("/users/kept", headers=KEYED).json()["embedding"])

    check(document, operation, client.get("/users/kept", headers=KEYED))
    check(document, ("DELETE", "/users/{user_id}"), client.delete("/users/kept", headers=KEYED))


def test_activation_and_rollback_keep_to_their_schemas(
    document: dict[str, Any], keyed_service: Running, published_versions: list[str]
) -> None:
    client = keyed_service.client
    compared = client.post("/model/compare", json={"version": published_versions[1]}, headers=ADMIN, timeout=SWAP_S)
    check(document, ("POST", "/model/compare"), compared)
    assert compared.json()["examples"]
    for version in published_versions:
        flipped = client.post("/model/activate", json={"version": version}, headers=ADMIN)
        wait_for(lambda now=version: client.get("/model", headers=KEYED).json()["version"] == now, SWAP_S)
    back = client.post("/model/rollback", headers=ADMIN)

    check(document, ("POST", "/model/activate"), flipped)
    check(document, ("POST", "/model/rollback"), back)
    assert back.json()["live"] == published_versions[0]


def test_model_of_an_approximate_index_keeps_to_its_schema(document: dict[str, Any], tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle", n_items=5000).path
    with Running(bundle, tmp_path / "data", index="approximate") as service:
        response = service.client.get("/model")

    check(document, ("GET", "/model"), response)
    assert set(response.json()["index"]) == {"kind", "recall_at_100", "depths", "lists"}


def _unready(url: str) -> httpx.Response | None:
    """Ask over a connection of its own: one that is kept may be closed while it is asked."""
    answer = httpx.get(f"{url}/readyz", trust_env=False)
    return answer if answer.status_code == 503 else None


def test_answers_of_a_service_in_trouble_keep_to_their_schemas(
    document: dict[str, Any], toy_bundle: Path, tmp_path: Path
) -> None:
    keys = {"api_keys": KEY, "admin_key": ADMIN_KEY, "rate_per_s": "8"}
    with Running(toy_bundle, tmp_path, drain_s="5", **keys) as service:
        os.kill(service.store_pid(), signal.SIGSTOP)
        lost = {
            ("POST", "/events"): service.client.post("/events", json={"events": [EVENT]}, headers=KEYED),
            ("GET", "/users/{user_id}"): service.client.get("/users/u", headers=KEYED),
            ("DELETE", "/users/{user_id}"): service.client.delete("/users/u", headers=KEYED),
            ("POST", "/model/rollback"): service.client.post("/model/rollback", headers=ADMIN),
            ("PUT", "/scenarios/{name}"): service.client.put("/scenarios/s", json={}, headers=ADMIN),
            ("DELETE", "/scenarios/{name}"): service.client.delete("/scenarios/s", headers=ADMIN),
        }
        os.kill(service.store_pid(), signal.SIGCONT)
        limited = wait_for(
            lambda: next(
                (r for r in [service.client.get("/model", headers=KEYED)] if r.status_code == 429),
                None,
            ),
            every_s=0,
        )
        service.process.send_signal(signal.SIGTERM)
        unready = wait_for(lambda: _unready(service.url), 4.0)

    for operation, response in lost.items():
        assert response.status_code == 503
        check(document, operation, response)
    check(document, ("GET", "/model"), limited)
    check(document, ("GET", "/readyz"), unready)
    assert unready.json()["ready"] is False


IDS = [
    "u", "u" * 128, "u" * 129, "", "🙂" * 128, "🙂" * 129, "a/b", "a b", " ", "\u00a0", "\u202e", "é", "a\nb",
    "a\n", "\n", "\x00", "\x1f", "\x7f", "\x80", "\x9f", "%41", "a?b#c", "..%", "\\",
]  # fmt: skip


@pytest.mark.parametrize("user_id", IDS)
def test_id_is_accepted_where_its_schema_allows_it(
    document: dict[str, Any], keyed_service: Running, user_id: str
) -> None:
    operation = document["paths"]["/users/{user_id}"]["get"]
    schema = operation["parameters"][0]["schema"]
    is_valid = jsonschema_rs.validator_for(schema).is_valid(user_id)

    read = keyed_service.client.get(f"/users/{quote(user_id, safe='')}", headers=KEYED)
    asked = keyed_service.client.post("/recommend", json={"user_id": user_id}, headers=KEYED)
    shown = keyed_service.client.post("/recommend", json={"history": [user_id]}, headers=KEYED)

    assert read.status_code == asked.status_code == shown.status_code == (200 if is_valid else 422)


REQUESTS = {
    "/recommend": "RecommendRequest", "/similar": "SimilarRequest", "/events": "EventsRequest",
    "/items/search": "ItemsSearchRequest", "/recommend/batch": "BatchRequest", "/page": "PageRequest",
}  # fmt: skip
EVENTS = [
    EVENT, {}, {"user_id": "u"}, {"item_id": "i1"}, [], None, 5, "event",
    *[EVENT | {"user_id": each} for each in (*IDS, 5, None, True, ["u"])],
    *[EVENT | {"item_id": each} for each in (*IDS, 5, None)],
    *[EVENT | {"event_id": each} for each in ("e", "e" * 128, "e" * 129, "", None, 5, "a\n")],
    *[EVENT | {"type": each} for each in ("view", "t" * 64, "t" * 65, "", None, 5, "a\n")],
    *[EVENT | {"recommendation_id": each} for each in ("r", "r" * 64, "r" * 65, "", None, 5)],
    *[EVENT | {"timestamp": each} for each in (0, -1, 1.5, -0.0, 1e11, 99_999_999_999, "1", True, None, 1e300, 10**30)],
    *[EVENT | {"value": each} for each in (0, -1e12, 1e12, 10**12 + 1, -(10**12) - 1, "1", True, None, 1e300, 10**30)],
    EVENT | {"colour": "red"}, EVENT | {"USER_ID": "u"},
]  # fmt: skip


def test_event_is_stored_where_its_schema_allows_it(document: dict[str, Any], keyed_service: Running) -> None:
    validator = jsonschema_rs.validator_for({**document, "$ref": "#/components/schemas/Event"})

    answer = keyed_service.client.post("/events", json={"events": EVENTS}, headers=KEYED).json()

    refused = {each["index"] for each in answer["rejected"] if each["reason"] == "invalid"}
    for index, event in enumerate(EVENTS):
        assert validator.is_valid(event) == (index not in refused), event


def test_limits_of_the_lists_are_those_of_the_schemas(document: dict[str, Any], keyed_service: Running) -> None:
    schemas = document["components"]["schemas"]
    asked, sent = schemas["RecommendRequest"], schemas["EventsRequest"]
    most = {name: asked["properties"][name]["maxItems"] for name in ("history", "exclude", "candidates")}

    assert (asked["properties"]["k"]["minimum"], asked["properties"]["k"]["maximum"]) == (1, 200)
    assert (sent["properties"]["events"]["minItems"], sent["properties"]["events"]["maxItems"]) == (1, 1000)
    assert [schemas[name]["additionalProperties"] for name in ("RecommendRequest", "EventsRequest", "Event")] == [
        False, False, False,
    ]  # fmt: skip
    for name, limit in most.items():
        for n, status in ((limit, 200), (limit + 1, 422)):
            body = {"user_id": "u", name: ["i1"] * n}
            assert keyed_service.client.post("/recommend", json=body, headers=KEYED).status_code == status, (name, n)
    for n, status in ((1000, 200), (1001, 422), (0, 422)):
        response = keyed_service.client.post("/events", json={"events": [{}] * n}, headers=KEYED)
        assert response.status_code == status, n


def test_a_field_stands_beside_no_choice_that_makes_generators_forget_it(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        if "properties" in schema:
            assert not {"anyOf", "oneOf", "allOf"} & set(schema), name


def test_examples_of_the_document_are_accepted(document: dict[str, Any], keyed_service: Running) -> None:
    for path, name in REQUESTS.items():
        for example in document["components"]["schemas"][name]["examples"]:
            assert keyed_service.client.post(path, json=example, headers=KEYED).status_code == 200, example


def test_method_that_is_not_there_is_told_which_are(document: dict[str, Any], keyed_service: Running) -> None:
    for path in document["paths"]:
        response = keyed_service.client.request(
            "TRACE", path.replace("{user_id}", "u").replace("{item_id}", "i").replace("{name}", "n"), headers=ADMIN
        )

        assert response.status_code == 405, path
        methods = [each.upper() for each in document["paths"][path]]
        assert set(response.headers["allow"].split(", ")) - {"HEAD"} == set(methods)
        assert all(method in response.json()["error"]["message"] for method in methods)


def test_document_is_small_and_the_same_each_time(keyed_service: Running) -> None:
    first, second = (keyed_service.client.get("/openapi.json").content for _ in range(2))

    assert first == second
    assert len(json.dumps(json.loads(first))) < 128 << 10
