from dataclasses import asdict, replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import StoreError
from service.experiment.record import KINDS, Experiment, dump_experiment, parse_experiment

RUNNING = Experiment("canary", "a" * 16, "b" * 16, 5.0, "0" * 16, 1_767_225_600.0, "0123456789abcdef")


@pytest.mark.parametrize("kind", KINDS)
def test_record_is_read_as_it_was_written(kind):
    for experiment in (
        replace(RUNNING, kind=kind),
        replace(RUNNING, kind=kind, ended=2e9, reason="stopped"),
        replace(RUNNING, conversions=("buy", "rent")),
    ):
        assert parse_experiment(dump_experiment(experiment)) == experiment
    assert parse_experiment(b"") is None


def test_record_runs_until_it_has_ended():
    assert RUNNING.is_running
    assert not replace(RUNNING, ended=2e9).is_running


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "hidden"), ("kind", None), ("kind", []), ("version", "A" * 16), ("version", "a" * 15),
        ("version", 7), ("version", "b" * 16), ("live", None), ("live", "../../../../../x"), ("share", 0),
        ("share", 100.5), ("share", "5"), ("share", True), ("share", -5), ("salt", ""), ("salt", "x" * 16),
        ("salt", "0" * 65), ("started", None), ("started", -1), ("started", 1e13), ("started", "now"), ("id", "g" * 16),
        ("id", None), ("ended", "never"), ("ended", -1), ("reason", None), ("reason", "x" * 301),
        ("conversions", None), ("conversions", "buy"), ("conversions", [7]), ("conversions", ["x" * 65]),
        ("conversions", ["x"] * 21),
    ],
)  # fmt: skip
def test_record_with_a_wrong_field_is_none_of_ours(field, value):
    with pytest.raises(StoreError):
        parse_experiment(orjson.dumps(asdict(RUNNING) | {field: value}))


@pytest.mark.parametrize("field", [name for name in asdict(RUNNING) if name != "conversions"])
def test_record_that_lacks_a_field_is_none_of_ours(field):
    with pytest.raises(StoreError):
        parse_experiment(orjson.dumps({name: value for name, value in asdict(RUNNING).items() if name != field}))


def test_record_of_before_conversions_were_fixed_counts_what_enters_histories():
    fields = {name: value for name, value in asdict(RUNNING).items() if name != "conversions"}

    assert parse_experiment(orjson.dumps(fields)) == RUNNING


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text("abk", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abk", max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.one_of(st.binary(min_size=1, max_size=50), _JSON.map(orjson.dumps)))
def test_whatever_else_stands_there_is_none_of_ours(value):
    with pytest.raises(StoreError):
        parse_experiment(value)
