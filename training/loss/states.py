"""What else a teacher can hand on: losses of states, layers, attention maps and the geometry of items and users.

Pure functions of tensors, as those of logits in losses.py. Letters: P positions, D width, B batch, H heads, T time,
V vectors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of projected states (FitNets, Romero et al. 2015, eq. 3).

    student, teacher: [P, D], the student's already projected to the teacher's width.
    """
    return F.mse_loss(student.float(), teacher.float())


def layer_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over P of ‖s/‖s‖ - t/‖t‖‖² of two layers' outputs (patient distillation, Sun et al. 2019, eq. 7).

    student, teacher: [P, D], the student's already projected. Lengths are left out: those of a residual stream grow
    from block to block.
    """
    distance = F.normalize(student.float(), dim=1) - F.normalize(teacher.float(), dim=1)
    return distance.square().sum(dim=1).mean()


def attention_loss(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Cross-entropy of attention maps minus its least: KL(teacher ‖ student) of each real position, heads averaged.

    student [B, H, T, T], teacher [B, H', T, T]: rows sum to one; real bool [B, T]. The maps of TinyBERT (Jiao et al.
    2020, eq. 7), by KL as in MobileBERT (Sun et al. 2020, §3.2), for the heads need not be equally many. In nats.
    """
    q, p = (maps.float().mean(dim=1)[real].clamp(min=1e-9) for maps in (student, teacher))  # [P, T]
    return (p * (p.log() - q.log())).sum(dim=1).mean()


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss of all pairwise distances, each side's over their mean (RKD-D, Park et al. 2019, eq. 5-6).

    student [V, D], teacher [V, D']: the same users' states and items' vectors in the same order. Users and items stand
    in one space, so that the pairs are of items, of users, and of both (topology distillation, Kang et al. 2021).
    """
    ours, theirs = (_relative_distances(vectors.float()) for vectors in (student, teacher))
    return F.smooth_l1_loss(ours, theirs)


def worst_perturbation(student: Tensor, teacher: Tensor, items: Tensor, *, share: float) -> Tensor:
    """Return the shift of states that moves the student's answer away from the teacher's fastest.

    student, teacher: logits [P, N]; items [N, D] -> [P, D] of length one times share: the direction of the gradient of
    KL(teacher ‖ student) with respect to the state, which is (q - p) · items (Miyato et al. 2018; of embeddings in
    recommenders, He et al. 2018).
    """
    gradient = (torch.softmax(student.float(), dim=1) - torch.softmax(teacher.float(), dim=1)) @ items.float()
    return share * F.normalize(gradient, dim=1)


def _relative_distances(vectors: Tensor) -> Tensor:
    distance = F.pdist(vectors)  # [V · (V - 1) / 2]
    return distance / distance.mean().clamp(min=1e-9)
