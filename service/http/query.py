"""From a checked body to a query: what it asks is looked up in the version that will answer it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.catalogue.attributes import Attributes
from service.catalogue.column import Mask
from service.catalogue.field import check_fields
from service.catalogue.filter import Filter, nearest, parse, shown
from service.errors import FieldError
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.recommendation.budget import BudgetRule
from service.recommendation.job import Query
from service.recommendation.rule import Cap, Rules
from service.release.generation import Generation
from service.request.recommend import ChoiceDefaults, ListDefaults, ListRequest, MaxPer, RecommendRequest
from service.request.similar import SimilarRequest, parse_similar_request
from service.wire.trace import Trace

_RULED = frozenset({"boost", "max_per", "diversity", "pin", "offset", "trend"})
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Asking:
    """A way to ask for a list: its path, how a body of it is checked, and how the checked body becomes a query."""

    path: str
    parse: Callable[[bytes], Any]
    make: Callable[[Any, Generation, BudgetRule, Trace, Metrics], Query]


def make_query(
    asked: RecommendRequest, generation: Generation, rule: BudgetRule, trace: Trace, metrics: Metrics
) -> Query:
    """Return the query of a POST /recommend to one version. rule: makes its budget. Raises RequestError."""
    query = _begin(asked, generation, rule, trace)
    query.candidates, query.is_explained = asked.candidates, asked.explain
    return _complete(query, asked, generation, metrics)


def make_similar_query(
    asked: SimilarRequest, generation: Generation, rule: BudgetRule, trace: Trace, metrics: Metrics
) -> Query:
    """Return the query of a POST /similar to one version. rule: makes its budget. Raises RequestError."""
    query = _begin(asked, generation, rule, trace)
    query.similar_to = asked.anchors()
    check_anchors("item_ids" if asked.item_id is None else "item_id", query.similar_to, generation)
    return _complete(query, asked, generation, metrics)


def check_anchors(path: str, item_ids: Sequence[str], generation: Generation) -> None:
    """Raises FieldError unless one of the items that are asked about is known. path: of the field that names them."""
    if all(generation.catalogue.find_row(item_id) is None for item_id in item_ids):
        named = ", ".join(map(shown, item_ids[:_MOST_NAMED])) + (", ..." if len(item_ids) > _MOST_NAMED else "")
        raise FieldError(path, f"nothing is known of {named}: give the id of an item of the catalogue")


def _begin(asked: RecommendRequest | SimilarRequest, generation: Generation, rule: BudgetRule, trace: Trace) -> Query:
    return Query(
        user_id=asked.user_id,
        k=asked.k,
        history=asked.history,
        exclude=asked.exclude,
        exclude_seen=generation.exclude_seen if asked.exclude_seen is None else asked.exclude_seen,
        candidates=None,
        caller=trace,
        budget=rule.start(trace.arrived, asked.budget_ms),
        is_debug=asked.debug,
        span=trace.span,
        asked=asked,
        n_items=len(generation.catalogue),
    )


def _complete(query: Query, asked: ListRequest, generation: Generation, metrics: Metrics) -> Query:
    """Return the query with what is asked of the list."""
    if not _RULED.isdisjoint(asked.model_fields_set):
        query.rules = _rules_of(asked, generation.catalogue, metrics)
    if asked.filter:
        query.mask = _mask(parse(asked.filter, generation.catalogue.attributes), metrics)
    if asked.fields:
        query.fields = check_fields(asked.fields, generation.catalogue.attributes)
    return query


def check_fit(asked: ChoiceDefaults, catalogue: Catalogue) -> None:
    """Raises FieldError where a list asks for what a version, or its items, do not have."""
    attributes = catalogue.attributes
    _check_trend(asked, catalogue)
    for place, boost in enumerate(asked.boost):
        parse(boost.if_, attributes, f"boost.{place}.if")
    for place, cap in enumerate(asked.max_per):
        _cap(cap, attributes, f"max_per.{place}.attribute")
    if asked.filter:
        parse(asked.filter, attributes)
    if asked.fields:
        check_fields(asked.fields, attributes)


def _mask(asked: Filter, metrics: Metrics) -> Mask:
    metrics.filter_masks["hit" if asked.is_known else "miss"].inc()
    return asked.mask()


def _check_trend(asked: ListDefaults, catalogue: Catalogue) -> None:
    if asked.trend != 1 and not catalogue.has_trend:
        raise FieldError("trend", "the scores of the model that answers have no trend")


def _rules_of(asked: ListRequest, catalogue: Catalogue, metrics: Metrics) -> Rules | None:
    """Return what is asked of the list; None where it is no more than the best items. Raises RequestError."""
    attributes = catalogue.attributes
    _check_trend(asked, catalogue)
    paged = asked if isinstance(asked, RecommendRequest) else None
    rules = Rules(
        offset=paged.offset if paged else 0,
        boosts=[
            (_mask(parse(each.if_, attributes, f"boost.{place}.if"), metrics), math.log(each.by))
            for place, each in enumerate(asked.boost)
        ],
        caps=[_cap(each, attributes, f"max_per.{place}.attribute") for place, each in enumerate(asked.max_per)],
        diversity=asked.diversity,
        pins={pin.position: pin.item_id for pin in paged.pin} if paged else {},
        trend=asked.trend,
    )
    asks = (rules.offset, rules.boosts, rules.caps, rules.diversity, rules.pins, rules.trend != 1)
    is_plain = not any(asks)
    return None if is_plain else rules


def _cap(asked: MaxPer, attributes: Attributes, path: str) -> Cap:
    name = asked.attribute
    if name not in attributes.names:
        kind = "is no text attribute" if name in attributes else "is unknown"
        raise FieldError(path, f"{shown(name)} {kind}; {nearest(name, attributes.names)}")
    values, codes, starts = attributes.codes(name)
    return Cap(codes, starts, len(values), asked.n)


SIMILAR = Asking("/similar", parse_similar_request, make_similar_query)
