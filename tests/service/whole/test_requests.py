"""What the API takes and what it refuses, over a real socket."""

import json
import time
from collections.abc import Iterator

import httpx
import jsonschema
import numpy as np
import pytest

from service.bundle import open_bundle
from tests.service.running import Running, wait_for
from tests.service.toy import exact_scores, mean_encoder, write_toy

RECOMMEND = "/recommend"
BAD_BODIES = {
    "k_of_0": b'{"user_id":"u","k":0}',
    "k_of_201": b'{"user_id":"u","k":201}',
    "k_of_1_5": b'{"user_id":"u","k":1.5}',
    "k_as_text": b'{"user_id":"u","k":"5"}',
    "k_as_true": b'{"user_id":"u","k":true}',
    "k_as_null": b'{"user_id":"u","k":null}',
    "k_huge": b'{"user_id":"u","k":1' + b"0" * 5000 + b"}",
    "k_nan": b'{"user_id":"u","k":NaN}',
    "empty_user": b'{"user_id":""}',
    "user_of_129": b'{"user_id":"' + b"u" * 129 + b'"}',
    "user_with_nul": b'{"user_id":"a\\u0000b"}',
    "user_with_lone_surrogate": b'{"user_id":"\\ud800"}',
    "user_not_utf8": b'{"user_id":"\xff\xfe"}',
    "user_as_number": b'{"user_id":5}',
    "unknown_field": b'{"user_id":"u","limit":5}',
    "neither_user_nor_history": b'{"k":5}',
    "long_history": json.dumps({"history": ["i1"] * 201}).encode(),
    "long_exclude": json.dumps({"user_id": "u", "exclude": ["i1"] * 1001}).encode(),
    "long_candidates": json.dumps({"user_id": "u", "candidates": ["i1"] * 1001}).encode(),
    "empty_item_in_history": b'{"history":[""]}',
    "item_of_129_in_exclude": b'{"user_id":"u","exclude":["' + b"x" * 129 + b'"]}',
    "budget_of_0": b'{"user_id":"u","budget_ms":0}',
    "budget_of_1001": b'{"user_id":"u","budget_ms":1001}',
    "infinity": b'{"user_id":"u","k":Infinity}',
    "not_json": b"{",
    "empty": b"",
    "a_list": b"[]",
    "deep": b"[" * 200_000,
    "diversity_above_1": b'{"user_id":"u","diversity":1.5}',
    "pin_at_0": b'{"user_id":"u","pin":[{"item_id":"i1","position":0}]}',
    "scenario": b'{"user_id":"u","scenario":"home"}',
    "explain": b'{"user_id":"u","explain":1}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_recommend_refuses_a_malformed_body(shared_service: Running, body: bytes) -> None:
    response = shared_service.client.post(RECOMMEND, content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 422
    error = response.json()["error"]
    assert error["code"] == "malformed"
    assert error["message"]
    assert "Traceback" not in response.text


def test_page_and_pins_that_no_list_can_have_are_refused_by_name(shared_service: Running) -> None:
    pins = [{"item_id": "i1", "position": 2}]
    bodies = [
        ({"k": 10, "offset": 991}, "offset: with k it is 1000 at most"),
        ({"pin": [*pins, {"item_id": "i2", "position": 2}]}, "pin: the position 2 is there twice"),
        ({"pin": [*pins, {"item_id": "i1", "position": 3}]}, "pin: the item_id i1 is there twice"),
    ]

    for body, message in bodies:
        response = shared_service.client.post(RECOMMEND, json={"user_id": "u", **body})
        assert response.status_code == 422
        assert message in response.json()["error"]["message"]


def test_pages_share_nothing_and_pins_stand_on_theirs_alone(shared_service: Running) -> None:
    asked = {"history": ["i1", "i2"], "exclude": ["i5"]}
    pin = [{"item_id": "i1", "position": 4}, {"item_id": "i5", "position": 1}, {"item_id": "gone", "position": 2}]
    plain = [item["item_id"] for item in shared_service.recommend(**asked, k=12)["items"]]

    pages = [shared_service.recommend(**asked, pin=pin, k=3, offset=first) for first in (0, 3, 6)]
    last = shared_service.recommend(**asked, k=10, offset=55)

    shown = [item["item_id"] for page in pages for item in page["items"]]
    assert shown == [*plain[:3], "i1", *plain[3:8]]
    assert all(page["dropped_pins"] == ["i5"] and page["ignored_ids"] == ["gone"] for page in pages)
    assert "funnel" not in pages[0]
    assert len(last["items"]) == 2
    assert last["quality"]["reasons"] == ["not_enough_items"]
    assert last["funnel"] == {"catalogue": 60, "filter": 60, "seen": 57, "rules": 57, "returned": 2}


def test_diversity_changes_the_order_and_0_changes_nothing(shared_service: Running) -> None:
    plain = shared_service.recommend(history=["i1", "i2"], k=20)["items"]

    same = shared_service.recommend(history=["i1", "i2"], k=20, diversity=0, pin=[], offset=0)["items"]
    other = shared_service.recommend(history=["i1", "i2"], k=20, diversity=0.9)["items"]

    assert same == plain
    assert other != plain
    assert other[0] == plain[0]


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_body_without_the_json_header_is_415_and_shows_the_header(shared_service: Running, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}

    response = shared_service.client.post(RECOMMEND, content=b'{"user_id":"u"}', headers=headers)

    assert response.status_code == 415
    assert "Content-Type: application/json" in response.json()["error"]["message"]


@pytest.mark.parametrize(("path", "limit"), [(RECOMMEND, 1 << 20), ("/events", 2 << 20)])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_body_over_the_cap_is_413(shared_service: Running, path: str, limit: int, is_chunked: bool) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(10 * limit // 65536):
            yield b" " * 65536

    content = chunks() if is_chunked else b" " * (10 << 20)
    with httpx.Client(base_url=shared_service.url, trust_env=False) as client:
        try:
            response = client.post(path, content=content, headers={"Content-Type": "application/json"})
        except (httpx.WriteError, httpx.ReadError):
            return  # refused and closed while we were still sending

    assert response.status_code == 413
    assert response.json()["error"]["code"] == "too_large"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/recommend/batch", 405, "method_not_allowed"),
        ("POST", "/similar", 415, "unsupported_media_type"),
        ("GET", "/similar", 405, "method_not_allowed"),
        ("GET", "/items/nobody", 404, "not_found"),
        ("DELETE", "/items/a/b", 404, "not_found"),
        ("POST", "/model/activate", 403, "admin_key_needed"),
        ("POST", "/model/rollback", 403, "admin_key_needed"),
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/recommend", 405, "method_not_allowed"),
        ("DELETE", "/users/%ff", 422, "malformed"),
        ("GET", "/users/a%00b", 422, "malformed"),
        ("GET", "/users/" + "u" * 129, 422, "malformed"),
        ("GET", "/users/a%0Ab", 422, "malformed"),
        ("DELETE", "/users/", 422, "malformed"),
    ],
)
def test_what_is_not_there_is_refused_in_the_envelope(
    shared_service: Running, method: str, path: str, status: int, code: str
) -> None:
    response = shared_service.client.request(method, path)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    "user_id", ["a/b", "ünï", "{x}:h", "a b", "%41", "e\u0301", "é", "🙂", "..", "u" * 128, "\u202egnp"]
)
def test_any_valid_user_id_keeps_its_own_history(shared_service: Running, user_id: str) -> None:
    shared_service.send({"user_id": user_id, "item_id": "i7", "timestamp": 5})

    answer = shared_service.recommend(user_id=user_id)

    assert answer["user_id"] == user_id
    assert answer["quality"]["level"] == "full"
    assert "i7" not in [item["item_id"] for item in answer["items"]]


def test_half_bad_event_list_stores_the_good_half(shared_service: Running) -> None:
    future = time.time() + 3600
    good = {"user_id": "half", "item_id": "i1", "timestamp": 10}

    answer = shared_service.send(
        good,
        {"user_id": "half", "item_id": ""},
        {"user_id": "half", "item_id": "i2", "timestamp": future},
        {"user_id": "half", "item_id": "i3", "colour": "red"},
        {"user_id": "half", "item_id": "i4", "timestamp": 1_700_000_000_000},
        "not an event",
        {**good, "item_id": "i5"},
    )

    assert (answer["accepted"], answer["duplicates"]) == (2, 0)
    assert [(refusal["index"], refusal["reason"]) for refusal in answer["rejected"]] == [
        (1, "invalid"), (2, "future"), (3, "invalid"), (4, "invalid"), (5, "invalid"),
    ]  # fmt: skip
    assert "milliseconds" in answer["rejected"][3]["message"]


@pytest.mark.parametrize(
    "body", [{}, {"events": []}, {"events": [{}] * 1001}, {"events": 5}, {"events": [], "x": 1}, []]
)
def test_events_refuses_a_malformed_list(shared_service: Running, body: object) -> None:
    response = shared_service.client.post("/events", json=body)

    assert response.status_code == 422


def test_answer_matches_the_exact_formula(shared_service: Running, toy_bundle) -> None:
    scores = exact_scores(open_bundle(toy_bundle).table, [3, 1, 4])
    scores[[3, 1, 4]] = -np.inf
    best = np.argsort(-scores)[:10]

    answer = shared_service.recommend(history=["i3", "i1", "i4"], k=10)

    assert [item["item_id"] for item in answer["items"]] == [f"i{row}" for row in best]
    assert [item["score"] for item in answer["items"]] == pytest.approx(scores[best].tolist(), rel=1e-4)


def test_stored_history_answers_like_the_same_history_inline(shared_service: Running) -> None:
    listed = ["i9", "i8", "i9", "i2", "i30", "i31", "i32", "i33"]
    shared_service.send(*[{"user_id": "same", "item_id": i, "timestamp": t} for t, i in enumerate(listed)])

    stored = shared_service.recommend(user_id="same", k=20)
    inline = shared_service.recommend(history=listed, k=20)
    cached = shared_service.recommend(user_id="same", k=20)

    assert stored["items"] == inline["items"] == cached["items"]


def test_unknown_items_in_a_stored_history_are_skipped(shared_service: Running) -> None:
    shared_service.send(
        *[{"user_id": "mixed", "item_id": i, "timestamp": t} for t, i in enumerate(["i1", "gone", "i2", "gone2"])]
    )

    assert shared_service.recommend(user_id="mixed")["items"] == shared_service.recommend(history=["i1", "i2"])["items"]


def test_excluded_and_seen_items_never_shorten_the_answer(shared_service: Running) -> None:
    history = [f"i{row}" for row in range(20)]
    exclude = [f"i{row}" for row in range(20, 40)] + ["nobody"]

    answer = shared_service.recommend(history=history, exclude=exclude, k=20)

    returned = {item["item_id"] for item in answer["items"]}
    assert returned == {f"i{row}" for row in range(40, 60)}
    assert answer["ignored_ids"] == ["nobody"]
    assert answer["quality"] == {"level": "full", "reasons": []}


def test_answer_says_so_when_fewer_than_k_items_are_left(shared_service: Running) -> None:
    answer = shared_service.recommend(history=["i1"], candidates=["i1", "i2", "i3", "i2", "nobody"], k=5)

    assert {item["item_id"] for item in answer["items"]} == {"i2", "i3"}
    assert answer["quality"]["reasons"] == ["not_enough_items"]
    assert answer["ignored_ids"] == ["nobody"]


def test_seen_items_return_when_asked_for(shared_service: Running) -> None:
    answer = shared_service.recommend(history=["i1"], exclude_seen=False, candidates=["i1", "i2"])

    assert {item["item_id"] for item in answer["items"]} == {"i1", "i2"}


@pytest.mark.parametrize("body", [{"user_id": "stranger"}, {"history": []}, {"history": ["nobody"]}])
def test_cold_user_gets_popular_items(shared_service: Running, body: dict) -> None:
    answer = shared_service.recommend(**body, k=3, exclude=["i1"])

    assert [item["item_id"] for item in answer["items"]] == ["i0", "i2", "i3"]
    assert answer["quality"] == {"level": "fallback", "reasons": ["cold_user"]}


def test_budget_of_a_millisecond_is_answered_with_what_there_is(shared_service: Running) -> None:
    answers = [shared_service.recommend(history=["i1"], budget_ms=1) for _ in range(20)]

    assert all(len(answer["items"]) == 10 for answer in answers)
    assert all(answer["quality"]["reasons"] in ([], ["deadline"]) for answer in answers)


def test_stage_that_would_not_fit_into_the_budget_is_not_begun(tmp_path) -> None:
    bundle = write_toy(tmp_path / "slow", encoder=mean_encoder(wasted=1500)).path
    with Running(bundle, tmp_path / "data") as service:
        body = {"history": ["i1"], "debug": True}
        patient = service.recommend(**body, budget_ms=1000)
        hurried = []

        def is_not_begun() -> bool:  # on a busy machine the budget may be over before
            hurried.append(service.recommend(**body, budget_ms=10))
            return service.metric("retort_deadline_exceeded_total", stage="encode") == 1

        wait_for(is_not_begun)
        assert patient["debug"]["stages_ms"]["encode"] > 15
        for answer in hurried:
            assert answer["quality"] == {"level": "fallback", "reasons": ["deadline"]}
            assert "encode" not in answer["debug"]["stages_ms"]


def test_answers_keep_to_the_openapi_document(shared_service: Running) -> None:
    document = shared_service.client.get("/openapi.json").json()
    answers = {
        "RecommendResponse": shared_service.recommend(history=["i1"], debug=True),
        "EventsResponse": shared_service.send({"user_id": "doc", "item_id": "i1"}, {}),
        "ErrorResponse": shared_service.client.post(RECOMMEND, json={}).json(),
        "RecommendRequest": {"user_id": "u", "k": 200},
        "EventsRequest": {"events": [{"user_id": "u", "item_id": "i"}]},
    }

    for name, answer in answers.items():
        jsonschema.validate(answer, {**document, "$ref": f"#/components/schemas/{name}"})
    assert document["paths"]["/recommend"]["post"]["requestBody"]["required"] is True
    assert document["paths"]["/users/{user_id}"]["get"]["parameters"][0]["schema"]["maxLength"] == 128


GOOD_BODIES = [
    {"user_id": "u"}, {"history": []}, {"history": ["i1"] * 200}, {"user_id": "u", "k": 1}, {"user_id": "u", "k": 200},
    {"user_id": "u" * 128, "exclude": ["x" * 128] * 1000}, {"user_id": None, "history": ["i1"]},
    {"user_id": "u", "history": None, "candidates": None, "exclude_seen": None, "budget_ms": None},
    {"user_id": "u", "candidates": [], "exclude_seen": False, "budget_ms": 1000, "debug": True},
    {"user_id": "u", "k": 10.0, "budget_ms": 50.0}, {"history": ["i1"], "k": 2e2},
    {"user_id": "u", "k": 3.0, "pin": [{"item_id": "i1", "position": 2.0}], "offset": 1.0},
]  # fmt: skip
MORE_BAD_BODIES = [
    {"user_id": None}, {"user_id": "u", "exclude": None}, {"user_id": "u", "debug": None}, {"user_id": "u", "debug": 1},
    {"user_id": "u", "exclude": "i1"}, {"user_id": "u", "history": [1]}, {"user_id": "u", "candidates": {"i1": 1}},
    {"user_id": "u", "exclude_seen": "yes"}, {"user_id": "u", "budget_ms": "50"}, {"USER_ID": "u"},
    {"user_id": "u", "k": 10.5}, {"user_id": "u", "k": 201.0}, {"user_id": "u", "k": 1e300}, {"k": 10.0},
    {"user_id": 5, "k": 10.0}, {"user_id": "u", "k": -0.0}, {"user_id": "u", "k": 2.0, "limit": 1},
    {"user_id": "u", "pin": [{"item_id": "i1", "position": 2.5}]}, {"user_id": "u", "pin": 2.0},
]  # fmt: skip


def test_openapi_document_says_exactly_what_is_accepted(shared_service: Running) -> None:
    document = shared_service.client.get("/openapi.json").json()
    validator = jsonschema.Draft202012Validator({**document, "$ref": "#/components/schemas/RecommendRequest"})
    parsed = []
    for raw in BAD_BODIES.values():
        try:
            parsed.append(json.loads(raw, parse_constant=lambda name: pytest.fail(name)))
        except (ValueError, RecursionError, pytest.fail.Exception):
            continue  # not JSON: no schema has a say
    for body in [*parsed, *GOOD_BODIES, *MORE_BAD_BODIES]:
        content = json.dumps(body).encode()
        response = shared_service.client.post(RECOMMEND, content=content, headers={"Content-Type": "application/json"})

        is_lone = b"\\ud800" in content  # a lone surrogate is no text; a schema cannot say so
        is_unknown = isinstance(body, dict) and body.get("scenario") == "home"  # nor which scenarios there are
        assert (response.status_code == 200) == (validator.is_valid(body) and not is_lone and not is_unknown), body


def test_every_request_schema_is_bounded(shared_service: Running) -> None:
    schemas = shared_service.client.get("/openapi.json").json()["components"]["schemas"]

    def check(schema: object, where: str) -> None:
        if isinstance(schema, list):
            for part in schema:
                check(part, where)
        if not isinstance(schema, dict):
            return
        bound = {"string": "maxLength", "array": "maxItems", "integer": "maximum", "number": "maximum"}
        name = bound.get(schema.get("type", "") if isinstance(schema.get("type"), str) else "")
        limits = {"maxLength", "maxItems", "maximum", "exclusiveMaximum", "enum", "const"}
        assert name is None or limits & set(schema), f"{where}: {schema}"
        for key, part in schema.items():
            check(part, f"{where}.{key}")

    for name in ("RecommendRequest", "EventsRequest", "Event"):
        check(schemas[name], name)


def test_recommend_takes_the_largest_good_body(shared_service: Running) -> None:
    ids = [f'"{n}"'.ljust(128, '"') for n in range(1000)]

    answer = shared_service.recommend(user_id="u", history=ids[:200], exclude=ids, candidates=ids)

    assert len(answer["ignored_ids"]) == 1000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (json.dumps({"user_id": "u"} | {f"f{n}": 1 for n in range(60_000)}), "more fields and ids than"),
        ('{"user_id": "u",' + '"\\\\": 1,' * 90_000 + '"k": 1}', "more fields and ids than"),
        (json.dumps({"user_id": "u"} | {f"f{n}": 1 for n in range(500)}), "500 fields are unknown or wrong"),
        (json.dumps({"user_id": "u", "exclude": [1] * 1000}), "exclude.0: Input should be a valid string"),
    ],
)
def test_body_with_a_flood_of_mistakes_is_refused_in_one_line(shared_service: Running, body: str, message: str) -> None:
    response = shared_service.client.post(RECOMMEND, content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 422
    assert message in response.json()["error"]["message"]
    assert len(response.content) < 1000


def test_event_of_a_thousand_fields_is_refused_alone(shared_service: Running) -> None:
    good = {"user_id": "many", "item_id": "i1"}

    answer = shared_service.send(good, good | {f"f{n}": 1 for n in range(100_000)})

    assert answer["accepted"] == 1
    assert [(each["index"], each["message"]) for each in answer["rejected"]] == [(1, "an event of 100002 fields")]
