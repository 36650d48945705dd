"""The golden answers of a bundle, which a loaded model must reproduce before it answers anybody."""

from collections.abc import Sequence

import numpy as np

from service.bundle import Bundle, Float32, Golden
from service.errors import DegradedError, GoldenError
from service.model.catalogue import Catalogue
from service.model.student import Student
from service.search.addend import Addends, stand, weigh

GOLDEN_TOLERANCE = 1e-4
"""How far off a score may be, as a share of the greatest score of the answer's user."""
GOLDEN_RECALL = 0.9
"""The share of the golden items that an approximate search must find."""


def compare_golden(bundle: Bundle, student: Student, catalogue: Catalogue) -> None:
    """Check that a loaded model reproduces the golden answers of its bundle. Raises GoldenError if it does not.

    Exact scores must agree with every answer. An exact search must find all golden items, an approximate one
    GOLDEN_RECALL of them.
    """
    histories = [catalogue.find_rows(golden.history)[0] for golden in bundle.golden]
    try:
        users = student.encode(histories)
    except DegradedError as exc:
        raise GoldenError(f"{bundle.path}: the golden answers: {exc}") from exc
    shares = []
    for number, (golden, history, user) in enumerate(zip(bundle.golden, histories, users, strict=True), start=1):
        weighed = _weigh(golden, history, user[None], catalogue)
        is_same, share = _compare_answer(golden, *weighed, catalogue)
        shares.append(share)
        if not is_same:
            raise GoldenError(f"{bundle.path}: the model does not reproduce golden answer {number}; it is not served")
    least = 1.0 if catalogue.search.recall == 1.0 else GOLDEN_RECALL
    if sum(shares) < least * len(shares):
        raise GoldenError(f"{bundle.path}: the search does not find the golden answers; it is not served")


def _weigh(
    golden: Golden, history: Sequence[int], users: Float32, catalogue: Catalogue
) -> tuple[Float32, Addends | None]:
    """Return the user as it is multiplied, and what is added to its scores: with the counts and gap of an answer."""
    if (parts := catalogue.parts) is None:
        return users, None
    standing = None
    if catalogue.has_trend:
        counts = parts.counts_at(golden.now)
        rows, _ = catalogue.find_rows(golden.counts)
        counts[rows] = list(golden.counts.values())
        standing = stand(parts, counts)
    gap = np.nan if golden.gap_s is None else np.log1p(golden.gap_s)
    return weigh(parts, users, [history], np.array([gap]), standing)


def _compare_answer(
    golden: Golden, users: Float32, addends: Addends | None, catalogue: Catalogue
) -> tuple[bool, float]:
    """Compare one answer. users: the user vector, float32 [1, dim]. addends: what is added to its scores.

    Returns whether its items have the scores it says and no other item has a better one; and the share of its items, or
    of equally good ones, that the search finds.
    """
    expected = np.array([score for _, score in golden.items])
    rows, _ = catalogue.find_rows([item_id for item_id, _ in golden.items])
    scores = catalogue.exact_scores(users, addends)[0]
    tolerance = GOLDEN_TOLERANCE * max(1e-6, float(abs(scores).max()))
    best = -np.sort(np.partition(-scores, len(rows) - 1)[: len(rows)])
    is_same = bool((abs(scores[rows] - expected) <= tolerance).all() and (abs(best - expected) <= tolerance).all())
    (ranked,) = catalogue.best(catalogue.score(users, len(rows), 0, addends), len(rows), [()])
    n_found = 0 if ranked is None else int((ranked[1] >= expected.min() - tolerance).sum())
    return is_same, n_found / len(rows)
