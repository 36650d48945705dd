"""Losses of hidden states, layers, attention maps and distances, as pure functions of tensors.

The losses of logits are in logits.py. Letters: P positions, D width, B batch, H heads, T time, V vectors, N items.

importance [P] multiplies what each position adds, as in logits.py; None counts all alike.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.loss.logits import mean_of


def hint_loss(student: Tensor, teacher: Tensor, importance: Tensor | None = None) -> Tensor:
    """Mean squared error of projected states (FitNets, Romero et al. 2015, eq. 3).

    student, teacher: [P, D], where the student's states are already projected to the teacher's width.
    """
    if importance is None:
        return F.mse_loss(student.float(), teacher.float())
    return mean_of((student.float() - teacher.float()).square(), importance)


def layer_loss(student: Tensor, teacher: Tensor, importance: Tensor | None = None) -> Tensor:
    """Mean over P of ‖s/‖s‖ - t/‖t‖‖² of two layers' outputs s and t (patient distillation, Sun et al. 2019, eq. 7).

    student, teacher: [P, D], where the student's outputs are already projected to the teacher's width. Their lengths do
    not count, because in a residual stream they grow from block to block.
    """
    distance = F.normalize(student.float(), dim=1) - F.normalize(teacher.float(), dim=1)
    return mean_of(distance.square().sum(dim=1), importance)


def attention_loss(student: Tensor, teacher: Tensor, real: Tensor, importance: Tensor | None = None) -> Tensor:
    """KL(teacher ‖ student) of the attention maps, averaged over heads before and over the real positions after.

    student: [B, H, T, T], teacher: [B, H', T, T], rows that sum to one; real: bool [B, T]. TinyBERT (Jiao et al. 2020,
    eq. 7) teaches these maps head by head. Student and teacher may have different numbers of heads here, so their means
    are compared, by KL as in MobileBERT (Sun et al. 2020, §3.2). In nats.
    """
    q, p = (maps.float().mean(dim=1)[real].clamp(min=1e-9) for maps in (student, teacher))  # [P, T]
    return mean_of((p * (p.log() - q.log())).sum(dim=1), importance)


def relation_loss(student: Tensor, teacher: Tensor, importance: Tensor | None = None) -> Tensor:
    """Huber loss of all pairwise distances, each divided by its side's mean (RKD-D, Park et al. 2019, eq. 5-6).

    student: [V, D], teacher: [V, D'], the states of the same users and the vectors of the same items in the same order.
    Users and items lie in one space, so there are pairs of two items, of two users, and of one of each (topology
    distillation, Kang et al. 2021). importance: of each vector [V]; a pair counts as the product of its two.
    """
    pair = None if importance is None else _of_pairs(importance)
    ours, theirs = (_relative_distances(vectors.float(), pair) for vectors in (student, teacher))
    if pair is None:
        return F.smooth_l1_loss(ours, theirs)
    return mean_of(F.smooth_l1_loss(ours, theirs, reduction="none"), pair)


def worst_perturbation(student: Tensor, teacher: Tensor, items: Tensor, *, share: float) -> Tensor:
    """Return the shift of each state that moves the student's answer away from the teacher's fastest [P, D].

    student, teacher: logits [P, N]; items: [N, D]; share: the length of the shift. Its direction is the gradient of
    KL(teacher ‖ student) with respect to the state, (q - p) · items, where q and p are the softmax of student and
    teacher (Miyato et al. 2018; of embeddings in recommenders, He et al. 2018).
    """
    gradient = (torch.softmax(student.float(), dim=1) - torch.softmax(teacher.float(), dim=1)) @ items.float()
    return share * F.normalize(gradient, dim=1)


def _of_pairs(importance: Tensor) -> Tensor:
    """Return the product of the two of each pair, in the order of F.pdist [V · (V - 1) / 2]."""
    first, second = torch.triu_indices(len(importance), len(importance), offset=1, device=importance.device)
    return importance[first] * importance[second]


def _relative_distances(vectors: Tensor, importance: Tensor | None) -> Tensor:
    """Return the distances of all pairs, divided by their mean, in which each pair counts by its importance."""
    distance = F.pdist(vectors)  # [V · (V - 1) / 2]
    if importance is None:
        return distance / distance.mean().clamp(min=1e-9)
    mean = (distance * importance).sum() / importance.sum().clamp(min=1e-9)
    return distance / mean.clamp(min=1e-9)
