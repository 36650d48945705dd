"""Teach the item network to give what the student would: the same scores, and the items that users took.

Each step takes some items as if they were the whole catalogue, hides a part of what is said of them, and lowers three
losses. What users took next, among these items; the student's own scores of them, as soft labels; and the distance of
the vectors, which also stand in histories. Where a language model says what the texts mean, a fourth loss is how far
its vectors are from those that a linear head makes of an item's bag of features; the head is dropped afterwards.
tests/bench/README.md, "An encoder of new items", has what each brings. An item is known to the network by its features
alone, of which it must do without some: nothing else tells items apart.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.bundle import pad_features
from training.data.event import Int64
from training.newcomer.example import Examples
from training.newcomer.network import WIDTH, ItemNetwork, make_network
from training.progress import Progress

ITEMS_AT_ONCE, USERS_AT_ONCE, TAKEN_AT_ONCE = 512, 256, 512
HIDDEN = 0.3  # of the features of an item, in each step
VECTOR_WEIGHT = 0.1  # of the distance of the vectors, in the sum of the losses
MEANING_WEIGHT = 0.3  # of the distance from what the language model says
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-2
LEAST_STEPS = 200  # of a training, however few the items are
MOST_STEPS = 1000  # of a training, or three epochs where these take more: a minute or two for 20,000 items


@dataclass(frozen=True, eq=False)
class Batch:
    """Some items, and users: M items, P users who took one of them, Q other users.

    features: int64 [M, F]. vectors: the student's [M, D]. trust: how far these can be trusted [M]. states: [P, D].
    taken: which of the items each took [P]. others: [Q, D]. meanings: the language model's [M, W], where there is one.
    """

    features: Tensor
    vectors: Tensor
    trust: Tensor
    states: Tensor
    taken: Tensor
    others: Tensor
    meanings: Tensor | None


def teach(examples: Examples, epochs: int, seed: int, progress: Progress) -> ItemNetwork:
    """Return a network that was taught by a student's examples, in eval(). Equal seeds give equal weights."""
    trust = examples.weights()
    mean = (examples.vectors * trust[:, None]).sum(axis=0) / max(float(trust.sum()), 1e-6)
    network = make_network(examples.features, mean, seed)
    metric = torch.from_numpy(examples.metric())
    spread = float((((torch.from_numpy(examples.vectors - mean)) @ metric) ** 2).mean()) or 1.0
    steps = steps_of(len(examples.features), epochs)
    head = None if examples.meanings is None else nn.Linear(WIDTH, examples.meanings.shape[1])
    learned = [*network.parameters(), *(head.parameters() if head else ())]
    optimiser = torch.optim.AdamW(learned, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps + 1)
    network.train()
    with progress.bar("item encoder, steps", steps) as bar, _one_thread():
        for _, batch in zip(range(steps), _batches(examples, trust, seed), strict=False):
            optimiser.zero_grad()
            _loss(network, head, batch, metric, spread).backward()
            optimiser.step()
            schedule.step()
            bar.advance(1)
    return network.eval()


def steps_of(n_items: int, epochs: int) -> int:
    """Return how many steps a training takes."""
    per_epoch = -(-n_items // ITEMS_AT_ONCE)
    return min(max(LEAST_STEPS, epochs * per_epoch), max(MOST_STEPS, 3 * per_epoch))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: a step is so small that on shared cores threads wait for each other, ten times over."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _loss(network: ItemNetwork, head: nn.Linear | None, batch: Batch, metric: Tensor, spread: float) -> Tensor:
    """Return the sum of the losses of a batch. spread: the mean square of the vectors under the metric."""
    keep = (torch.rand(batch.features.shape) >= HIDDEN).float()
    bag = network.bag(batch.features, keep)  # [M, H]
    vectors = network.vectors_of(bag)  # [M, D]
    distance = (batch.trust[:, None] * ((vectors - batch.vectors) @ metric) ** 2).mean() / spread
    ours, theirs = batch.others @ vectors.T, batch.others @ batch.vectors.T  # [Q, M]
    soft = F.kl_div(ours.log_softmax(dim=1), theirs.softmax(dim=1), reduction="batchmean")
    hard = F.cross_entropy(batch.states @ vectors.T, batch.taken) if len(batch.taken) else torch.zeros(())
    total: Tensor = hard + soft + VECTOR_WEIGHT * distance
    if head is None or batch.meanings is None:
        return total
    return total + MEANING_WEIGHT * (1 - F.cosine_similarity(head(bag), batch.meanings)).mean()


def _batches(examples: Examples, trust: np.ndarray, seed: int) -> Iterator[Batch]:
    """Yield batches without end: the items in random order, epoch after epoch."""
    rng = np.random.default_rng(seed)
    order = np.argsort(examples.taken, kind="stable")
    starts = np.searchsorted(examples.taken[order], np.arange(len(examples.features) + 1))
    while True:
        shuffled = rng.permutation(len(examples.features))
        for first in range(0, len(shuffled), ITEMS_AT_ONCE):
            yield _make_batch(examples, trust, shuffled[first : first + ITEMS_AT_ONCE], (order, starts), rng)


def _make_batch(
    examples: Examples, trust: np.ndarray, rows: Int64, by_item: tuple[Int64, Int64], rng: np.random.Generator
) -> Batch:
    """by_item: the examples in the order of the items taken, and where those of each item start in it."""
    order, starts = by_item
    counts = starts[rows + 1] - starts[rows]
    taken = np.repeat(np.arange(len(rows)), counts)
    users = np.concatenate([order[starts[row] : starts[row + 1]] for row in rows.tolist()])
    if len(users) > TAKEN_AT_ONCE:
        drawn = rng.choice(len(users), TAKEN_AT_ONCE, replace=False)
        users, taken = users[drawn], taken[drawn]
    others = rng.integers(0, max(1, len(examples.states)), USERS_AT_ONCE if len(examples.states) else 0)
    return Batch(
        torch.from_numpy(pad_features([examples.features[row] for row in rows.tolist()])),
        torch.from_numpy(examples.vectors[rows]),
        torch.from_numpy(trust[rows]),
        torch.from_numpy(examples.states[users]),
        torch.from_numpy(taken),
        torch.from_numpy(examples.states[others]),
        None if examples.meanings is None else torch.from_numpy(examples.meanings[rows]),
    )
