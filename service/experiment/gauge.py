"""What the metrics say of an experiment, and what they know of the health of its versions."""

from service.experiment.guard import Ending, Health
from service.experiment.record import Experiment
from service.experiment.report import Report
from service.logs import Log
from service.metrics import EXPERIMENT_USERS, VERSION_LEVELS, Metrics

_FAILED = ("fallback", "refused", "error")
_MOST = 1e300


def health_of(metrics: Metrics) -> tuple[Health, Health]:
    """Return what this process has answered by the other version and by the live one, since it began."""
    return _health(metrics, "other"), _health(metrics, "live")


def show_report(metrics: Metrics, report: Report | None) -> None:
    """Set the gauges of what users do; all are 0 where there is no experiment."""
    for role in ("other", "live"):
        side = getattr(report, role, None)
        for what in EXPERIMENT_USERS:
            metrics.experiment_users[role, what].set(getattr(side, what, 0))
    comparison = None if report is None else report.comparison
    ratio = None if report is None else report.sample_ratio
    metrics.experiment_lift["low"].set(0 if comparison is None else comparison.interval.low)
    metrics.experiment_lift["high"].set(0 if comparison is None else min(_MOST, comparison.interval.high))
    metrics.experiment_e_value["lift"].set(0 if comparison is None else min(_MOST, comparison.e_value))
    metrics.experiment_e_value["ratio"].set(0 if ratio is None else min(_MOST, ratio.e_value))


def note_end(metrics: Metrics, log: Log, experiment: Experiment, ending: Ending) -> None:
    """Count and log that an experiment has ended by itself."""
    metrics.experiments_ended[ending.cause].inc()
    fields = {"experiment_kind": experiment.kind, "version": experiment.version, "experiment_id": experiment.id}
    log.write("error", "experiment_ended", **fields, cause=ending.cause, message=ending.reason)


def _health(metrics: Metrics, role: str) -> Health:
    answers = {level: metrics.version_answers[role, level].total for level in VERSION_LEVELS}
    return Health(
        sum(answers.values()), sum(answers[level] for level in _FAILED), metrics.version_within[role, False].total
    )
