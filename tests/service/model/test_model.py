"""A model is held against the golden answers of its bundle."""

from pathlib import Path

import pytest

from service.errors import GoldenError
from service.model.catalogue import Catalogue
from service.model.golden import compare_golden
from service.model.model import load_model
from service.model.student import Student
from service.search.approximate import Approximate
from service.search.choice import open_search
from tests.service.toy import mean_encoder, write_toy


def refuse_warning(message: str) -> None:
    raise AssertionError(message)


def test_codes_of_another_table_are_refused_by_the_golden_answers(tmp_path: Path) -> None:
    one, other = (write_toy(tmp_path / str(seed), n_items=2000, seed=seed) for seed in (0, 9))
    search = open_search(one, Student(one).encode, kind="approximate", directory=tmp_path / "kept", warn=refuse_warning)
    assert isinstance(search, Approximate)

    mixed = Approximate(other.table, search.measured)

    with pytest.raises(GoldenError, match="does not find the golden answers"):
        compare_golden(other, Student(other), Catalogue(other, mixed))


def test_encoder_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle", encoder=mean_encoder(scale=1.1))

    with pytest.raises(GoldenError, match="does not reproduce golden answer 2"):
        load_model(bundle.path, kind="auto", codes=tmp_path / "kept", warn=refuse_warning)
