"""Files of weights: what is loaded is what was saved."""

import pytest
import torch

from training.model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_model,
    load_weights,
    save_checkpoint,
    save_model,
    save_weights,
)
from training.model.encoder import SequenceModel, Size, make_model

SIZE = Size(dim=8, blocks=("pool", "attention"), heads=2, dropout=0.0, max_history=4)
ROWS = torch.tensor([[-1, 3, 4], [1, 2, 3]])


def parts_of(seed):
    """A model, its moving average and an optimizer that has made one step."""
    model, averaged = make_model(9, SIZE, seed), make_model(9, SIZE, seed + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.scores(model.users(ROWS)).square().mean().backward()
    optimizer.step()
    return model, averaged, optimizer


def test_weights_come_back_with_what_was_said_of_them_and_no_other_file_is_left(tmp_path):
    save_weights(tmp_path / "w.safetensors", {"a": torch.arange(6.0).view(2, 3).T}, {"why": [1, "two"]})

    weights, about = load_weights(tmp_path / "w.safetensors")

    assert weights["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert about == {"why": [1, "two"]}
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@torch.no_grad()
@pytest.mark.parametrize("is_unit", [False, True])
def test_a_model_comes_back_with_its_size_and_gives_the_same_scores(tmp_path, is_unit):
    size = Size(dim=8, blocks=("pool", "attention"), heads=2, dropout=0.5, max_history=4, is_unit=is_unit)
    model = make_model(9, size, seed=1).eval()

    save_model(tmp_path / "m.safetensors", model)
    loaded = load_model(tmp_path / "m.safetensors")

    assert loaded.size == size and not loaded.training
    torch.testing.assert_close(loaded.scores(loaded.users(ROWS)), model.scores(model.users(ROWS)))


def test_a_checkpoint_restores_model_average_optimizer_and_what_learns_beside_them(tmp_path):
    model, averaged, optimizer = parts_of(seed=1)
    extra = torch.nn.Linear(2, 2)
    state = Checkpoint.fresh(averaged)
    state.curve = [{"epoch": 0, "loss": 1.0}]
    save_checkpoint(tmp_path / "c", model, averaged, optimizer, state, extra)

    others, other_extra = parts_of(seed=5), torch.nn.Linear(2, 2)
    restored = load_checkpoint(tmp_path / "c", *others, other_extra)

    assert restored.curve == state.curve
    for ours, theirs in ((model, others[0]), (averaged, others[1]), (extra, other_extra)):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert all(torch.equal(value, restored.best[name]) for name, value in averaged.state_dict().items())
    for index, slots in optimizer.state_dict()["state"].items():
        assert all(torch.equal(v, others[2].state_dict()["state"][index][name]) for name, v in slots.items())


def test_without_a_file_there_is_no_checkpoint(tmp_path):
    assert load_checkpoint(tmp_path / "none", *parts_of(seed=1)) is None


def test_the_best_weights_stay_when_the_model_moves_on():
    model = SequenceModel(9, SIZE)
    state = Checkpoint.fresh(model)
    before = model.items.weight.detach().clone()

    with torch.no_grad():
        model.items.weight.add_(1.0)

    assert torch.equal(state.best["items.weight"], before)
