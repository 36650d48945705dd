"""The loop: overfits what it should, stops when it should, and resuming changes nothing."""

import numpy as np
import torch

from training.data.event import Events
from training.loss.logits import hard_loss
from training.model.encoder import SequenceModel, Size
from training.model.fit import Course, Schedule, fit
from training.model.objective import Objective
from training.model.warm import Warm
from training.progress import Progress
from training.teacher.transformer import hard

SIZE = Size(dim=32, blocks=("pool", "attention"), heads=2, dropout=0.1, max_history=10)
SCHEDULE = Schedule(learning_rate=0.01, batch_positions=64, epochs=6, positions=10**9, patience=6, seed=1)


def chain(users=32, length=9, n_items=40):
    rng = np.random.default_rng(0)
    rows = [(rng.integers(n_items) + np.arange(length)) % n_items for _ in range(users)]
    return Events(np.concatenate(rows).astype(np.int32), np.arange(0, users * length + 1, length))


OBJECTIVE = Objective(hard)


def train(path, schedule, validate=None, progress=None, objective=OBJECTIVE):
    torch.manual_seed(0)
    model = SequenceModel(40, SIZE)
    curve = fit(model, objective, Course(chain(), schedule, validate, progress or Progress()), path)
    return model, curve


def test_fit_overfits_32_users(tmp_path):
    schedule = Schedule(learning_rate=0.01, batch_positions=64, epochs=25, positions=10**9, patience=25, seed=1)

    _, curve = train(tmp_path / "c", schedule)

    assert curve[0].loss > 3.0
    assert curve[-1].loss < 0.5


def test_a_training_that_goes_on_reaches_its_rate_within_a_few_steps(tmp_path):
    events = chain()
    anything = Warm(tmp_path, np.arange(40), np.ones(len(events.item), dtype=bool), 1.0, 2, 0.5)
    schedule, moved = Schedule(0.01, 64, epochs=2, positions=10**9, patience=2, seed=1), {}

    for name, warm in (("anew", None), ("on", anything)):
        torch.manual_seed(0)
        model = SequenceModel(40, SIZE)
        before = model.items.weight.detach().clone()
        fit(model, OBJECTIVE, Course(events, schedule, None, Progress(), warm=warm), tmp_path / name)
        moved[name] = float((model.items.weight.detach() - before).abs().max())

    assert moved["anew"] < 0.01  # within its warm-up of a hundred steps
    assert moved["on"] > 4 * moved["anew"]


def test_resuming_changes_nothing(tmp_path):
    straight, _ = train(tmp_path / "straight", SCHEDULE)

    train(tmp_path / "halves", Schedule(0.01, 64, epochs=3, positions=10**9, patience=6, seed=1))
    resumed, curve = train(tmp_path / "halves", SCHEDULE)

    assert [row.epoch for row in curve] == [0, 1, 2, 3, 4, 5]
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_fit_stops_after_patience_and_returns_the_best_weights(tmp_path):
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.2])
    seen = []

    def validate(averaged):
        seen.append(averaged.items.weight.detach().clone())
        return next(scores)

    schedule = Schedule(0.01, 64, epochs=20, positions=10**9, patience=2, seed=1)
    model, curve = train(tmp_path / "c", schedule, validate)

    assert [row.validation for row in curve] == [0.1, 0.5, 0.4, 0.3]
    assert torch.equal(model.items.weight, seen[1])


def test_chunks_of_positions_give_the_gradient_of_the_whole(tmp_path, monkeypatch):
    whole, _ = train(tmp_path / "whole", Schedule(0.01, 64, epochs=1, positions=10**9, patience=1, seed=1))
    monkeypatch.setattr(
        "training.model.gradient.chunk_logits", lambda _: 1
    )  # a chunk then has as many as the model is wide
    chunks, _ = train(tmp_path / "chunks", Schedule(0.01, 64, epochs=1, positions=10**9, patience=1, seed=1))

    torch.testing.assert_close(whole.items.weight, chunks.items.weight, atol=2e-2, rtol=0)


def count_targets(path, schedule, validate=None):
    targets = []

    def loss(logits, batch, chunk):
        targets.append(len(logits))
        return hard_loss(logits, batch.target[chunk])

    _, curve = train(path, schedule, validate, objective=Objective(loss))
    return sum(targets), len(curve)


def test_no_more_targets_are_trained_on_than_the_schedule_says(tmp_path):
    for positions in (1, 100, 256, 300):  # an epoch has 256, a batch at most 64
        schedule = Schedule(0.01, 64, epochs=20, positions=positions, patience=20, seed=1)

        offered, epochs = count_targets(tmp_path / str(positions), schedule)

        assert positions <= offered < positions + 64
        assert epochs == 1 + (positions > 256)


def test_a_catalogue_whose_logits_would_take_days_gets_fewer_targets_and_is_told(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("training.model.fit.MOST_LOGITS", 40 * 100)

    offered, epochs = count_targets(tmp_path / "c", SCHEDULE, lambda averaged: 0.5)

    assert (offered < 164, epochs) == (True, 1)
    assert "100 targets instead of 1,536: 40 items" in capfd.readouterr().err


def test_every_epoch_is_logged_under_stage_and_model(tmp_path):
    written = []

    class Kept:
        def write(self, name, step, value):
            written.append((name, step))

    (tmp_path / ".student.work").mkdir()
    schedule = Schedule(0.01, 64, epochs=2, positions=10**9, patience=2, seed=1)
    checkpoint = tmp_path / ".student.work" / "checkpoint.alone.safetensors"
    train(checkpoint, schedule, progress=Progress(Kept()))

    names = ("student/alone/loss", "student/alone/validation")
    assert written == [(name, step) for step in (1, 2) for name in names]
