"""The kinds of teachers that a run can have, by name, and those of a run directory."""

from collections.abc import Iterable
from pathlib import Path

from training.evaluation.judge import Ranking
from training.teacher.kind import RANKING, Kind, Member
from training.teacher.linear import LINEAR
from training.teacher.mix import load_factors
from training.teacher.transformer import TEXT, TRANSFORMER, TWIN

KINDS: dict[str, Kind] = {kind.name: kind for kind in (TRANSFORMER, LINEAR, TEXT, TWIN)}
"""Every kind that teacher.members may name, in the order in which reports show them."""


def open_member(run: Path, name: str) -> Member:
    """Open a teacher that was trained in the run directory."""
    return KINDS[name].open(run)


def mixed_members(run: Path) -> list[str]:
    """Return the names of the teachers that take part in the mix."""
    return list(load_factors(run / "mix"))


def member_rankings(run: Path) -> dict[str, Ranking]:
    """Return each mixed teacher's own ranking of the judged part; none where the mix is one teacher."""
    names = mixed_members(run)
    return {name: Ranking.load(run / KINDS[name].place / RANKING) for name in names} if len(names) > 1 else {}


def has_neural(names: Iterable[str]) -> bool:
    """Return whether any of the named kinds has states, layers and item vectors to teach."""
    return any(KINDS[name].is_neural for name in names)


def refit_order(names: Iterable[str]) -> list[str]:
    """Return names in the order in which a refit trains them: neural ones, others trained in epochs, then the rest.

    The order decides the key of the refit and the rounding of the sum of the labels, so it must not change.
    """
    return sorted(names, key=lambda name: (not KINDS[name].is_neural, not KINDS[name].labels_place))


def peer_pairs() -> list[tuple[str, str]]:
    """Return (kind, peer) of every comparison with a model from elsewhere that a report makes."""
    return [(kind.name, peer) for kind in KINDS.values() for peer in kind.peers]
