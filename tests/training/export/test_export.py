"""Export: the graph's contract, and a bundle that differs from torch is refused."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch

from service.bundle import ItemTable, open_bundle
from training.__main__ import main
from training.data.prepared import load_prepared
from training.errors import StageError
from training.export.compress import compress_table
from training.export.export import check_export, golden_histories, torch_scores
from training.export.graph import export_encoder
from training.export.onnx_student import open_session
from training.export.rounding import round_encoder
from training.model.checkpoint import load_model
from training.model.encoder import SequenceModel, Size

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


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 0.0), ("float16", 1e-3), ("int8", 1 / 250)])
def test_compressed_tables_come_back_close(kind, tolerance):
    weights = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    weights[7] = 0.0

    table = compress_table(weights, kind)

    assert isinstance(table, ItemTable) and table.embeddings.dtype.name == kind
    np.testing.assert_allclose(table.dense(), weights, atol=tolerance * np.abs(weights).max())


@pytest.mark.parametrize("blocks", [("pool",), ("gru", "attention")])
def test_an_int8_encoder_is_smaller_and_answers_as_torch_does_with_the_rounded_weights(blocks):
    torch.manual_seed(0)
    model = SequenceModel(30, Size(64, blocks, 2, 0.0, 8)).eval()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    round_encoder(model.encoder)

    small, large = export_encoder(model, "int8"), export_encoder(model)

    rows = torch.tensor([[-1, -1, 3, 4], [1, 2, 3, 4]])
    history, length = model.items(rows.clamp(min=0)) * (rows >= 0)[:, :, None], (rows >= 0).sum(1)
    inputs = {"history": history.detach().numpy(), "length": length.numpy()}
    alone = {"history": inputs["history"][:1, 2:], "length": inputs["length"][:1]}
    users = open_session(small).run(["user"], inputs)[0]
    np.testing.assert_allclose(users, model.users(rows).detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(open_session(small).run(["user"], alone)[0], users[:1], atol=1e-6)
    assert len(small) < 0.8 * len(large)
    changed = model.encoder.state_dict()
    assert any(not torch.equal(before[name], changed[name]) for name in before)
    assert all(torch.allclose(before[name], changed[name], atol=0.01) for name in before)


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
