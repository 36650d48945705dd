"""The field `similar` of a manifest: what is written is read, and what is damaged is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle import (
    MANIFEST,
    BundleCorruptError,
    Relations,
    SimilarRule,
    bundle_version,
    open_bundle,
    parse_similar,
    usual_rule,
    write_bundle,
)
from tests.service.toy import golden_of, mean_encoder, toy_items, toy_parts, write_toy, write_toy_sum

RULE = SimilarRule(0.5, 2.0, 0.25, 0.0)


def test_rule_is_written_and_read_and_is_of_format_2(tmp_path: Path) -> None:
    plain = write_toy(tmp_path / "plain")
    manifest = {"created_at": "2026-01-01T00:00:00+00:00", "max_history": 6, "repeat_consumption": False}

    bundle = write_bundle(
        tmp_path / "bundle",
        encoder=mean_encoder(),
        table=plain.table,
        items=toy_items(),
        golden=golden_of(plain.table, [[1]]),
        manifest=manifest | {"similar": RULE.to_json()},
    )

    assert parse_similar(bundle.manifest.similar) == RULE
    assert bundle.manifest.format == 2
    assert bundle.manifest.version != bundle_version(bundle.manifest.files), "other weights are another version"
    assert open_bundle(bundle.path).manifest == bundle.manifest
    assert "similar" not in json.loads((plain.path / MANIFEST).read_text())


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (5, "similar must be an object"),
        ({}, "similar.angle is missing"),
        (RULE.to_json() | {"nxt": 1}, "similar has an unknown field 'nxt'"),
        (RULE.to_json() | {"next": -0.1}, "similar.next must be a number from 0"),
        (RULE.to_json() | {"trend": "1"}, "similar.trend must be a number"),
        (RULE.to_json() | {"neighbours": True}, "similar.neighbours must be a number"),
        (dict.fromkeys(RULE.to_json(), 0), "one of next, neighbours and angle must be above 0"),
    ],
)
def test_damaged_rule_is_refused(tmp_path: Path, field: Any, message: str) -> None:
    bundle = write_toy_sum(tmp_path / "bundle")
    path = bundle.path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"similar": field}))

    with pytest.raises(BundleCorruptError, match=message):
        open_bundle(bundle.path)


def test_neighbours_speak_in_both_directions(tmp_path: Path) -> None:
    table = write_toy_sum(tmp_path / "bundle").table
    near = table.parts.neighbours
    whole = np.zeros((len(near.rows), len(near.rows)))
    for row, (others, weights) in enumerate(zip(near.rows, near.weights, strict=True)):
        for other, weight in zip(others, weights, strict=True):
            if other >= 0:
                whole[row, other] += float(weight) * float(near.scales[row])

    relations = Relations(table, RULE)

    for anchors in ([3], [5, 9, 14]):
        said = np.zeros(len(whole))
        np.add.at(said, *relations.speak(anchors))
        expected = sum(whole[anchor] + whole[:, anchor] for anchor in anchors) / len(anchors)
        assert said == pytest.approx(2.0 * expected, abs=1e-6)


def test_usual_rule_counts_only_what_the_bundle_has() -> None:
    parts = toy_parts()
    alone = replace(parts, rule=replace(parts.rule, neighbours=None, trend=None))

    assert usual_rule(None) == SimilarRule(1.0, 0.0, 0.0, 0.0)
    assert usual_rule(alone).neighbours == usual_rule(alone).trend == 0
    assert usual_rule(parts).neighbours == parts.rule.neighbours.weight
