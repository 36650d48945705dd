"""A linear model that several processes solve is that of one, to the bit; what one has no room for it is spared."""

from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.training.together import together_on
from training import ranks
from training.data.event import Events
from training.data.prepared import load_prepared, training_events
from training.errors import TrainingError
from training.evaluation import question
from training.evaluation.judge import Ranking
from training.progress import Progress
from training.teacher import columns
from training.teacher.columns import Deal
from training.teacher.kind import RANKING
from training.teacher.linear import load_linear, train_linear
from training.teacher.linear_model import Problem, Setting, fit_linear

SETTING = Setting(decay=0.7, future=2, future_decay=0.8, penalty=5.0, discount=0.25)
N_ITEMS, BLOCK = 100, 8  # thirteen blocks, the last of four columns
AT_ONCE = 9  # requests that are ranked together


def random_events():
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, 30, 300)
    return Events(rng.integers(0, N_ITEMS, lengths.sum()).astype(np.int32), np.append(0, np.cumsum(lengths)))


def solve():
    return torch.from_numpy(fit_linear(random_events(), N_ITEMS, np.arange(3, 97), SETTING).weights.copy())


def work(directory):
    """What each process finds; the first writes a whole model of prepared data."""
    columns.SOLVED = BLOCK
    question.AT_ONCE = AT_ONCE
    problem = Problem.build(random_events(), N_ITEMS, np.arange(N_ITEMS), 0.7, [(2, 0.8)])
    found = {
        "weights": solve(),
        "again": torch.from_numpy(problem.solve(SETTING).weights.copy()),
        "held": torch.tensor([problem.gram.size, problem.target[2, 0.8].size]),
        "among": torch.tensor([Deal.where_it_fits(50, 10, room).among for room in (None, 9 + 10 * ranks.count(), 15)]),
        "waits": torch.tensor(dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout / timedelta(days=1)),
    }
    out = directory / f"of-{ranks.count()}"
    ranks.alone(out.mkdir)
    train_linear(out, load_prepared(directory / "prepared"), Progress(is_quiet=True))
    singular = Problem.build(random_events(), N_ITEMS, np.arange(N_ITEMS), 0.7, [(2, 0.8)])
    try:
        singular.end(Setting(decay=0.7, future=2, future_decay=0.8, penalty=-1e9, discount=0.0))
    except ranks.FollowedError as error:
        found["followed"] = torch.tensor(error.exit_code)
    except np.linalg.LinAlgError:
        found["failed"] = torch.tensor(True)
    return found


@pytest.fixture(scope="module", params=[2, 3])
def several(request, chain_world, tmp_path_factory):
    directory = tmp_path_factory.mktemp("together")
    return request.param, directory, together_on(chain_world, request.param, work, directory)


def test_several_processes_find_the_model_of_one_to_the_bit(several, monkeypatch):
    count, _, (first, *others) = several
    monkeypatch.setattr(columns, "SOLVED", BLOCK)

    one = solve()

    assert torch.equal(first["weights"], one)
    deal = Deal(94, count)
    for number, other in enumerate(others, 1):
        assert torch.equal(other["weights"], one[:, deal.of(number)])


def test_products_can_be_solved_again_by_several(several):
    _, _, (first, *_) = several
    problem = Problem.build(random_events(), N_ITEMS, np.arange(N_ITEMS), 0.7, [(2, 0.8)])

    assert torch.equal(first["again"], torch.from_numpy(problem.solve(SETTING).weights))


def test_the_teacher_of_several_is_that_of_one_process(several, tmp_path, monkeypatch):
    monkeypatch.setattr(question, "AT_ONCE", AT_ONCE)
    count, directory, _ = several
    prepared = load_prepared(directory / "prepared")
    assert len(training_events(prepared).item)

    train_linear(tmp_path, prepared, Progress(is_quiet=True))

    several_model, one_model = load_linear(directory / f"of-{count}"), load_linear(tmp_path)
    assert several_model.setting == one_model.setting
    np.testing.assert_array_equal(several_model.weights, one_model.weights)
    ranking, one_ranking = (Ranking.load(place / RANKING) for place in (directory / f"of-{count}", tmp_path))
    assert len(ranking.ranks) > count * AT_ONCE
    np.testing.assert_array_equal(ranking.ranks, one_ranking.ranks)
    np.testing.assert_array_equal(ranking.top, one_ranking.top)


def test_every_process_but_the_first_holds_its_own_columns_alone(several):
    count, _, found = several

    held = [each["held"].tolist() for each in found]
    assert [gram for gram, _ in held] == [N_ITEMS**2, *[0] * (count - 1)]
    assert sum(target for _, target in held) == N_ITEMS**2


def test_where_the_machine_has_no_room_for_all_the_first_does_it_alone(several):
    count, _, found = several

    assert all(each["among"].tolist() == [count, count, 1] for each in found)


def test_a_failure_of_the_first_ends_the_others_and_none_waits_for_half_an_hour(several):
    _, _, (first, *others) = several

    assert first["failed"]
    assert all(other["followed"] == TrainingError.exit_code for other in others)
    assert all(each["waits"] >= 1 for each in (first, *others))


@pytest.mark.parametrize("side", [1, 512, 513, 4000])
@pytest.mark.parametrize("among", [1, 2, 5])
def test_columns_are_dealt_once_in_whole_blocks(side, among):
    dealt = [Deal(side, among).of(number) for number in range(among + 1)]

    assert [column for part in dealt for column in range(part.start, part.stop)] == list(range(side))
    assert all(part.start % columns.SOLVED == 0 for part in dealt if part.stop > part.start)
