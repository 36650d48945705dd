"""When an experiment ends by itself."""

import random

import pytest

from service.experiment.guard import BLOCK_ANSWERS, Bounds, Health, HealthGuard, judge_quality
from service.experiment.record import Experiment
from service.experiment.report import report_on
from tests.service.experiment.test_report import counted

NONE = Health(0, 0, 0)


def test_version_that_fails_always_is_ended_within_twenty_answers():
    guard = HealthGuard(Bounds(), NONE, NONE)

    assert guard.judge(Health(19, 19, 0), Health(400, 0, 0)) is None
    ending = guard.judge(Health(20, 20, 0), Health(400, 0, 0))

    assert ending.cause == "errors"
    assert ending.reason == "failed: 100.0% of the other version's answers, 0.0% of the live one's"


def test_late_version_is_ended_only_beyond_the_bound():
    def judge(n_late, bounds):
        return HealthGuard(bounds, NONE, NONE).judge(Health(1000, 0, n_late), Health(1000, 0, 10))

    assert judge(200, Bounds()).cause == "late"
    assert judge(60, Bounds()) is None
    assert judge(60, Bounds(late=0.0)).cause == "late"


def test_trouble_of_both_versions_ends_nothing():
    assert HealthGuard(Bounds(), NONE, NONE).judge(Health(1000, 500, 900), Health(9000, 4500, 8100)) is None


def test_good_hours_do_not_hide_what_breaks_later():
    guard = HealthGuard(Bounds(), NONE, NONE)
    good = Health(1e6, 0, 0)
    assert guard.judge(good, good) is None

    assert guard.judge(Health(1e6 + 40, 40, 0), Health(1e6 + 400, 0, 0)).cause == "errors"


def test_what_was_answered_before_the_experiment_is_not_held_against_it():
    before = Health(1000, 1000, 1000)

    assert HealthGuard(Bounds(), before, NONE).judge(Health(1100, 1000, 1000), Health(100, 0, 0)) is None


def test_equal_versions_are_not_ended_over_many_blocks():
    chance, n_ended = random.Random(3), 0
    for _ in range(20):
        other = live = NONE
        guard = HealthGuard(Bounds(), NONE, NONE)
        for _ in range(60):
            other, live = (
                Health(each.answers + 250, each.failed + sum(chance.random() < 0.02 for _ in range(250)), each.late)
                for each in (other, live)
            )
            n_ended += guard.judge(other, live) is not None
    assert other.answers > 2 * BLOCK_ANSWERS
    assert n_ended == 0


EXPERIMENT = Experiment("canary", "0" * 16, "a" * 16, 20, "5" * 16, 0.0, "1" * 16)


@pytest.mark.parametrize(
    ("converted", "loss", "is_ended"),
    [((100, 2000), 0.0, True), ((480, 2000), 0.0, False), ((300, 2000), 0.0, True), ((300, 2000), 0.5, False)],
)
def test_worse_version_is_ended_once_it_is_certain(converted, loss, is_ended):
    ending = judge_quality(report_on(EXPERIMENT, counted(converted)), Bounds(loss=loss))

    assert (ending is not None) == is_ended
    assert ending is None or ending.cause == "quality"


def test_nothing_is_concluded_from_users_who_are_wrongly_divided():
    report = report_on(EXPERIMENT, counted((100, 2000), shown=(200, 20000)))

    assert report.sample_ratio.is_wrong
    assert judge_quality(report, Bounds()) is None
