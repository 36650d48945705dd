"""A request that names a scenario: it is completed with what the scenario says, and made into a query."""

from collections.abc import Sequence

from service.catalogue.filter import nearest, shown
from service.errors import FieldError, RequestError
from service.http.query import make_query
from service.metrics import Metrics
from service.recommendation.budget import BudgetRule
from service.recommendation.job import Query
from service.release.generation import Generation
from service.request.recommend import RecommendRequest
from service.request.scenario import Scenario
from service.scenario.book import ScenarioBook
from service.wire.trace import Trace


def not_there(name: str, names: Sequence[str]) -> str:
    """Return what is said of a scenario that there is not. names: of those that there are."""
    return f"there is no scenario {shown(name)}; {nearest(name, names) if names else 'there are none'}"


class Defaults:
    """Makes queries of requests, with the fields of the scenarios that they name."""

    def __init__(self, book: ScenarioBook, metrics: Metrics) -> None:
        self._book, self._count = book, metrics.scenario_requests

    def make(
        self, asked: RecommendRequest, generation: Generation, rule: BudgetRule, trace: Trace, metrics: Metrics
    ) -> Query:
        """Return the query of a request to one version. rule: makes its budget. Raises RequestError."""
        if asked.scenario is None:
            return make_query(asked, generation, rule, trace, metrics)
        whole = self._complete(asked, asked.scenario)
        try:
            query = make_query(whole, generation, rule, trace, metrics)
        except FieldError as exc:
            if exc.field.split(".")[0] in asked.model_fields_set:
                raise
            raise self._misfit(asked.scenario, exc) from exc
        self._count["used"].inc()
        return query

    def _complete(self, asked: RecommendRequest, name: str) -> RecommendRequest:
        scenario = self._find(name)
        try:
            return scenario.complete(asked)
        except ValueError as exc:
            raise FieldError("offset", f"{exc}; k is that of the scenario {shown(name)}") from exc

    def _find(self, name: str) -> Scenario:
        try:
            scenario = self._book.find(name)
        except RequestError as exc:
            raise self._misfit(name, exc) from exc
        if scenario is None:
            self._count["unknown"].inc()
            raise FieldError("scenario", not_there(name, self._book.names()))
        return scenario

    def _misfit(self, name: str, exc: RequestError) -> FieldError:
        self._count["misfit"].inc()
        return FieldError("scenario", f"{shown(name)} does not fit the model that is served: {exc.message}")
