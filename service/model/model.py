"""A loaded model: the encoders and the catalogue of a bundle, held against the bundle's golden answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.bundle import BundleError, Manifest, open_bundle
from service.errors import StartError
from service.model.catalogue import Catalogue
from service.model.golden import compare_golden
from service.model.item_encoder import ItemEncoder
from service.model.student import Student
from service.search.choice import Kind, open_search


@dataclass(frozen=True, slots=True)
class Model:
    """What requests are answered from. The bundle's items are not kept: the catalogue has what is needed of them.

    golden_histories: those of the golden answers, item ids, the oldest first.
    """

    manifest: Manifest
    student: Student
    catalogue: Catalogue
    golden_histories: Sequence[Sequence[str]] = ()


def load_model(
    path: Path,
    *,
    kind: Kind,
    codes: Path,
    warn: Callable[[str], Any],
    examine: Callable[[Student, Manifest], Any] = lambda student, manifest: None,
) -> Model:
    """Check the bundle at path, load it, and compare its answers with the golden ones. Raises StartError.

    kind: how the catalogue is searched. codes: the directory where codes are kept. warn: is told what makes the search
    slow (see service.search.choice). examine: is given the encoder before anything else is done with it.
    """
    try:
        bundle = open_bundle(path)
        student = Student(bundle)
    except BundleError as exc:
        raise StartError(str(exc)) from exc
    examine(student, bundle.manifest)
    catalogue = Catalogue(bundle, open_search(bundle, student.encode, kind=kind, directory=codes, warn=warn))
    compare_golden(bundle, student, catalogue)
    student.gather_from(catalogue.table)
    if bundle.table.encoding is not None:
        catalogue.use_encoder(ItemEncoder(bundle))
    return Model(bundle.manifest, student, catalogue, [golden.history for golden in bundle.golden])
