"""How a student is stored: tables come back close, and the stage says what it costs."""

import json

import numpy as np
import pytest
import torch

from service.bundle import ItemTable
from training.data.prepared import load_prepared
from training.evaluation.judge import Ranking
from training.export.compress import (
    RANKING,
    REPORT,
    Storage,
    compress,
    compress_table,
    load_table,
    round_model,
    save_table,
    table_bytes,
)
from training.export.rounding import round_rows
from training.model.encoder import Size, make_model

KINDS = [("float32", 4), ("float16", 2), ("int8", 1)]


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 0.0), ("float16", 1e-3), ("int8", 1 / 250)])
def test_compressed_tables_come_back_close(kind, tolerance):
    weights = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    weights[7] = 0.0

    table = compress_table(weights, kind)

    assert isinstance(table, ItemTable) and table.embeddings.dtype.name == kind
    np.testing.assert_allclose(table.dense(), weights, atol=tolerance * np.abs(weights).max())


@pytest.mark.parametrize(("kind", "width"), KINDS)
def test_a_saved_table_is_loaded_as_it_was_and_knows_its_bytes(kind, width, tmp_path):
    table = compress_table(np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32), kind)

    save_table(tmp_path, table)
    loaded = load_table(tmp_path)

    np.testing.assert_array_equal(loaded.dense(), table.dense())
    assert table_bytes(loaded) == 50 * 16 * width + (4 * 50 if kind == "int8" else 0)


@pytest.mark.parametrize("encoder_kind", ["float32", "int8"])
def test_a_rounded_model_has_the_values_that_are_stored(encoder_kind):
    model = make_model(20, Size(8, ("pool",), 1, 0.0, 4), seed=1)
    output = model.encoder.blocks[0].mixer.output.weight.detach().clone()
    table = compress_table(model.items.weight.detach().numpy(), "float16")

    round_model(model, table, encoder_kind)

    np.testing.assert_array_equal(model.items.weight.detach().numpy(), table.dense())
    assert torch.equal(model.encoder.blocks[0].mixer.output.weight, round_rows(output, encoder_kind))


def test_the_stage_leaves_a_table_a_ranking_and_what_they_cost(finished_run, tmp_path):
    prepared = load_prepared(finished_run / "prepared")

    compress(tmp_path, prepared, finished_run / "student" / "student.safetensors", Storage("int8", "int8"))

    report = json.loads((tmp_path / REPORT).read_text())
    assert (report["items"], report["encoder"]) == ("int8", "int8")
    assert report["bytes"] == table_bytes(load_table(tmp_path))
    assert report["ndcg@10_after"] == pytest.approx(report["ndcg@10_before"], abs=0.05)
    assert len(Ranking.load(tmp_path / RANKING).ranks) > 0
