"""Scenarios: named defaults for the fields of a request for a list, and the body of PUT /scenarios/{name}."""

from pydantic import ConfigDict

from service.request.recommend import BudgetMs, ChoiceDefaults, RecommendRequest, check_reach, parse_list


class Scenario(ChoiceDefaults):
    """Defaults for requests that name the scenario: any field but user_id, history, offset and debug."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"k": 5, "diversity": 0.3, "exclude_seen": True}]})

    budget_ms: BudgetMs = None

    def complete(self, asked: RecommendRequest) -> RecommendRequest:
        """Return a request with the fields that it does not give. Raises ValueError where they cannot go together."""
        given = asked.model_fields_set
        own = {name: getattr(self, name) for name in self.model_fields_set if name not in given}
        whole = asked.model_copy(update=own)
        check_reach(whole.offset, whole.k)
        return whole

    def dump(self) -> bytes:
        """Return the fields that are given, as JSON."""
        return self.model_dump_json(exclude_unset=True, by_alias=True).encode()


def parse_scenario(body: bytes) -> Scenario:
    """Check a body of PUT /scenarios/{name}. Raises RequestError."""
    return parse_list(Scenario, body)
