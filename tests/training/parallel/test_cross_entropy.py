"""The losses of shards are those of whole logits, in value and gradient, whatever the shards and the strata are."""

import numpy as np
import pytest
import torch

from tests.training.together import together
from training.loss import logits as plain
from training.loss.logits import Weights
from training.parallel import cross_entropy
from training.parallel.shard import Shard, gathered, joined

CASES = 40


def cases():
    """Random logits, among them some of one item, of fewer items than shards, huge ones and strata without items."""
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        positions, n_items = int(rng.integers(1, 9)), int(rng.integers(1, 30)) if seed % 4 else int(rng.integers(1, 4))
        student, teacher = torch.from_numpy(rng.normal(0, rng.choice([0.1, 3, 60]), (2, positions, n_items))).float()
        target = torch.from_numpy(rng.integers(0, n_items, positions))
        stratum = rng.integers(0, 4, n_items)
        strata = [torch.from_numpy(np.flatnonzero(stratum == number)) for number in range(3)]  # the last have none
        strata = [rows for rows in strata if len(rows)] if seed % 3 else []
        weights = Weights(*(float(rng.choice([0.0, 0.3, 1.0])) for _ in range(3)))
        importance = torch.from_numpy(rng.choice([0.0, 0.5, 4.0], positions)).float() if seed % 2 else None
        yield (student, teacher, target), strata, weights, importance, float(rng.choice([0.5, 1.0, 2.0]))


def value_and_gradient(loss, student):
    leaf = student.clone().requires_grad_()
    value = loss(leaf)
    (value * 1.5).backward()
    return value.detach(), leaf.grad / 1.5


def work(directory):
    """The largest differences of value and gradient, by kind of loss."""
    worst = {}
    for (student, teacher, target), strata, weights, importance, temperature in cases():
        how = {"temperature": temperature, "strata": strata, "importance": importance}
        shard = Shard.of(student.shape[1])
        own = teacher[:, shard.columns]
        kinds = {
            "hard": (
                lambda z, t=target, i=importance: plain.hard_loss(z, t, i),
                lambda z, t=target, s=shard, i=importance: cross_entropy.hard_loss(z, t, s, importance=i),
            ),
            "smoothed": (
                lambda z, t=target, i=importance: plain.mean_of(
                    torch.nn.functional.cross_entropy(z, t, label_smoothing=0.2, reduction="none"), i
                ),
                lambda z, t=target, s=shard, i=importance: cross_entropy.hard_loss(z, t, s, 0.2, i),
            ),
            "weighed": (
                lambda z, a=(teacher, target), w=weights, k=how: plain.weighed_loss((z, *a), w, **k),
                lambda z, a=(own, target), w=weights, s=shard, k=how: cross_entropy.weighed_loss((z, *a), w, s, **k),
            ),
        }
        for name, (whole, ours) in kinds.items():
            value, gradient = value_and_gradient(whole, student)
            found, part = value_and_gradient(ours, student[:, shard.columns])
            scale = max(1.0, float(value.abs()))
            away = [float((found - value).abs()) / scale]
            away += [float((part - gradient[:, shard.columns]).abs().amax())] if part.numel() else []
            worst[name] = max([worst.get(name, 0.0), *away])
    found = {name: torch.tensor(value) for name, value in worst.items()}
    shard = Shard.of(7)
    table = torch.arange(14.0).reshape(7, 2)
    found["gathered"] = gathered(table[shard.columns], shard)
    found["joined"] = joined(table[shard.columns], shard.first, 7)
    return found


@pytest.fixture(scope="module", params=[1, 2, 3])
def several(request, tmp_path_factory):
    return together(request.param, work, tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize("name", ["hard", "smoothed", "weighed"])
def test_value_and_gradient_are_those_of_whole_logits(several, name):
    assert max(float(found[name]) for found in several) < 1e-5


def test_a_table_in_shards_is_whole_in_the_first_process_alone(several):
    first, *others = several
    table = torch.arange(14.0).reshape(7, 2)

    assert torch.equal(first["gathered"], table)
    assert all(len(found["gathered"]) < 7 for found in others)
    assert all(torch.equal(found["joined"], table) for found in several)


@pytest.mark.parametrize(("n_items", "count"), [(7, 3), (2, 5), (1, 1), (16, 16)])
def test_shards_one_after_the_other_are_all_items(n_items, count):
    shards = [Shard.of(n_items, number, count) for number in range(count)]

    assert [row for shard in shards for row in range(n_items)[shard.columns]] == list(range(n_items))
    sizes = [shard.stop - shard.first for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    is_own, place = shards[-1].place(torch.arange(n_items))
    assert place[is_own].tolist() == list(range(sizes[-1]))
