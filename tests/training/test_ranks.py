"""Several processes that train together do what one would, whatever their shares of a batch are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.model.test_fit import OBJECTIVE, SIZE, chain
from tests.training.together import together
from training import ranks
from training.distillation.source import Source
from training.distillation.teaching import Recipe, learn_from
from training.errors import InputError
from training.model import device
from training.model.batch import training_batches
from training.model.encoder import make_model
from training.model.fit import Course, Learner, Schedule, fit, train_step
from training.model.item_table import Start
from training.progress import Progress
from training.teacher.soft_labels import StateLabels

N_ITEMS = 40
STILL = replace(SIZE, dropout=0.0)
TERMS = {"kl": 1.0, "stratified": 1.0, "ranking": 0.5, "hint": 0.3, "layers": 0.3, "attention": 0.3}
WANTED = 4  # epochs


def batches():
    """A whole batch, one of fewer windows than processes, one whose last windows have no target, and a weighed one."""
    first, *_, last = training_batches(chain(), max_history=10, positions=64, seed=1)
    one = replace(first, rows=first.rows[:1], real=first.real[:1])
    places = int(one.real.sum())
    one = replace(one, target=first.target[:places], event=first.event[:places])
    real = last.real.clone()
    real[1:] = False
    places = int(real.sum())
    without = replace(last, target=last.target[:places], event=last.event[:places], real=real)
    importance = torch.from_numpy(np.random.default_rng(1).choice([0.0, 0.3, 1.0, 6.0], len(first.target))).float()
    weighed = replace(first, importance=importance)
    of_one = replace(one, importance=importance[: len(one.target)])
    return {
        "whole": first, "one window": one, "without targets": without, "weighed": weighed, "weighed window": of_one,
    }  # fmt: skip


def teach(model):
    rng = np.random.default_rng(0)
    states = rng.standard_normal((len(chain().item), 32)).astype(np.float16)
    labels = StateLabels(states, torch.from_numpy(rng.standard_normal((N_ITEMS, 32)).astype(np.float32)))
    teacher = make_model(N_ITEMS, STILL, 5).eval()
    return learn_from(Source(labels, np.arange(N_ITEMS) + 1.0, labels, teacher), Recipe(TERMS, 0.7, 0.5), 1)(model)


def students():
    frozen = Start(np.random.default_rng(0).standard_normal((N_ITEMS, 32)).astype(np.float32), is_frozen=True)
    yield "hard", make_model(N_ITEMS, STILL, 1), lambda model: OBJECTIVE
    yield "frozen", make_model(N_ITEMS, STILL, 1, frozen), lambda model: OBJECTIVE
    yield "taught", make_model(N_ITEMS, STILL, 1), teach
    yield "unit", make_model(N_ITEMS, replace(STILL, is_unit=True, has_trend=True), 1), teach


def steps():
    """The loss and the gradients of a step on each batch, from each student."""
    device.has_bfloat16 = lambda device_type: False
    found = {}
    for name, model, lesson in students():
        for kind, batch in batches().items():
            learner = Learner.start(model, lesson(model), 1e-3)
            found[f"{name}, {kind}: loss"] = torch.tensor(train_step(learner, batch, 1e-3))
            weights = [weight for group in learner.optimizer.param_groups for weight in group["params"]]
            for place, weight in enumerate(weights):
                found[f"{name}, {kind}: {place}"] = weight.grad
            model.load_state_dict(make_model(N_ITEMS, model.size, 2).state_dict())
    return found


def train(checkpoint, epochs):
    schedule = Schedule(0.01, 64, epochs=epochs, positions=10**9, patience=epochs, seed=1)
    scores = iter([0.1, 0.3, 0.2, 0.25, 0.2, 0.1])
    course = Course(chain(), schedule, lambda averaged: next(scores), Progress(is_quiet=not ranks.is_first()))
    curve = fit(make_model(N_ITEMS, STILL, 1), OBJECTIVE, course, checkpoint)
    return torch.tensor([[row.loss, row.validation] for row in curve])


def work(directory):
    found = steps()
    found["curve"] = train(directory / f"of-{ranks.count()}", WANTED)
    found["goes on"] = train(directory / "of-one", WANTED)
    train(directory / f"half-of-{ranks.count()}", WANTED // 2)
    try:
        ranks.alone(refuse)
    except ranks.FollowedError as error:
        found["followed"] = torch.tensor(error.exit_code)
    except InputError:
        found["refused"] = torch.tensor(True)
    found["told"] = torch.tensor(ranks.alone(ranks.number))
    found["turns"] = torch.tensor([made for _, made in ranks.by_turns(range(7), work_on)])
    found["first's"] = torch.tensor([made for _, made in ranks.by_turns(range(7), work_on, by_first=True)])
    found["alone"] = torch.tensor(ranks.alone(lambda: [made for _, made in ranks.by_turns(range(7), work_on)]))
    found["led"] = torch.tensor(ranks.led(lambda ask: [int(ask(3)), int(ask(5))], add_number))
    try:
        list(ranks.by_turns(range(7), refuse_late))
    except (ranks.FollowedError, InputError) as error:
        found["turn refused"] = torch.tensor([isinstance(error, InputError), error.exit_code])
    return found


def work_on(piece):
    return [piece, ranks.number(), ranks.sharing()]


def add_number(asked):
    return torch.tensor(asked + ranks.number())


def refuse():
    raise InputError("no")


def refuse_late(piece):
    return refuse() if piece == ranks.count() + 1 else piece


@pytest.fixture(scope="module", params=[2, 3])
def several(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("together")
    train(directory / "of-one", WANTED // 2)
    return request.param, directory, together(request.param, work, directory)


@pytest.fixture(scope="module")
def one():
    kept = device.has_bfloat16
    try:
        return steps()
    finally:
        device.has_bfloat16 = kept


def test_loss_and_gradients_of_a_step_are_those_of_one_process(several, one):
    _, _, found = several

    for each in found:
        for name, value in one.items():
            if value is None:
                assert each[name] is None, name
            else:
                torch.testing.assert_close(each[name], value, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_all_processes_have_the_same_weights_to_the_bit(several):
    _, _, (first, *others) = several

    for other in others:
        assert all(torch.equal(value, first[name]) for name, value in other.items() if name in one_of(first))


def one_of(found):
    return {name for name, value in found.items() if value is not None and ":" in name and "loss" not in name}


def test_a_training_goes_on_in_another_number_of_processes(several, tmp_path, monkeypatch):
    count, directory, (found, *_) = several
    monkeypatch.setattr(device, "has_bfloat16", lambda device_type: False)
    straight = train(tmp_path / "straight", WANTED)

    resumed = train(directory / f"half-of-{count}", WANTED)

    assert len(straight) == WANTED
    for curve in (found["curve"], found["goes on"], resumed):
        torch.testing.assert_close(curve[:, 0], straight[:, 0], atol=5e-3, rtol=0)
    assert found["curve"][:, 1].tolist() == straight[:, 1].tolist()


def test_a_checkpoint_has_the_same_tensors_at_any_number(several, tmp_path):
    count, directory, _ = several
    train(tmp_path / "of-one", WANTED)

    ours, theirs = ((place).read_bytes() for place in (tmp_path / "of-one", directory / f"of-{count}"))

    head = 8 + int.from_bytes(ours[:8], "little")
    assert abs(len(ours) - len(theirs)) < 200  # of the seconds in the curve
    assert ours[8:head].split(b'"__metadata__"')[0] == theirs[8:head].split(b'"__metadata__"')[0]


def test_a_failure_of_the_first_process_ends_the_others_with_its_exit_code(several):
    _, _, (first, *others) = several

    assert first["refused"]
    assert all(other["followed"] == InputError.exit_code for other in others)


def test_what_the_first_found_alone_is_told_to_all(several):
    assert all(each["told"] == 0 for each in several[2])


def test_processes_work_by_turns_and_each_alone(several):
    count, _, found = several

    for each in found:
        assert each["turns"].tolist() == [[piece, piece % count, 1] for piece in range(7)]
        assert each["first's"].tolist() == each["alone"].tolist() == [[piece, 0, 1] for piece in range(7)]


def test_what_the_first_asks_all_answer(several):
    count, _, found = several

    assert all(each["led"].tolist() == [3 * count + sum(range(count)), 5 * count + sum(range(count))] for each in found)


def test_a_failure_in_its_turn_ends_all_with_its_exit_code(several):
    _, _, found = several

    refused = [each["turn refused"].tolist() for each in found]

    assert refused == [[number == 1, InputError.exit_code] for number in range(len(found))]


def test_one_process_is_the_first_of_one():
    assert (ranks.count(), ranks.number(), ranks.is_first(), ranks.started()) == (1, 0, True, 1)
    assert ranks.alone(lambda: "done") == "done"
    assert list(ranks.by_turns([1, 2], lambda piece: 10 * piece)) == [(1, 10), (2, 20)]
    assert ranks.led(lambda ask: ask(1), torch.tensor) == 1
    with ranks.join():
        assert ranks.sum_gradients([], 0.5) == 0.5


def test_more_processes_than_gpus_are_refused_with_a_way_out(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    with pytest.raises(InputError, match=r"process 2 .* start 1 here, .* CUDA_VISIBLE_DEVICES="), ranks.join():
        pass
