"""A training whose item table lies in shards is that of one process: loss, gradients, checkpoints and what is kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.model.test_fit import SIZE, chain
from tests.training.together import together
from training.distillation.source import Source
from training.distillation.teaching import Recipe, learn_from, learn_smoothed
from training.errors import InputError
from training.model import device
from training.model.batch import training_batches
from training.model.checkpoint import load_weights, whole_model
from training.model.encoder import make_model
from training.model.fit import Course, Learner, Schedule, fit, train_step
from training.model.item_table import Start
from training.parallel.shard import Shard, gathered
from training.parallel.table import divide, is_too_large, shard_of, table_of
from training.progress import Progress
from training.teacher.soft_labels import MixedLabels, StateLabels
from training.teacher.transformer import learn_hard

N_ITEMS = 40
STILL = replace(SIZE, dropout=0.0)
EPOCHS = 3
SIZES = {"plain": STILL, "unit": replace(STILL, is_unit=True, has_trend=True)}


class Saved:
    """Labels that are known for all items only."""

    def __init__(self, said):
        self.said = said

    def logits(self, event):
        return self.said[event]


class Biased:
    """A trend that is given: some items are more likely."""

    def add(self, model, logits, event, columns=slice(None)):
        return logits + model.trend_weight * torch.linspace(-1, 1, N_ITEMS)[None, columns]


def learn_taught(terms):
    rng = np.random.default_rng(0)
    states = rng.standard_normal((len(chain().item), 32)).astype(np.float16)
    own = StateLabels(states, torch.from_numpy(rng.standard_normal((N_ITEMS, 32)).astype(np.float32)))
    saved = Saved(torch.from_numpy(rng.standard_normal((len(chain().item), N_ITEMS)).astype(np.float32)))
    teacher = make_model(N_ITEMS, STILL, 5).eval()
    source = Source(MixedLabels([own, saved]), np.arange(N_ITEMS) + 1.0, own, teacher)
    return learn_from(source, Recipe(terms, 0.7, 0.5), 1)


TERMS = {"kl": 1.0, "stratified": 1.0, "hint": 0.3, "layers": 0.3, "attention": 0.3}
FROZEN = Start(np.random.default_rng(0).standard_normal((N_ITEMS, 32)).astype(np.float32), is_frozen=True)
STUDENTS = {
    "hard": (STILL, None, learn_hard),
    "frozen": (STILL, FROZEN, learn_hard),
    "smoothed": (STILL, None, learn_smoothed(0.1)),
    "taught": (STILL, None, learn_taught(TERMS)),
    "without soft labels": (STILL, None, learn_taught({"hint": 1.0})),
    "gru": (replace(STILL, blocks=("gru",)), None, learn_taught({"kl": 1.0})),
    "unit": (replace(STILL, is_unit=True), None, learn_taught(TERMS)),
}


def batches():
    first, *_ = training_batches(chain(), max_history=10, positions=64, seed=1)
    places = int(first.real[:1].sum())
    one = replace(first, rows=first.rows[:1], real=first.real[:1])
    importance = torch.from_numpy(np.random.default_rng(1).choice([0.0, 0.3, 1.0, 6.0], len(first.target))).float()
    one = replace(one, target=first.target[:places], event=first.event[:places])
    return {
        "whole": first, "one window": one, "weighed": replace(first, importance=importance),
        "weighed window": replace(one, importance=importance[:places]),
    }  # fmt: skip


def steps(in_shards):
    """The loss and the gradients of a step on each batch, from each student; of the table all rows, in the first."""
    device.has_bfloat16 = lambda device_type: False
    found = {}
    for name, (size, start, lesson) in STUDENTS.items():
        for kind, batch in batches().items():
            model = make_model(N_ITEMS, size, 1, start)
            if in_shards:
                divide(model)
            learner = Learner.start(model, lesson(model), 1e-3)
            found[f"{name}, {kind}: loss"] = torch.tensor(train_step(learner, batch, 1e-3))
            for label, weight in model.named_parameters():
                gradient = weight.grad
                if in_shards and weight is table_of(model) and gradient is not None:
                    gradient = gathered(gradient, shard_of(model))
                found[f"{name}, {kind}: {label}"] = gradient
    return found


def train(checkpoint, epochs, size, in_shards=False):
    """The losses, and the table that is left: that of the second epoch, which is the best."""
    schedule = Schedule(0.01, 64, epochs, 10**9, epochs, 1)
    scores = iter([0.3, 0.2] if checkpoint.exists() else [0.1, 0.3, 0.2])
    course = Course(
        chain(), schedule, lambda averaged: next(scores), Progress(is_quiet=True), Biased() if size.has_trend else None
    )
    model = make_model(N_ITEMS, size, 1)
    if in_shards:
        divide(model)
    curve = fit(model, learn_hard(model), course, checkpoint)
    items = whole_model(model).items.weight.detach()
    return {"curve": torch.tensor([row.loss for row in curve]), "items": items}


def work(directory):
    found = steps(in_shards=True)
    for name, size in SIZES.items():
        straight = train(directory / f"{name}-in-shards", EPOCHS, size, in_shards=True)
        goes_on = train(directory / f"{name}-half-of-one", EPOCHS, size, in_shards=True)
        train(directory / f"{name}-half-in-shards", 1, size, in_shards=True)
        found |= {f"{name} straight {label}": value for label, value in straight.items()}
        found |= {f"{name} goes on {label}": value for label, value in goes_on.items()}
    refused = make_model(N_ITEMS, STILL, 1)
    divide(refused)
    try:
        learn_taught({"ranking": 1.0})(refused)
    except InputError as error:
        found["refused"] = torch.tensor("ranking needs the logits of all items" in str(error))
    found["by memory"] = torch.tensor([is_too_large(100, 8, 0.0), is_too_large(10**12, 64, 0.0)])
    return found


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Three processes: of 40 items their shards are uneven."""
    directory = tmp_path_factory.mktemp("together")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "has_bfloat16", lambda device_type: False)
        for name, size in SIZES.items():
            train(directory / f"{name}-half-of-one", 1, size)
    return directory, together(3, work, directory)


@pytest.fixture(scope="module")
def one():
    kept = device.has_bfloat16
    try:
        return steps(in_shards=False)
    finally:
        device.has_bfloat16 = kept


@pytest.mark.parametrize("name", STUDENTS)
def test_loss_and_gradients_of_a_step_are_those_of_one_process(name, several, one):
    wanted = {label: value for label, value in one.items() if label.startswith(f"{name},")}
    assert len(wanted) > 10

    for place, found in enumerate(several[1]):
        for label, value in wanted.items():
            is_table = "items" in label and "scale" not in label
            if value is None:
                assert found[label] is None, label
            elif place == 0 or not is_table:
                torch.testing.assert_close(
                    found[label], value, atol=1e-5, rtol=1e-5, msg=lambda m, n=label: f"{n}: {m}"
                )


@pytest.mark.parametrize("name", ["plain", "unit"])
def test_a_training_in_shards_is_that_of_a_whole_table_and_goes_on_as_one(name, several, tmp_path, monkeypatch):
    directory, (first, *others) = several
    monkeypatch.setattr(device, "has_bfloat16", lambda device_type: False)
    size = SIZES[name]

    straight = train(tmp_path / "straight", EPOCHS, size)
    resumed = train(directory / f"{name}-half-in-shards", EPOCHS, size)

    for found in (first[f"{name} straight curve"], first[f"{name} goes on curve"], resumed["curve"]):
        torch.testing.assert_close(found, straight["curve"], atol=5e-3, rtol=1e-3)
    for found in (first[f"{name} straight items"], first[f"{name} goes on items"], resumed["items"]):
        torch.testing.assert_close(found, straight["items"], atol=5e-3, rtol=5e-3)
    assert [len(found[f"{name} straight items"]) for found in others] == [13, 14]
    ours, theirs = (load_weights(place)[0] for place in (tmp_path / "straight", directory / f"{name}-in-shards"))
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, atol=5e-3, rtol=5e-3, msg=lambda m, n=key: f"{n}: {m}")


def test_a_term_that_needs_all_items_is_refused(several):
    assert all(found["refused"] for found in several[1])


def test_a_table_is_shared_where_memory_is_short(several):
    assert all(found["by memory"].tolist() == [False, True] for found in several[1])
    assert not is_too_large(10**12, 64, 0.0), "one process has it whole"
    assert Shard.of(10) == Shard(0, 10, 10)
