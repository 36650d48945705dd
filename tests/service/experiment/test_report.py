"""What a report says of counts that are worked out by hand."""

from dataclasses import replace

import pytest

from service.experiment.attribution import Version
from service.experiment.record import Experiment
from service.experiment.report import report_on
from service.experiment.tally import Counted

EXPERIMENT = Experiment("experiment", "0" * 16, "a" * 16, 20, "5" * 16, 0.0, "1" * 16)


def both(other, live):
    return {Version.OTHER: other, Version.LIVE: live}


def counted(converted=(0, 0), shown=(200, 800), users=(200, 800)):
    return Counted(
        b"1-1", 0, 0, both(*users), both(*shown), both(*converted), both(50, 80),
        both({"1": 100, "none": 7}, {"1": 400}), both({"1": 10, "more": 2}, {}), 1, 2, 0, 0, 0,
    )  # fmt: skip


def test_report_has_the_figures_of_each_version():
    report = report_on(EXPERIMENT, counted((40, 80)))

    assert (report.other.version, report.live.version) == ("0" * 16, "a" * 16)
    assert (report.other.impressions, report.other.clicks, report.live.clicks) == (107, 12, 0)
    assert (report.other.rate, report.live.rate) == (0.2, 0.1)
    assert (report.other.hit_rate, report.live.hit_rate) == (0.25, 0.1)
    assert report.other.positions["1"] == (100, 10)
    assert report.other.positions["2"] == (0, 0)
    assert report.comparison.lift == pytest.approx(1.0)
    assert report.comparison.users_missing == report.comparison.users_needed - 1000


@pytest.mark.parametrize(
    ("converted", "decision"),
    [((0, 0), "undecided"), ((20, 80), "undecided"), ((900, 1600), "better"), ((100, 2000), "worse"),
     ((500, 0), "better"), ((0, 500), "worse")],
)  # fmt: skip
def test_decision_goes_with_the_interval_and_the_e_value(converted, decision):
    found = report_on(EXPERIMENT, counted(converted, users=(9000, 36000))).comparison

    assert found.decision == decision
    assert (found.e_value >= 1 / found.alpha) == (decision != "undecided")
    assert (found.interval.low > 0, found.interval.high < 0) == (decision == "better", decision == "worse")


def test_number_of_users_is_not_known_without_a_rate():
    for converted in ((0, 0), (200, 800)):
        found = report_on(EXPERIMENT, counted(converted)).comparison

        assert found.users_needed is None
        assert found.users_missing is None


@pytest.mark.parametrize(("shown", "is_wrong"), [((200, 800), False), ((2000, 8600), False), ((2000, 12000), True)])
def test_wrong_division_of_users_is_found(shown, is_wrong):
    assert report_on(EXPERIMENT, counted(shown=shown)).sample_ratio.is_wrong == is_wrong


def test_nothing_is_said_where_there_is_nobody_to_compare_with():
    for experiment in (replace(EXPERIMENT, share=100.0), replace(EXPERIMENT, kind="shadow")):
        report = report_on(experiment, counted((40, 80)))

        assert report.comparison is None
        assert report.sample_ratio is None
    assert report_on(EXPERIMENT, counted(shown=(0, 0))).sample_ratio is None
