"""Rounded weights: the nearest that can be stored, the same in numpy and in torch."""

import numpy as np
import pytest
import torch
from torch import nn

from training.export.rounding import quantise_rows, round_encoder, round_rows


def made_weights():
    weights = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)
    weights[2] = 0.0
    return weights


def test_quantised_rows_are_within_half_a_step_and_use_the_whole_range():
    weights = made_weights()

    values, scales = quantise_rows(weights)

    assert values.dtype == np.int8 and scales.dtype == np.float32
    assert (np.abs(values * scales[:, None] - weights) <= 0.5001 * scales[:, None]).all()
    assert (np.delete(np.abs(values).max(axis=1), 2) == 127).all()
    assert not values[2].any(), "a row of zeros stays one"


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_rounded_rows_are_what_is_stored_and_stay_when_they_are_rounded_again(kind):
    weights = torch.from_numpy(made_weights())

    rounded = round_rows(weights, kind)

    values, scales = quantise_rows(weights.numpy())
    stored = values * scales[:, None] if kind == "int8" else weights.numpy().astype(kind).astype(np.float32)
    np.testing.assert_allclose(rounded.numpy(), stored, rtol=1e-6)
    torch.testing.assert_close(round_rows(rounded, kind), rounded)


def test_an_encoder_is_rounded_in_place_but_for_its_gru():
    encoder = nn.ModuleDict({"linear": nn.Linear(4, 3), "gru": nn.GRU(4, 4)})
    before = {name: value.clone() for name, value in encoder.state_dict().items()}

    round_encoder(encoder)

    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"linear.weight"}
