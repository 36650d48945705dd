"""A bundle run through onnxruntime."""

import numpy as np
import torch

from service.bundle import open_bundle
from training.export.graph import export_encoder, scoring_graph
from training.export.onnx_student import ExportedStudent, time_encoder, time_scoring
from training.model.encoder import Size, make_model


def test_padded_rows_are_scored_as_the_histories_in_them(toy_bundle):
    student = ExportedStudent(open_bundle(toy_bundle))

    padded = student.padded_scores(torch.tensor([[-1, -1, 1], [2, 0, 1]]))

    np.testing.assert_allclose(padded, student.scores([[1], [2, 0, 1]]))


def test_only_the_newest_items_of_a_history_count(toy_bundle):
    student = ExportedStudent(open_bundle(toy_bundle))
    longest = student.bundle.manifest.max_history

    np.testing.assert_allclose(student.scores([[2] * 3 + [1] * longest]), student.scores([[1] * longest]))


def test_graphs_are_timed_in_microseconds():
    model = make_model(20, Size(8, ("pool",), 1, 0.0, 4), seed=1).eval()
    scoring = scoring_graph({"items": np.ones((20, 8), dtype=np.float32)}, 8, 5)

    assert 0 < time_encoder(export_encoder(model), dim=8, max_history=4, repeats=3) < 1e6
    assert 0 < time_scoring(scoring, dim=8, repeats=3) < 1e6
