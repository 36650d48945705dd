"""The export stage: a bundle that differs from torch is refused, and golden answers are torch's."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch

from service.bundle import open_bundle
from training.__main__ import main
from training.data.prepared import load_prepared
from training.errors import StageError
from training.export.export import check_export, golden_histories, torch_scores
from training.model.checkpoint import load_model


def test_a_bundle_that_differs_from_torch_is_refused(finished_run):
    prepared = load_prepared(finished_run / "prepared")
    model = load_model(finished_run / "student" / "student.safetensors")
    bundle = open_bundle(finished_run / "bundle")
    histories = golden_histories(prepared, model.size.max_history)

    check_export(bundle, model, histories)
    with torch.no_grad():
        model.encoder.norm.weight += 0.01
    with pytest.raises(StageError, match="differ from torch's by"):
        check_export(bundle, model, histories)


def test_golden_answers_cover_the_edges_and_are_torchs(finished_run):
    bundle = open_bundle(finished_run / "bundle")
    model = load_model(finished_run / "student" / "student.safetensors")
    row = {item.item_id: i for i, item in enumerate(bundle.items)}
    longest = bundle.manifest.max_history

    lengths = {len(answer.history) for answer in bundle.golden}
    assert {0, 1, longest} <= lengths and max(lengths) > longest
    for answer in bundle.golden:
        scores = torch_scores(model, [[row[item_id] for item_id in answer.history]])[0]
        assert [score for _, score in answer.items] == sorted((float(s) for s in scores), reverse=True)[: answer.k]


def test_a_bundle_with_an_int8_encoder_passes_its_own_check(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)

    assert main(["export", "--out", str(run), "--set", "compress.encoder=int8"]) == 0

    assert json.loads((run / "compressed" / "report.json").read_text())["encoder"] == "int8"
    nodes = onnx.load(run / "bundle" / "user_encoder.onnx").graph.node
    assert any(node.op_type == "Cast" and node.input[0].endswith("_int8") for node in nodes)


def test_a_student_of_unit_vectors_is_trained_exported_and_served_the_same(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    settings = ["--out", str(run), "--set", "student.unit=true", "--set", "compress.items=int8"]

    assert main(["distill", *settings]) == 0
    assert main(["export", *settings]) == 0

    bundle = open_bundle(run / "bundle")
    lengths = np.linalg.norm(bundle.table.dense(), axis=1)
    assert np.ptp(lengths) < 0.02 * lengths.mean()
