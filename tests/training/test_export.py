"""Export: the graph's contract, and a bundle that differs from torch is refused."""

import numpy as np
import onnx
import pytest
import torch

from service.bundle import ItemTable, open_bundle
from training.checkpoint import load_model
from training.compress import compress_table
from training.encoder import SequenceModel, Size
from training.errors import StageError
from training.export import check_export, sample_histories, torch_scores
from training.exported import open_session
from training.graph import export_encoder
from training.interactions import load_prepared

BLOCKS = [("pool", "attention", "attention"), ("gru",), ("pool",), ("gru", "gru", "attention")]


@pytest.fixture(scope="module", params=BLOCKS, ids="-".join)
def exported(request):
    torch.manual_seed(0)
    model = SequenceModel(30, Size(dim=16, blocks=request.param, heads=2, dropout=0.1, max_history=8)).eval()
    torch.nn.init.normal_(model.items.weight)
    encoder = export_encoder(model)
    return model, encoder, open_session(encoder)


def encode(session, history, length):
    return session.run(["user"], {"history": history, "length": length})[0]


def test_graph_has_the_contracts_names_types_and_shapes(exported):
    session = exported[2]

    inputs = {i.name: (i.type, i.shape) for i in session.get_inputs()}
    assert inputs == {
        "history": ("tensor(float)", ["batch", "time", 16]),
        "length": ("tensor(int64)", ["batch"]),
    }
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [("user", "tensor(float)", ["batch", 16])]


def test_graph_says_nothing_of_the_machine_that_made_it(exported):
    graph = onnx.load_from_string(exported[1])

    assert b"/work" not in exported[1] and b".py" not in exported[1]
    assert {entry.domain for entry in graph.opset_import} == {""}


@pytest.mark.parametrize("batch", [1, 2, 3, 32])
@pytest.mark.parametrize("time", [1, 2, 7, 8])
def test_padding_and_batch_mates_move_nothing(exported, batch, time):
    model, _, session = exported
    rng = np.random.default_rng(batch * 10 + time)
    length = rng.integers(0, time + 1, batch)
    history = rng.standard_normal((batch, time, 16)).astype(np.float32)
    for i, count in enumerate(length):
        history[i, : time - count] = 0

    together = encode(session, history, length)

    assert np.isfinite(together).all()
    for i, count in enumerate(length):
        alone = encode(session, history[i : i + 1, time - max(count, 1) :], length[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], atol=1e-5)
        with torch.no_grad():
            expected = model.encoder.newest(torch.tensor(history[i : i + 1]), torch.tensor(length[i : i + 1]))
        np.testing.assert_allclose(together[i], expected[0], atol=1e-5)


def test_a_bundle_that_differs_from_torch_is_refused(finished_run):
    prepared = load_prepared(finished_run / "prepared")
    model = load_model(finished_run / "student" / "student.safetensors")
    bundle = open_bundle(finished_run / "bundle")
    histories = sample_histories(prepared, model.size.max_history)

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


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 0.0), ("float16", 1e-3), ("int8", 1 / 250)])
def test_compressed_tables_come_back_close(kind, tolerance):
    weights = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    weights[7] = 0.0

    table = compress_table(weights, kind)

    assert isinstance(table, ItemTable) and table.embeddings.dtype.name == kind
    np.testing.assert_allclose(table.dense(), weights, atol=tolerance * np.abs(weights).max())
