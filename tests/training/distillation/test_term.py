"""The terms of distillation by name: what is refused, what each needs, and each one trained on a chain world."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.world import tiny_settings
from training.__main__ import main
from training.data.event import Events
from training.distillation.batch_term import BATCH_TERMS
from training.distillation.source import Source
from training.distillation.teaching import Recipe, Teaching, learn_from, learn_smoothed
from training.distillation.term import TERMS, Pupil, check_terms, parse_terms
from training.distillation.validation_term import feedback_gradient
from training.errors import InputError
from training.evaluation.breakdown import popularity_quintile
from training.model.batch import Batch
from training.model.encoder import SequenceModel, Size
from training.model.fit import Course, Schedule, fit
from training.model.objective import Objective
from training.progress import Progress
from training.teacher.soft_labels import SavedLabels, load_soft_labels, save_soft_labels

N_ITEMS = 40
SIZE = Size(dim=16, blocks=("pool", "attention"), heads=2, dropout=0.0, max_history=10)
PUPIL = Pupil(("transformer", "linear"), ("pool", "attention"), 50, ("attention",), 50)


def chain(users=32, length=9):
    rng = np.random.default_rng(0)
    rows = [(rng.integers(N_ITEMS) + np.arange(length)) % N_ITEMS for _ in range(users)]
    return Events(np.concatenate(rows).astype(np.int32), np.arange(0, users * length + 1, length))


def probe():
    first = torch.arange(8)[:, None]
    return (first + torch.arange(5)) % N_ITEMS, first[:, 0] + 5


def test_smoothed_labels_are_cross_entropy_with_target_and_all_items():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    batch = Batch(torch.empty(0), torch.tensor([9, 1, 2, 3, 4, 6]), torch.empty(0), torch.empty(0))
    log_p = logits.log_softmax(dim=-1)

    found = learn_smoothed(0.1)(SequenceModel(N_ITEMS, SIZE)).loss(logits, batch, slice(1, 6))

    chosen = log_p[torch.arange(5), batch.target[1:6]]
    assert found == pytest.approx(float(-(0.9 * chosen + 0.1 * log_p.mean(dim=-1)).mean()), rel=1e-6)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A transformer that knows the chain, and its soft labels."""
    out, events = tmp_path_factory.mktemp("teacher"), chain()
    torch.manual_seed(0)
    teacher = SequenceModel(N_ITEMS, Size(24, ("pool", "attention", "attention"), 2, 0.0, 12))
    plain = learn_from(Source(Constant(), np.ones(N_ITEMS)), Recipe({"kl": 1.0}, 0.0, 1.0), 1)(teacher)
    train(teacher, Objective(plain.loss), out / "checkpoint", epochs=16)
    save_soft_labels(out, teacher, events, Progress())
    labels = load_soft_labels(out, torch.device("cpu"))
    popularity = np.bincount(events.item, minlength=N_ITEMS).astype(np.float64)
    return Source(labels, popularity, labels, teacher, probe)


class Biased:
    """Soft labels with something added for each item."""

    def __init__(self, labels, bias):
        self.labels, self.bias = labels, bias

    def logits(self, event):
        return self.labels.logits(event) + self.bias


class Constant:
    """Soft labels of a teacher that knows nothing."""

    def logits(self, event):
        return torch.zeros(len(event), N_ITEMS)


def train(model, objective, path, epochs=12):
    schedule = Schedule(0.04, 64, epochs, 10**9, 99, 1)
    return fit(model, objective, Course(chain(), schedule, None, Progress()), path)


def student(recipe, source):
    torch.manual_seed(1)
    model = SequenceModel(N_ITEMS, SIZE)
    return model, learn_from(source, recipe, 1)(model)


def test_teacher_of_another_temperature_has_its_logits_scaled(source):
    shared = Recipe({"kl": 1.0}, 1.0, 0.5)
    apart = Recipe({"kl": 1.0}, 1.0, 1.0, teacher_temperature=0.5)
    logits = torch.randn(6, N_ITEMS, generator=torch.Generator().manual_seed(0))
    batch = Batch(torch.empty(0), torch.zeros(6, dtype=torch.int64), torch.arange(6), torch.empty(0))

    half = learn_from(source, shared, 1)(source.model).loss(logits / 2, batch, slice(0, 6))
    whole = learn_from(source, apart, 1)(source.model).loss(logits, batch, slice(0, 6))

    assert float(whole) == pytest.approx(4 * float(half), rel=1e-3)  # each times its student's temperature squared


@pytest.mark.parametrize("name", TERMS)
def test_each_term_teaches_the_chain(name, source, tmp_path):
    model, objective = student(Recipe({name: TERMS[name].weight}, 0.5, 1.0), source)

    curve = train(model, objective, tmp_path / "checkpoint")

    assert curve[-1].loss < 0.8 * curve[0].loss
    rows, target = probe()
    ranks = (model.scores(model.users(rows)) >= model.scores(model.users(rows)).gather(1, target[:, None])).sum(1)
    assert ranks.float().mean() < N_ITEMS / 4


@pytest.mark.parametrize("name", ["hint", "mutual", "meta", "feedback", "layers"])
def test_a_term_that_learns_resumes_to_the_same_weights(name, source, tmp_path):
    recipe = Recipe({"kl": 1.0, name: 1.0}, 0.5, 1.0)

    straight, objective = student(recipe, source)
    train(straight, objective, tmp_path / "straight", epochs=4)
    half, objective = student(recipe, source)
    train(half, objective, tmp_path / "halves", epochs=2)
    resumed, objective = student(recipe, source)
    train(resumed, objective, tmp_path / "halves", epochs=4)

    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_soft_labels_among_other_terms_weigh_what_they_weigh_alone(source, tmp_path):
    alone, objective = student(Recipe({"kl": 1.0}, 0.9, 1.0), source)
    train(alone, Objective(objective.loss), tmp_path / "alone", epochs=1)
    beside, objective = student(Recipe({"kl": 1.0, "hint": 1e-9}, 0.9, 1.0), source)
    train(beside, objective, tmp_path / "beside", epochs=1)

    torch.testing.assert_close(alone.items.weight, beside.items.weight, atol=2e-2, rtol=0)


def test_feedback_moves_a_teacher_from_what_validation_wants_lower():
    """Against differences of the slow formula, and frozen numbers."""
    generator = torch.Generator().manual_seed(0)
    teacher, change = torch.randn(4, 6, generator=generator), torch.randn(4, 6, generator=generator)
    log_scale, offset = torch.tensor(0.3), torch.linspace(-1, 1, 6)

    def slow(log_scale, offset):
        corrected = teacher.double() * log_scale.double().exp() + offset.double()
        return float((torch.softmax(corrected / 2, -1) * change).sum(-1).mean())

    scale, items = feedback_gradient(teacher, change, log_scale, offset, 2.0)

    assert float(scale) == pytest.approx(-0.0897136, abs=1e-6)
    assert items.tolist() == pytest.approx([-0.0170, 0.0411, -0.0371, 0.0400, -0.0197, -0.0073], abs=1e-4)

    step = 1e-4
    moved = (slow(log_scale + step, offset) - slow(log_scale - step, offset)) / (2 * step)
    assert float(scale) == pytest.approx(moved, rel=1e-2)
    for item in range(6):
        shift = step * torch.eye(6, dtype=torch.float64)[item]
        found = (slow(log_scale, offset + shift) - slow(log_scale, offset - shift)) / (2 * step)
        assert float(items[item]) == pytest.approx(found, abs=1e-5)


def test_feedback_corrects_a_teacher_that_favours_the_wrong_item(source, tmp_path):
    bias = torch.zeros(N_ITEMS)
    bias[7], asked = 5.0, [7]  # never wanted by the probe, whose next items are 5 to 12 without it
    first = torch.tensor([row for row in range(8) if row + 5 not in asked])
    biased = Source(
        Biased(source.labels, bias),
        source.popularity,
        probe=lambda: ((first[:, None] + torch.arange(5)) % N_ITEMS, first + 5),
    )

    model, objective = student(Recipe({"feedback": 1.0}, 0.9, 1.0), biased)
    train(model, objective, tmp_path / "checkpoint", epochs=16)

    offset = objective.batch_loss.batch_terms["feedback"].offset
    assert int(offset.argmin()) == 7


@pytest.mark.parametrize("name", ["meta", "feedback", "adversarial"])
def test_a_term_teaches_a_student_of_rows_of_length_1(name, source, tmp_path):
    torch.manual_seed(1)
    model = SequenceModel(N_ITEMS, replace(SIZE, is_unit=True))
    objective = learn_from(source, Recipe({"kl": 1.0, name: 1.0}, 0.5, 1.0), 1)(model)

    curve = train(model, objective, tmp_path / "checkpoint")

    assert curve[-1].loss < 0.9 * curve[0].loss


def test_mutual_is_both_students_losses_by_the_slow_formula(source):
    """The student's KL from the peer, and the peer's hard loss and KL from the student, neither moving the other."""
    torch.manual_seed(1)
    model = SequenceModel(N_ITEMS, SIZE)
    mutual = BATCH_TERMS["mutual"](source, model)
    rows = torch.tensor([[1, 2, 3]])
    batch = Batch(rows, torch.tensor([2, 3, 4]), torch.arange(3), torch.ones(1, 3, dtype=torch.bool))
    logits = torch.randn(3, N_ITEMS, generator=torch.Generator().manual_seed(0))

    loss = mutual.chunk_loss(logits, batch, slice(0, 3), alpha=0.6, weight=2.0).detach()

    mine = logits.double().log_softmax(-1)
    peers = mutual.peer.scores(mutual.peer.states(rows)[0]).detach().double().log_softmax(-1)

    def kl(teacher, student):
        return float((teacher.exp() * (teacher - student)).sum(-1).mean())

    hard = -float(peers[torch.arange(3), batch.target].mean())
    assert float(loss) == pytest.approx(1.2 * kl(peers, mine) + 1.2 * kl(mine, peers) + 0.4 * hard, rel=1e-4)
    assert float(loss) == pytest.approx(2.8381536, rel=1e-4)


def test_meta_follows_the_loss_that_validation_agrees_with(source, tmp_path):
    good, better = student(Recipe({"meta": 1.0}, 1.0, 1.0), source)
    train(good, better, tmp_path / "good", epochs=16)
    misled = Source(Backwards(source.labels), source.popularity, source.states, source.model, probe)
    bad, worse = student(Recipe({"meta": 1.0}, 1.0, 1.0), misled)
    train(bad, worse, tmp_path / "bad", epochs=16)

    ours, theirs = (objective.batch_loss.batch_terms["meta"].share() for objective in (worse, better))
    assert ours < min(0.5, theirs)


class Backwards:
    """A teacher that has learned the opposite."""

    def __init__(self, labels):
        self.labels = labels

    def logits(self, event):
        return -self.labels.logits(event)


def test_a_term_without_a_number_has_its_own_weight():
    assert parse_terms(" kl , relations, hint:0.1") == {"kl": 1.0, "relations": 10.0, "hint": 0.1}
    assert parse_terms("kl:0.5,relations:3") == {"kl": 0.5, "relations": 3.0}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kl,hnt:1", "unknown term 'hnt'; known: kl, ranking, listwise"),
        ("hard:0.1", "the hard loss weighs 1 - distill.alpha"),
        ("kl:0", "the weight of kl must be a number above 0, not '0'"),
        ("kl:much", "the weight of kl must be a number above 0, not 'much'"),
        ("kl:1,kl:2", "names kl twice"),
        ("", "must list some of kl, ranking"),
    ],
)
def test_a_wrong_list_of_terms_is_refused(text, says):
    with pytest.raises(InputError, match=says):
        parse_terms(text)


@pytest.mark.parametrize(
    ("term", "change", "says"),
    [
        ("hint", {"members": ("linear",)}, "the teacher is linear: add transformer"),
        ("relations", {"members": ("linear",)}, "the teacher is linear: add transformer"),
        ("attention", {"members": ("linear",)}, "the teacher is linear: add transformer"),
        ("attention", {"student_blocks": ("pool",)}, "the student's blocks are pool, without attention"),
        ("attention", {"teacher_blocks": ("pool", "gru")}, "teacher.blocks=pool,gru has no attention"),
        ("layers", {"teacher_history": 20}, "the teacher reads 20 items and the student 50"),
    ],
)
def test_a_term_that_cannot_be_taught_is_refused(term, change, says):
    check_terms({term: 1.0}, PUPIL)

    with pytest.raises(InputError, match=says):
        check_terms({term: 1.0}, Pupil(**vars(PUPIL) | change))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("distill.terms=kl,nothing",), "unknown term 'nothing'"),
        (("distill.terms=attention",), "the student's blocks are pool, without attention"),
        (("distill.terms=kl,hint", "teacher.members=linear"), "the teacher is linear"),
    ],
)
def test_a_run_refuses_before_it_trains(settings, says, chain_world, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["run", "--interactions", str(chain_world), "--out", str(out), *tiny_settings(*settings)]

    assert main(command) == 2
    assert says in capsys.readouterr().err
    assert not out.exists()


def test_strata_hold_every_item_once(source):
    quintile = popularity_quintile(source.popularity)
    teaching = Teaching(Recipe({"stratified": 1.0}, 0.5, 1.0), source, SequenceModel(N_ITEMS, SIZE))

    rows = torch.cat(teaching._strata)
    assert sorted(rows.tolist()) == list(range(N_ITEMS))
    assert len(teaching._strata) == len(set(quintile.tolist()))


def test_a_chosen_term_is_written_with_the_settings(finished_run):
    assert 'terms = "kl,stratified"' in (finished_run / "config.toml").read_text()
    lineage = json.loads((finished_run / "metrics.json").read_text())["lineage"]
    assert lineage["config"]["distill"]["terms"] == "kl,stratified"


def test_saved_logits_are_the_teachers_and_are_computed_once(source, tmp_path):
    events = chain()
    saved = SavedLabels(source.labels, events, N_ITEMS, tmp_path / "logits.npy", Progress())
    event = torch.tensor([3, 0, 7])
    assert not (tmp_path / "logits.npy").exists()

    torch.testing.assert_close(saved.logits(event).cpu(), source.labels.logits(event).float(), atol=2e-2, rtol=1e-2)

    again = SavedLabels(Constant(), events, N_ITEMS, tmp_path / "logits.npy", Progress())
    assert torch.equal(again.logits(event), saved.logits(event))


@pytest.mark.parametrize("name", ["meta", "feedback"])
@pytest.mark.parametrize("command", [["export"], ["run", "--interactions", "world.csv"]])
def test_what_learns_from_validation_is_refused_where_none_is_held_out(name, command, tmp_path, capsys):
    assert main([*command, "--out", str(tmp_path / "run"), "--refit", "--set", f"distill.terms=kl,{name}"]) == 2

    assert not (tmp_path / "run").exists()
    assert f"distill.terms: {name} learns from validation, and --refit holds none out" in capsys.readouterr().err
