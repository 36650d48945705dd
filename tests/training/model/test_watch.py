"""Watching a model: what is recorded is what the model computes with."""

import torch

from training.model.encoder import Attention, SequenceModel, Size
from training.model.watch import attention_map, spread, watch

SIZE = Size(dim=8, blocks=("pool", "attention", "attention"), heads=2, dropout=0.0, max_history=6)


def test_a_map_is_what_the_attention_weighs_with():
    torch.manual_seed(0)
    mixer, x = Attention(SIZE), torch.randn(2, 5, 8)
    real = torch.tensor([[False, False, True, True, True], [True] * 5])

    maps = attention_map(mixer, x, real)

    value = mixer.key_value(x).chunk(2, dim=-1)[1].unflatten(-1, (2, -1)).transpose(1, 2)
    rebuilt = mixer.output((maps @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(rebuilt[real], mixer(x, real, False)[real])
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(2, 2, 5))


def test_watching_sees_every_block_and_leaves_no_hook():
    model = SequenceModel(9, SIZE)
    rows = torch.tensor([[1, 2, 3]])

    with watch(model) as watched:
        states = model.states(rows)
    model.states(rows)

    assert len(watched.blocks) == 3
    assert [maps.shape for maps in watched.maps()] == [(1, 2, 3, 3)] * 2
    torch.testing.assert_close(model.encoder.norm(watched.blocks[-1]), states)


def test_layers_are_spread_evenly_and_the_last_learns_from_the_last():
    assert spread(1, 3) == [2]
    assert spread(2, 3) == [1, 2]
    assert spread(3, 3) == [0, 1, 2]
    assert spread(3, 2) == [0, 1, 1]
