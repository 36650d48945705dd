"""Losses against slow obvious formulas and frozen numbers."""

import math

import pytest
import torch

from training.losses import distillation_loss, hard_loss, soft_label_loss

STUDENT = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
TEACHER = torch.tensor([[2.0, 1.0, 0.0], [0.5, 0.5, 2.0]])
TARGET = torch.tensor([0, 2])


def softmax(row, temperature):
    weights = [math.exp(value / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


def slow_kl(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 10.0])
def test_soft_label_loss_equals_the_slow_formula(temperature):
    loss = soft_label_loss(STUDENT, TEACHER, temperature=temperature)

    assert loss.item() == pytest.approx(slow_kl(STUDENT, TEACHER, temperature), rel=1e-5)


def test_losses_equal_their_frozen_numbers():
    assert hard_loss(STUDENT, TARGET).item() == pytest.approx(0.7651263, abs=1e-6)
    assert soft_label_loss(STUDENT, TEACHER, temperature=2.0).item() == pytest.approx(0.4633014, abs=1e-6)


def test_soft_label_loss_is_zero_where_student_and_teacher_agree_up_to_a_constant():
    assert soft_label_loss(TEACHER + 7.0, TEACHER, temperature=1.0).item() == pytest.approx(0.0, abs=1e-6)


def test_hard_loss_is_cross_entropy_in_value_and_gradient():
    ours, theirs = STUDENT.clone().requires_grad_(), STUDENT.clone().requires_grad_()

    (3 * hard_loss(ours, TARGET)).backward()
    (3 * torch.nn.functional.cross_entropy(theirs, TARGET)).backward()

    torch.testing.assert_close(hard_loss(STUDENT, TARGET), torch.nn.functional.cross_entropy(STUDENT, TARGET))
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_distillation_loss_is_the_weighed_sum_in_value_and_gradient(alpha, temperature):
    ours, theirs = STUDENT.clone().requires_grad_(), STUDENT.clone().requires_grad_()

    fused = distillation_loss(ours, TEACHER, TARGET, alpha=alpha, temperature=temperature)
    soft = soft_label_loss(theirs, TEACHER, temperature=temperature)
    plain = alpha * soft + (1 - alpha) * hard_loss(theirs, TARGET)
    (2 * fused).backward()
    (2 * plain).backward()

    torch.testing.assert_close(fused, plain)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_soft_label_loss_has_the_gradient_of_the_textbook():
    student = STUDENT.clone().requires_grad_()

    soft_label_loss(student, TEACHER, temperature=2.0).backward()

    expected = 2.0 * (torch.softmax(STUDENT / 2, -1) - torch.softmax(TEACHER / 2, -1)) / len(STUDENT)
    torch.testing.assert_close(student.grad, expected)
