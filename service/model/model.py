"""A loaded model: a verified bundle's encoder and item matrix, held against the bundle's golden answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.bundle import Bundle, BundleError, Float32, Golden, Manifest, open_bundle
from service.errors import DegradedError, GoldenError, StartError
from service.model.catalogue import Catalogue
from service.model.student import Student
from service.search.choice import Kind, open_search

GOLDEN_TOLERANCE = 1e-4
GOLDEN_RECALL = 0.9


@dataclass(frozen=True, slots=True)
class Model:
    """What answers requests. The bundle's list of items is not kept: the catalogue has what it needs of it."""

    manifest: Manifest
    student: Student
    catalogue: Catalogue


def load_model(path: Path, *, kind: Kind, codes: Path, warn: Callable[[str], Any]) -> Model:
    """Verify and load a bundle, and hold it against its golden answers. Raises StartError.

    kind, codes, warn: how the catalogue is searched, where codes are kept, and who hears that it is slow (see plan).
    """
    try:
        bundle = open_bundle(path)
    except BundleError as exc:
        raise StartError(str(exc)) from exc
    student = Student(bundle)
    catalogue = Catalogue(bundle, open_search(bundle, student.encode, kind=kind, directory=codes, warn=warn))
    compare_golden(bundle, student, catalogue)
    return Model(bundle.manifest, student, catalogue)


def compare_golden(bundle: Bundle, student: Student, catalogue: Catalogue) -> None:
    """Raises GoldenError unless the loaded model reproduces every golden answer of its bundle.

    An approximate search may miss a few of the best; what it finds must be as good as its recall says, or nearly.
    """
    try:
        users = student.encode([catalogue.find_rows(golden.history)[0] for golden in bundle.golden])
    except DegradedError as exc:
        raise GoldenError(f"{bundle.path}: the golden answers: {exc}") from exc
    shares = []
    for number, (golden, user) in enumerate(zip(bundle.golden, users, strict=True), start=1):
        is_same, share = _compare_answer(golden, user[None], catalogue)
        shares.append(share)
        if not is_same:
            raise GoldenError(f"{bundle.path}: the model does not reproduce golden answer {number}; it is not served")
    least = 1.0 if catalogue.search.recall == 1.0 else GOLDEN_RECALL
    if sum(shares) < least * len(shares):
        raise GoldenError(f"{bundle.path}: the search does not find the golden answers; it is not served")


def _compare_answer(golden: Golden, users: Float32, catalogue: Catalogue) -> tuple[bool, float]:
    """Return whether the named items have their scores and none has better ones; and the share that a search finds."""
    expected = np.array([score for _, score in golden.items])
    rows, _ = catalogue.find_rows([item_id for item_id, _ in golden.items])
    scores = catalogue.exact_scores(users)[0]
    tolerance = GOLDEN_TOLERANCE * max(1e-6, float(abs(scores).max()))
    best = -np.sort(np.partition(-scores, len(rows) - 1)[: len(rows)])
    is_same = bool((abs(scores[rows] - expected) <= tolerance).all() and (abs(best - expected) <= tolerance).all())
    (ranked,) = catalogue.best(catalogue.score(users, len(rows), 0), len(rows), [()])
    n_found = 0 if ranked is None else int((ranked[1] >= expected.min() - tolerance).sum())
    return is_same, n_found / len(rows)
