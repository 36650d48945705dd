"""The sum of taste, neighbours and trend: against the formula, and as a bundle of format 2 carries it."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle import (
    FORMAT,
    SUM_FORMAT,
    BundleCorruptError,
    Golden,
    ItemTable,
    add_up,
    bundle_version,
    fingerprint,
    open_bundle,
    parse_score,
)
from tests.service.toy import AS_OF, DIM, N_ITEMS, slow_sum, toy_parts, write_toy, write_toy_sum

SCORE = toy_parts().rule.to_json()
HISTORIES = st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=12), min_size=1, max_size=4)


def changed(*path: str, to: Any) -> dict[str, Any]:
    """The field `score` with one thing changed; to None: left out."""
    score = copy.deepcopy(SCORE)
    place = score
    for name in path[:-1]:
        place = place[name]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return score


@settings(max_examples=40, deadline=None)
@given(
    HISTORIES,
    st.sampled_from([None, 0.0, 59.0, 1e5, 1e12]),
    st.sets(st.sampled_from(["taste", "near", "trend"]), min_size=1),
)
def test_sum_is_the_formula_whatever_parts_there_are(histories, gap_s, on) -> None:
    parts = toy_parts()
    rule = replace(
        parts.rule,
        has_taste="taste" in on,
        neighbours=parts.rule.neighbours if "near" in on else None,
        trend=parts.rule.trend if "trend" in on else None,
    )
    parts = replace(parts, rule=rule)
    rng = np.random.default_rng(1)
    table = ItemTable(np.zeros((N_ITEMS, DIM), dtype=np.float32), parts=parts)
    taste = rng.normal(size=(len(histories), N_ITEMS)).astype(np.float32)
    counts = rng.uniform(0, 9, N_ITEMS).astype(np.float32)
    gaps = np.full(len(histories), np.nan if gap_s is None else np.log1p(gap_s))

    scores = add_up(parts, taste, histories, gaps, counts)

    for user, history in enumerate(histories):
        assert np.allclose(scores.whole[user], slow_sum(table, taste[user], history, gap_s, counts), atol=1e-4)
    assert np.array_equal(scores.whole, scores.taste + scores.neighbours + scores.trend)


def test_counts_fade_by_half_in_a_half_life_and_never_grow() -> None:
    parts = toy_parts()

    assert np.allclose(parts.counts_at(AS_OF + 86_400), parts.counts[0] / 2)
    assert np.array_equal(parts.counts_at(AS_OF - 86_400), parts.counts[0])


def test_rule_is_written_and_read_back() -> None:
    assert parse_score(json.loads(json.dumps(SCORE))) == toy_parts().rule


@pytest.mark.parametrize(
    "score",
    [
        None, [], {}, changed("parts", to=["taste"]), changed("parts", to=[]), changed("parts", to="taste"),
        changed("parts", to=["trend", "taste", "neighbours"]), changed("parts", to=["taste", "neighbours"]),
        changed("parts", to=["taste", "neighbours", "trend", "luck"]), changed("parts", to=None),
        changed("parts", to=["taste", "taste", "trend"]), changed("parts", to=[[]]),
        changed("gap", to=None), changed("gap", "knots", to=None), changed("gap", "knots", to=[0.0, 8.0]),
        changed("gap", "knots", to=[0.0, 8.0, 8.0]), changed("gap", "knots", to=[0.0, 16.0, 8.0]),
        changed("gap", "knots", to=[0.0, 8.0, float("inf")]), changed("gap", "knots", to=[0.0, 8.0, float("nan")]),
        changed("gap", "knots", to=[0, True, 8]), changed("gap", "knots", to=[-1.0, 8.0, 9.0]),
        changed("gap", "knots", to=[]), changed("gap", "taste", to=[1.0]), changed("gap", "taste", to=[1, 1, -1]),
        changed("gap", "trend", to=[1, 1, "1"]), changed("gap", "trend", to=[1, 1, 10**400]),
        changed("gap", "typical", to=-1.0), changed("gap", "typical", to="2"), changed("gap", "typical", to=None),
        changed("gap", "more", to=1), changed("luck", to=1),
        changed("neighbours", to=None), changed("neighbours", "weight", to=float("nan")),
        changed("neighbours", "decay", to=1.01), changed("neighbours", "decay", to=-0.1),
        changed("neighbours", "depth", to=0), changed("neighbours", "depth", to=2.0),
        changed("neighbours", "depth", to=True), changed("neighbours", "depth", to=None),
        changed("trend", to=None), changed("trend", "half_lives_s", to=[]), changed("trend", "half_lives_s", to=[0]),
        changed("trend", "half_lives_s", to=[1e4, 2e4]), changed("trend", "half_lives_s", to=86400.0),
        changed("trend", "epsilon", to=0), changed("trend", "epsilon", to=None), changed("trend", "as_of", to=-1),
        changed("trend", "as_of", to=1e300), changed("trend", "as_of", to=None),
    ],
)  # fmt: skip
def test_wrong_rule_is_refused(tmp_path: Path, score: Any) -> None:
    with pytest.raises(ValueError, match="score"):
        parse_score(score)
    bundle = write_toy_sum(tmp_path / "bundle")
    rewrite(bundle.path, lambda manifest: manifest.update(score=score))

    with pytest.raises(BundleCorruptError):
        open_bundle(bundle.path)


def test_bundle_of_format_2_reads_back(tmp_path: Path) -> None:
    parts = toy_parts()

    bundle = write_toy_sum(tmp_path / "bundle")

    again = open_bundle(bundle.path)
    assert again.manifest.format == SUM_FORMAT
    assert again.manifest.score == SCORE
    assert again.table.parts.rule == parts.rule
    for array, written in [
        (again.table.parts.counts, parts.counts),
        (again.table.parts.neighbours.rows, parts.neighbours.rows),
        (again.table.parts.neighbours.weights, parts.neighbours.weights),
        (again.table.parts.neighbours.scales, parts.neighbours.scales),
    ]:
        assert np.array_equal(array, written) and array.dtype == written.dtype
    assert again.golden[1] == Golden(
        [f"i{row}" for row in (1, 2, 3, 4, 5, 6, 2)],
        5,
        again.golden[1].items,
        AS_OF + 86_400,
        None,
        {"i7": 100, "i8": 0},
    )
    assert again.golden[0].gap_s == 60.0


def test_bundle_without_parts_is_written_as_before(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle")

    manifest = json.loads((bundle.path / "manifest.json").read_text())
    lines = (bundle.path / "golden.jsonl").read_text().splitlines()
    assert manifest["format"] == FORMAT
    assert "score" not in manifest
    assert all(set(json.loads(line)) == {"history", "k", "items"} for line in lines)
    assert bundle.manifest.version == bundle_version(manifest["files"])


def test_other_weights_are_another_version(tmp_path: Path) -> None:
    parts = toy_parts()
    other = replace(parts, rule=replace(parts.rule, gap=replace(parts.rule.gap, typical=9.5)))
    files = write_toy_sum(tmp_path / "one").manifest.files

    assert bundle_version(files, parts.rule.to_json()) != bundle_version(files, other.rule.to_json())


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("neighbours.npy", np.zeros((N_ITEMS, 3), dtype=np.int64)),
        ("neighbours.npy", np.zeros((N_ITEMS - 1, 3), dtype=np.int32)),
        ("neighbours.npy", np.zeros((N_ITEMS, 0), dtype=np.int32)),
        ("neighbours.npy", np.zeros(N_ITEMS, dtype=np.int32)),
        ("neighbours.npy", np.full((N_ITEMS, 3), N_ITEMS, dtype=np.int32)),
        ("neighbours.npy", np.full((N_ITEMS, 3), -2, dtype=np.int32)),
        ("neighbour_weights.npy", np.zeros((N_ITEMS, 2), dtype=np.int8)),
        ("neighbour_weights.npy", np.zeros((N_ITEMS, 3), dtype=np.float32)),
        ("neighbour_scales.npy", np.zeros((N_ITEMS, 1), dtype=np.float32)),
        ("neighbour_scales.npy", np.full(N_ITEMS, np.nan, dtype=np.float32)),
        ("trend_counts.npy", np.zeros(N_ITEMS, dtype=np.float32)),
        ("trend_counts.npy", np.zeros((2, N_ITEMS), dtype=np.float32)),
        ("trend_counts.npy", np.full((1, N_ITEMS), -1, dtype=np.float32)),
        ("trend_counts.npy", np.full((1, N_ITEMS), np.inf, dtype=np.float32)),
    ],
)
def test_wrong_array_is_refused(tmp_path: Path, name: str, array: np.ndarray) -> None:
    bundle = write_toy_sum(tmp_path / "bundle")
    np.save(bundle.path / name, array)
    rewrite(bundle.path, lambda manifest: manifest["files"].update({name: fingerprint(bundle.path / name)}))

    with pytest.raises(BundleCorruptError, match=name):
        open_bundle(bundle.path)


@pytest.mark.parametrize(
    "name", ["neighbours.npy", "neighbour_weights.npy", "neighbour_scales.npy", "trend_counts.npy"]
)
def test_missing_and_superfluous_arrays_are_refused(tmp_path: Path, name: str) -> None:
    bundle, plain = write_toy_sum(tmp_path / "bundle"), write_toy(tmp_path / "plain")
    (plain.path / name).write_bytes((bundle.path / name).read_bytes())
    rewrite(plain.path, lambda manifest: manifest["files"].update({name: fingerprint(plain.path / name)}))
    (bundle.path / name).unlink()
    rewrite(bundle.path, lambda manifest: manifest["files"].pop(name))

    for path in (bundle.path, plain.path):
        with pytest.raises(BundleCorruptError, match=name):
            open_bundle(path)


@pytest.mark.parametrize(
    "fields",
    [
        {"now": None}, {"now": [1]}, {"now": 1e999}, {"gap_s": -1}, {"gap_s": "x"}, {"counts": []}, {"counts": None},
        {"counts": {"i1": -1}}, {"counts": {"nobody": 1}}, {"counts": {"i1": None}},
    ],
)  # fmt: skip
def test_wrong_golden_answer_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    bundle = write_toy_sum(tmp_path / "bundle")
    file = bundle.path / "golden.jsonl"
    first, *others = file.read_text().splitlines()
    text = json.dumps(json.loads(first) | fields).replace("Infinity", "1e999")
    file.write_text("\n".join([text, *others]) + "\n")
    rewrite(bundle.path, lambda manifest: manifest["files"].update({file.name: fingerprint(file)}))

    with pytest.raises(BundleCorruptError, match="golden"):
        open_bundle(bundle.path)


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a manifest, and let its version be that of what it says."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    manifest["version"] = bundle_version(manifest["files"], manifest.get("score"))
    (path / "manifest.json").write_text(json.dumps(manifest))
