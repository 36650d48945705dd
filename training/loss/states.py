"""Losses of hidden states, layers, attention maps and distances, as pure functions of tensors.

The losses of logits are in logits.py. Letters: P positions, D width, B batch, H heads, T time, V vectors, N items.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of projected states (FitNets, Romero et al. 2015, eq. 3).

    student, teacher: [P, D], where the student's states are already projected to the teacher's width.
    """
    return F.mse_loss(student.float(), teacher.float())


def layer_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over P of ‖s/‖s‖ - t/‖t‖‖² of two layers' outputs s and t (patient distillation, Sun et al. 2019, eq. 7).

    student, teacher: [P, D], where the student's outputs are already projected to the teacher's width. Their lengths do
    not count, because in a residual stream they grow from block to block.
    """
    distance = F.normalize(student.float(), dim=1) - F.normalize(teacher.float(), dim=1)
    return distance.square().sum(dim=1).mean()


def attention_loss(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the attention maps, averaged over heads before and over the real positions after.

    student: [B, H, T, T], teacher: [B, H', T, T], rows that sum to one; real: bool [B, T]. TinyBERT (Jiao et al. 2020,
    eq. 7) teaches these maps head by head. Student and teacher may have different numbers of heads here, so their means
    are compared, by KL as in MobileBERT (Sun et al. 2020, §3.2). In nats.
    """
    q, p = (maps.float().mean(dim=1)[real].clamp(min=1e-9) for maps in (student, teacher))  # [P, T]
    return (p * (p.log() - q.log())).sum(dim=1).mean()


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss of all pairwise distances, each divided by its side's mean (RKD-D, Park et al. 2019, eq. 5-6).

    student: [V, D], teacher: [V, D'], the states of the same users and the vectors of the same items in the same order.
    Users and items lie in one space, so there are pairs of two items, of two users, and of one of each (topology
    distillation, Kang et al. 2021).
    """
    ours, theirs = (_relative_distances(vectors.float()) for vectors in (student, teacher))
    return F.smooth_l1_loss(ours, theirs)


def worst_perturbation(student: Tensor, teacher: Tensor, items: Tensor, *, share: float) -> Tensor:
    """Return the shift of each state that moves the student's answer away from the teacher's fastest [P, D].

    student, teacher: logits [P, N]; items: [N, D]; share: the length of the shift. Its direction is the gradient of
    KL(teacher ‖ student) with respect to the state, (q - p) · items, where q and p are the softmax of student and
    teacher (Miyato et al. 2018; of embeddings in recommenders, He et al. 2018).
    """
    gradient = (torch.softmax(student.float(), dim=1) - torch.softmax(teacher.float(), dim=1)) @ items.float()
    return share * F.normalize(gradient, dim=1)


def _relative_distances(vectors: Tensor) -> Tensor:
    distance = F.pdist(vectors)  # [V · (V - 1) / 2]
    return distance / distance.mean().clamp(min=1e-9)
