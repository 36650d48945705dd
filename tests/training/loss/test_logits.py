"""Losses against slow obvious formulas and frozen numbers."""

import math

import pytest
import torch

from training.loss.logits import (
    Weights,
    closure_loss,
    confident_loss,
    distillation_loss,
    hard_loss,
    listwise_loss,
    ranking_loss,
    soft_label_loss,
    stratified_loss,
    weighed_loss,
)

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


WIDE = torch.tensor([[1.0, 2.0, 0.5, -1.0, 0.2], [0.0, -1.0, 3.0, 1.0, 0.7]])
WISE = torch.tensor([[2.0, 1.0, 0.0, 3.0, -2.0], [0.5, 0.4, 2.0, -1.0, 0.1]])


def by_teacher(row):
    """Rows from the teacher's best to its worst."""
    return sorted(range(len(row)), key=lambda item: -row[item])


def test_ranking_loss_equals_the_slow_formula():
    total = 0.0
    for s, t in zip(WIDE.tolist(), WISE.tolist(), strict=True):
        weights = [math.exp(-place / 2.0) for place in range(3)]
        for place, item in enumerate(by_teacher(t)[:3]):
            total -= weights[place] / sum(weights) * math.log(softmax(s, 1.0)[item])

    loss = ranking_loss(WIDE, WISE, top=3, decay=2.0)

    assert loss.item() == pytest.approx(total / 2, rel=1e-5)
    assert loss.item() == pytest.approx(2.1749456, abs=1e-6)


def test_listwise_loss_is_the_probability_of_drawing_the_teachers_best_in_order():
    total = 0.0
    for s, t in zip(WIDE.tolist(), WISE.tolist(), strict=True):
        left = list(range(5))
        for item in by_teacher(t)[:2]:
            total -= math.log(math.exp(s[item]) / sum(math.exp(s[other]) for other in left))
            left.remove(item)

    loss = listwise_loss(WIDE, WISE, top=2)

    assert loss.item() == pytest.approx(total / 2 / 2, rel=1e-5)
    assert loss.item() == pytest.approx(1.8069651, abs=1e-6)


def test_closure_loss_is_kl_over_both_bests_and_the_negatives():
    total = 0.0
    for s, t in zip(WIDE.tolist(), WISE.tolist(), strict=True):
        rows = sorted({by_teacher(t)[0], by_teacher(s)[0], 4})
        total += slow_kl(torch.tensor([[s[row] for row in rows]]), torch.tensor([[t[row] for row in rows]]), 2.0)

    loss = closure_loss(WIDE, WISE, torch.tensor([4]), top=1, temperature=2.0)

    assert loss.item() == pytest.approx(total / 2, rel=1e-5)
    assert loss.item() == pytest.approx(1.6219425, abs=1e-6)


def test_closure_loss_over_everything_is_the_soft_label_loss():
    loss = closure_loss(WIDE, WISE, torch.tensor([0, 0, 1]), top=9, temperature=1.5)

    torch.testing.assert_close(loss, soft_label_loss(WIDE, WISE, temperature=1.5))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_weighed_loss_is_the_sum_in_value_and_gradient(temperature):
    ours, theirs = WIDE.clone().requires_grad_(), WIDE.clone().requires_grad_()
    target, strata = torch.tensor([3, 0]), [torch.tensor([0, 3]), torch.tensor([1, 2])]  # the last item is of none

    fused = weighed_loss((ours, WISE, target), Weights(0.5, 0.3, 0.7), temperature=temperature, strata=strata)
    apart = [soft_label_loss(theirs[:, rows], WISE[:, rows], temperature=temperature) for rows in strata]
    plain = 0.5 * soft_label_loss(theirs, WISE, temperature=temperature) + 0.3 * hard_loss(theirs, target)
    plain = plain + 0.7 * sum(apart) / 2
    (2 * fused).backward()
    (2 * plain).backward()

    torch.testing.assert_close(fused, plain)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_stratified_loss_teaches_each_stratum_and_nothing_between_them():
    strata = [torch.tensor([0, 3]), torch.tensor([1, 2, 4])]
    slow = sum(slow_kl(WIDE[:, rows], WISE[:, rows], 1.0) for rows in strata) / 2
    lifted = WIDE.clone()
    lifted[:, strata[0]] += 5.0

    loss = stratified_loss(WIDE, WISE, strata, temperature=1.0)

    assert loss.item() == pytest.approx(slow, rel=1e-5)
    assert loss.item() == pytest.approx(0.4857664, abs=1e-6)
    torch.testing.assert_close(loss, stratified_loss(lifted, WISE, strata, temperature=1.0))


def test_confident_loss_listens_to_the_teacher_where_it_knows_the_target():
    target = torch.tensor([3, 3])  # at place 1 and 5 of the teacher
    each = [slow_kl(WIDE[i : i + 1], WISE[i : i + 1], 1.0) for i in range(2)]
    weights = [1 / math.log2(2), 1 / math.log2(6)]

    loss = confident_loss(WIDE, WISE, target, temperature=1.0)

    assert loss.item() == pytest.approx(sum(w * e for w, e in zip(weights, each, strict=True)) / sum(weights), rel=1e-5)
    assert loss.item() == pytest.approx(1.4040614, abs=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits: ranking_loss(logits, WISE.double(), top=3, decay=2.0),
        lambda logits: listwise_loss(logits, WISE.double(), top=2),
        lambda logits: closure_loss(logits, WISE.double(), torch.tensor([4]), top=1, temperature=2.0),
        lambda logits: stratified_loss(logits, WISE.double(), [torch.tensor([0, 3])], temperature=1.0),
        lambda logits: confident_loss(logits, WISE.double(), torch.tensor([3, 3]), temperature=1.0),
        lambda logits: distillation_loss(logits, WISE.double(), torch.tensor([3, 3]), alpha=0.3, temperature=2.0),
    ],
)
def test_the_gradient_of_each_loss_is_its_slope(loss):
    logits = WIDE.clone().requires_grad_()
    loss(logits).backward()
    step = 1e-2

    for place in ((0, 0), (0, 3), (1, 2), (1, 4)):
        above, below = WIDE.clone(), WIDE.clone()
        above[place] += step
        below[place] -= step
        slope = (loss(above) - loss(below)).item() / (2 * step)
        assert logits.grad[place].item() == pytest.approx(slope, abs=2e-3), place


def of_one_after_the_other(loss, importance):
    """The mean of the loss of each position alone, times its importance."""
    parts = [float(importance[i]) * loss(slice(i, i + 1), None) for i in range(len(importance))]
    return sum(parts) / len(parts)


KNOWN, PARTS = torch.tensor([3, 0]), [torch.tensor([0, 3]), torch.tensor([1, 2])]
WEIGHED = {
    "hard": lambda z, i, at: hard_loss(z[at], KNOWN[at], i),
    "soft": lambda z, i, at: soft_label_loss(z[at], WISE[at], temperature=2.0, importance=i),
    "both": lambda z, i, at: distillation_loss(z[at], WISE[at], KNOWN[at], alpha=0.3, temperature=2.0, importance=i),
    "all": lambda z, i, at: weighed_loss(
        (z[at], WISE[at], KNOWN[at]), Weights(0.5, 0.3, 0.7), temperature=0.5, strata=PARTS, importance=i
    ),
    "ranking": lambda z, i, at: ranking_loss(z[at], WISE[at], top=3, decay=2.0, importance=i),
    "listwise": lambda z, i, at: listwise_loss(z[at], WISE[at], top=2, importance=i),
    "closure": lambda z, i, at: closure_loss(z[at], WISE[at], torch.tensor([4]), top=1, temperature=2.0, importance=i),
    "stratified": lambda z, i, at: stratified_loss(z[at], WISE[at], PARTS, temperature=1.0, importance=i),
}


@pytest.mark.parametrize("name", WEIGHED)
@pytest.mark.parametrize("importance", [[0.25, 3.0], [0.0, 2.0], [1.0, 1.0]])
def test_each_position_counts_by_its_importance_in_value_and_gradient(name, importance):
    loss, weight = WEIGHED[name], torch.tensor(importance)
    ours, theirs = WIDE.clone().requires_grad_(), WIDE.clone().requires_grad_()

    fused = loss(ours, weight, slice(None))
    slow = of_one_after_the_other(lambda at, i: loss(theirs, i, at), weight)
    (2 * fused).backward()
    (2 * slow).backward()

    torch.testing.assert_close(fused, slow)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert bool(ours.grad[0].any()) == (importance[0] > 0)


def test_confident_loss_divides_by_its_own_weights_alone():
    target, importance = torch.tensor([3, 3]), torch.tensor([0.5, 2.0])
    each = [slow_kl(WIDE[i : i + 1], WISE[i : i + 1], 1.0) for i in range(2)]
    weights = [1 / math.log2(2), 1 / math.log2(6)]

    loss = confident_loss(WIDE, WISE, target, temperature=1.0, importance=importance)

    slow = (0.5 * weights[0] * each[0] + 2.0 * weights[1] * each[1]) / sum(weights)
    assert loss.item() == pytest.approx(slow, rel=1e-5)
