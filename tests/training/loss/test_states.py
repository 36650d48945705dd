"""Losses of states, layers, maps and vectors against slow obvious formulas and frozen numbers."""

import math

import pytest
import torch
import torch.nn.functional as F

from training.loss.logits import soft_label_loss
from training.loss.states import attention_loss, hint_loss, layer_loss, relation_loss, worst_perturbation

STUDENT = torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 0.5]])
TEACHER = torch.tensor([[2.0, 1.0], [0.5, 0.5], [1.0, -2.0]])


def test_hint_loss_is_the_mean_squared_error():
    slow = sum((s - t) ** 2 for s, t in zip(STUDENT.flatten().tolist(), TEACHER.flatten().tolist(), strict=True)) / 6

    assert hint_loss(STUDENT, TEACHER).item() == pytest.approx(slow)
    assert hint_loss(STUDENT, TEACHER).item() == pytest.approx(2.4583333, abs=1e-6)


def test_layer_loss_compares_directions_only():
    total = 0.0
    for s, t in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        total += sum((a / math.hypot(*s) - b / math.hypot(*t)) ** 2 for a, b in zip(s, t, strict=True))

    assert layer_loss(STUDENT, TEACHER).item() == pytest.approx(total / 3, rel=1e-5)
    assert layer_loss(STUDENT, 7 * TEACHER).item() == pytest.approx(1.7420139, abs=1e-6)


def test_attention_loss_is_kl_between_mean_heads_at_real_places():
    ours = torch.tensor([[[[1.0, 0.0], [0.3, 0.7]], [[1.0, 0.0], [0.5, 0.5]]]])  # [1, 2, 2, 2]
    theirs = torch.tensor([[[[1.0, 0.0], [0.9, 0.1]]]])

    loss = attention_loss(ours, theirs, torch.tensor([[False, True]]))

    assert loss.item() == pytest.approx(0.9 * math.log(0.9 / 0.4) + 0.1 * math.log(0.1 / 0.6), rel=1e-5)
    assert loss.item() == pytest.approx(0.5506612, abs=1e-6)
    assert attention_loss(theirs, theirs, torch.tensor([[True, True]])).item() == pytest.approx(0.0, abs=1e-6)


def test_relation_loss_compares_distances_relative_to_their_mean():
    def relative(rows):
        distances = [math.dist(rows[i], rows[j]) for i in range(3) for j in range(i + 1, 3)]
        return [distance / (sum(distances) / 3) for distance in distances]

    pairs = zip(relative(STUDENT.tolist()), relative(TEACHER.tolist()), strict=True)
    slow = sum(0.5 * (a - b) ** 2 if abs(a - b) < 1 else abs(a - b) - 0.5 for a, b in pairs) / 3

    assert relation_loss(STUDENT, TEACHER).item() == pytest.approx(slow, rel=1e-5)
    assert relation_loss(STUDENT, TEACHER).item() == pytest.approx(0.0643173, abs=1e-6)
    assert relation_loss(STUDENT, 3 * STUDENT + 1).item() == pytest.approx(0.0, abs=1e-6)


def test_the_worst_perturbation_is_the_gradient_of_the_soft_label_loss():
    torch.manual_seed(0)
    items, states, teacher = torch.randn(5, 2), STUDENT.clone().requires_grad_(), torch.randn(3, 5)
    soft_label_loss(states @ items.T, teacher, temperature=1.0).backward()

    shift = worst_perturbation(STUDENT @ items.T, teacher, items, share=0.1)

    torch.testing.assert_close(shift, 0.1 * F.normalize(states.grad, dim=1))


def test_the_worst_perturbation_equals_its_frozen_numbers():
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    teacher = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]])

    shift = worst_perturbation(STUDENT @ items.T, teacher, items, share=0.1)

    assert shift.flatten().tolist() == pytest.approx(
        [-0.0500521, 0.0865725, -0.0317552, -0.0948241, 0.0904604, 0.0426252], abs=1e-6
    )


IMPORTANCE = torch.tensor([0.5, 0.0, 3.0])


@pytest.mark.parametrize("loss", [hint_loss, layer_loss])
def test_each_position_counts_by_its_importance(loss):
    slow = sum(float(IMPORTANCE[i]) * loss(STUDENT[i : i + 1], TEACHER[i : i + 1]).item() for i in range(3)) / 3

    assert loss(STUDENT, TEACHER, IMPORTANCE).item() == pytest.approx(slow, rel=1e-5)


def test_each_row_of_a_map_counts_by_its_importance():
    maps = [torch.rand(2, 2, 3, 3, generator=torch.Generator().manual_seed(seed)).softmax(-1) for seed in (0, 1)]
    real = torch.tensor([[False, True, True], [False, False, True]])
    alone = torch.zeros(3, 2, 3, dtype=torch.bool)
    for number, (row, place) in enumerate(real.nonzero().tolist()):
        alone[number, row, place] = True

    loss = attention_loss(*maps, real, IMPORTANCE)

    slow = sum(float(IMPORTANCE[i]) * attention_loss(*maps, alone[i]).item() for i in range(3)) / 3
    assert loss.item() == pytest.approx(slow, rel=1e-5)


def test_a_pair_of_vectors_counts_as_the_product_of_its_two():
    pairs, importance = [(0, 1), (0, 2), (1, 2)], [0.5, 1.5, 3.0]
    weight = [importance[i] * importance[j] for i, j in pairs]

    def relative(rows):
        distances = [math.dist(rows[i], rows[j]) for i, j in pairs]
        mean = sum(w * d for w, d in zip(weight, distances, strict=True)) / sum(weight)
        return [distance / mean for distance in distances]

    both = zip(relative(STUDENT.tolist()), relative(TEACHER.tolist()), strict=True)
    losses = [0.5 * (a - b) ** 2 if abs(a - b) < 1 else abs(a - b) - 0.5 for a, b in both]

    found = relation_loss(STUDENT, TEACHER, torch.tensor(importance))

    assert found.item() == pytest.approx(sum(w * x for w, x in zip(weight, losses, strict=True)) / 3, rel=1e-5)
    leaf = STUDENT.clone().requires_grad_()
    relation_loss(leaf, TEACHER, IMPORTANCE).backward()
    assert not leaf.grad[1].any() and leaf.grad[0].any()
