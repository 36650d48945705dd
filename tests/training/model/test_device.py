"""Where and in which number format a model is computed."""

import torch

from training.model.device import autocast, choose_device, has_bfloat16


def test_a_gpu_is_chosen_if_there_is_one():
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_products_are_bfloat16_where_the_hardware_has_it_and_float32_elsewhere():
    with autocast("cpu"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)

    assert product.dtype == (torch.bfloat16 if has_bfloat16("cpu") else torch.float32)
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
