"""The encoder's graph: the bundle's contract, and torch's answers whatever stands beside a history."""

import numpy as np
import onnx
import pytest
import torch

from training.export.graph import export_encoder, scoring_graph
from training.export.onnx_student import open_session
from training.export.rounding import quantise_rows, round_encoder
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


def stored_tables():
    """Each form of a table of 40 items of width 8, and the table as it is multiplied."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((40, 8)).astype(np.float32)
    items, scales = quantise_rows(weights)
    left, right = (rng.standard_normal(shape).astype(np.float32) for shape in ((40, 3), (3, 8)))
    books, codes = rng.standard_normal((2, 256, 4)).astype(np.float32), rng.integers(0, 256, (40, 2)).astype(np.uint8)
    coded = np.concatenate([books[number][codes[:, number]] for number in range(2)], axis=1)
    half = weights.astype(np.float16)
    return {
        "float32": ({"items": weights}, weights),
        "float16": ({"items": half}, half.astype(np.float32)),
        "int8": ({"items": items, "scales": scales}, items * scales[:, None]),
        "factors": ({"left": left, "right": right}, left @ right),
        "codes": ({"codebooks": books, "codes": codes}, coded),
    }


@pytest.mark.parametrize("name", stored_tables())
def test_a_scoring_graph_finds_the_best_items_of_a_table_however_it_is_stored(name):
    stored, table = stored_tables()[name]
    user = np.random.default_rng(1).standard_normal((1, 8)).astype(np.float32)

    best, rows = open_session(scoring_graph(stored, 8, 5)).run(None, {"user": user})

    scores = table @ user[0]
    np.testing.assert_allclose(best[0], np.sort(scores)[::-1][:5], rtol=1e-3)
    np.testing.assert_allclose(scores[rows[0]], best[0], rtol=1e-3)
