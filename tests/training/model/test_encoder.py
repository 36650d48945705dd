"""The encoder: causal, deaf to padding and to the rest of the batch."""

import pytest
import torch

from training.model.checkpoint import load_model, save_model
from training.model.encoder import SequenceModel, Size, count_parameters, make_model, settle


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = SequenceModel(
        20, Size(dim=16, blocks=("pool", "attention", "gru", "attention"), heads=2, dropout=0.5, max_history=8)
    ).eval()
    torch.nn.init.normal_(made.items.weight)  # the small start would hide differences
    return made


@torch.no_grad()
def test_padding_moves_nothing(model):
    short = model.users(torch.tensor([[3, 4, 5]]))
    padded = model.users(torch.tensor([[-1, -1, -1, 3, 4, 5]]))

    torch.testing.assert_close(short, padded, atol=1e-5, rtol=0)


@torch.no_grad()
def test_other_rows_of_the_batch_move_nothing(model):
    alone = model.users(torch.tensor([[-1, 3, 4]]))
    together = model.users(torch.tensor([[7, 8, 9], [-1, 3, 4], [-1, -1, -1]]))

    torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_states_never_see_later_items(model):
    one = model.states(torch.tensor([[1, 2, 3, 4]]))
    other = model.states(torch.tensor([[1, 2, 9, 8]]))

    torch.testing.assert_close(one[:, :2], other[:, :2])
    assert not torch.allclose(one[:, 2], other[:, 2])


@torch.no_grad()
def test_newest_equals_the_last_state(model):
    rows = torch.tensor([[-1, -1, 3, 4], [1, 2, 3, 4]])

    torch.testing.assert_close(model.users(rows), model.states(rows)[:, -1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_empty_history_is_finite(model):
    assert torch.isfinite(model.users(torch.tensor([[-1, -1]]))).all()


@torch.no_grad()
def test_order_matters(model):
    assert not torch.allclose(model.users(torch.tensor([[1, 2, 3]])), model.users(torch.tensor([[2, 1, 3]])))


def test_parameters_are_the_table_and_the_encoder():
    size = Size(dim=16, blocks=("attention",), heads=2, dropout=0.0, max_history=8)
    model = SequenceModel(20, size)

    block = 2 * 16 + 16 * 16 * (1 + 2 + 1 + 4 + 2)  # norms; query, key and value, output, gate and up, down
    assert count_parameters(model) == 20 * 16 + 8 * 16 + 2 * 16 + block


@torch.no_grad()
@pytest.mark.parametrize("blocks", [("pool",), ("pool", "attention")])
def test_unit_vectors_score_a_learned_scale_times_their_cosine(blocks, tmp_path):
    size = Size(dim=16, blocks=blocks, heads=2, dropout=0.0, max_history=8, is_unit=True)
    model = make_model(20, size, seed=1).eval()
    model.items.parametrizations.weight[0].log_scale.fill_(1.5)
    rows = torch.tensor([[-1, 3, 4], [1, 2, 3]])
    users = model.users(rows)
    scores = model.scores(users)

    torch.testing.assert_close(users.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(model.items.weight.norm(dim=1), torch.full((20,), 1.5).exp())
    save_model(tmp_path / "m.safetensors", model)
    loaded = load_model(tmp_path / "m.safetensors")
    torch.testing.assert_close(loaded.scores(loaded.users(rows)), scores)
    assert set(dict(loaded.items.named_parameters())) == {"weight"}  # plain: what a bundle holds
    assert settle(loaded) is loaded
