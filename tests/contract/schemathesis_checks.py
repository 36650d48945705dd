"""What schemathesis cannot know of this API, as checks of its own; it loads this file by SCHEMATHESIS_HOOKS."""

import time
from typing import Any

import jsonschema_rs
import requests
import schemathesis

_LISTS = {
    "recommend": "RecommendRequest", "similar": "SimilarRequest", "page": "PageRequest", "put_scenario": "Scenario",
}  # fmt: skip
_OF_THE_MODEL = {
    "filter", "fields", "boost", "max_per", "pin", "offset", "scenario", "slots", "item_id",
    "item_ids", "similar_to", "trend",
}  # fmt: skip


_PAUSE_S = 0.3
_seen: set[str] = set()


@schemathesis.hook
def before_call(ctx: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Wait before the first call of an operation, after which two wrong keys are tried.

    Who guesses faster than ten a second is told to wait, and not that the key is wrong.
    """
    if case.operation.label not in _seen:
        _seen.add(case.operation.label)
        time.sleep(_PAUSE_S)


@schemathesis.check
def events_are_judged_by_their_schema(ctx: Any, response: Any, case: Any) -> None:
    """Every event that the schema forbids is listed in rejected as invalid, and no other one is."""
    if case.operation.definition.raw.get("operationId") != "send_events" or response.status_code != 200:
        return
    document = case.operation.schema.raw_schema
    validator = jsonschema_rs.validator_for({**document, "$ref": "#/components/schemas/Event"})
    answer = response.json()
    events = case.body["events"]
    invalid = {each["index"] for each in answer["rejected"] if each["reason"] == "invalid"}

    assert invalid == {index for index, event in enumerate(events) if not validator.is_valid(event)}
    assert answer["accepted"] + answer["duplicates"] + len(answer["rejected"]) == len(events)


@schemathesis.check
def erased_user_has_nothing_left(ctx: Any, response: Any, case: Any) -> None:
    """After DELETE a user has no history: there is no 404 for one, since every id is that of a user."""
    if case.operation.definition.raw.get("operationId") != "erase_user" or response.status_code != 200:
        return
    sent = response.request
    key = {name: sent.headers[name] for name in ("Authorization", "X-API-Key") if name in sent.headers}

    kept = requests.get(sent.url, headers=key, timeout=10).json()

    assert (kept["count"], kept["history"], kept["embedding"]) == (0, [], None)


@schemathesis.check
def only_what_the_model_decides_is_refused_beyond_the_schema(ctx: Any, response: Any, case: Any) -> None:
    """A list that the schema allows is refused for what names an attribute or a scenario, for a sum or a repeat."""
    model = _LISTS.get(case.operation.definition.raw.get("operationId"))
    if model is None or response.status_code != 422:
        return
    validator = jsonschema_rs.validator_for(
        {**case.operation.schema.raw_schema, "$ref": f"#/components/schemas/{model}"}
    )
    is_of_the_path = response.json()["error"]["message"].startswith("name: ")
    if isinstance(case.body, dict) and validator.is_valid(case.body) and not is_of_the_path:
        fields = [each["field"].split(".") for each in response.json()["error"].get("details", [])]
        named = {field[2] if field[0] == "slots" and len(field) > 2 else field[0] for field in fields}
        assert named and named <= _OF_THE_MODEL, response.text
