"""Re-ranking: small functions of a ranked list, applied after scoring and before the list is cut to k.

A rule is added here and listed in RULES. It says how deep the list must be for k items to be left after it, and gives
back a list in its own order. What must never be shown is not a rule's business: that is masked before the top K.
"""

from collections.abc import Sequence
from typing import Protocol

from service.recommendation.job import Query
from service.search.protocol import Ranked


class Rule(Protocol):
    """One step of re-ranking."""

    def depth(self, query: Query) -> int:
        """Return how many of the best rows this rule needs to see for a query; query.k where it changes nothing."""

    def apply(self, query: Query, ranked: Ranked) -> Ranked:
        """Return rows and scores in the order to show; the scores stay those of their rows."""


RULES: Sequence[Rule] = ()
"""Every rule, in the order in which they are applied."""


def depth_of(rules: Sequence[Rule], query: Query) -> int:
    """Return how many of the best rows must be ranked for a query, at least query.k."""
    return max((rule.depth(query) for rule in rules), default=query.k) if rules else query.k


def apply_rules(rules: Sequence[Rule], query: Query, ranked: Ranked) -> Ranked:
    """Apply every rule in turn, and cut what is left to query.k."""
    for rule in rules:
        ranked = rule.apply(query, ranked)
    rows, scores = ranked
    return (rows, scores) if len(rows) <= query.k else (rows[: query.k], scores[: query.k])
