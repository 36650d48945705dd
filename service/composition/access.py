"""Who may ask, and how much at once, by the settings."""

import math

from service.access.account import Account
from service.access.admission import Admission, Limit, Shares
from service.access.caller import Hosts, Proxies
from service.access.guard import Guard
from service.access.key import Keys
from service.access.rate import Ledger, Rates
from service.composition.storage import budget_rule
from service.http.page import Page
from service.logs import Log
from service.metrics import Metrics
from service.settings import Settings
from service.user.alias import Aliases, UserNames, kept_key
from service.wire.crowd import Crowd, most_connections


def guard_of(settings: Settings, account: Account, ledger: Ledger | None, page: Page) -> tuple[Keys, Guard]:
    """Return the keys of callers, and what a request must pass before it is answered."""
    keys = Keys(settings.parsed_keys, settings.admin_key.get_secret_value(), page.paths)
    hosts = Hosts([*settings.hosts, settings.host], is_on=not keys.is_on)
    guard = Guard(hosts, keys, Proxies(settings.proxies), Rates(settings.rate_per_s, ledger), account)
    return keys, guard


def names_of(settings: Settings) -> UserNames:
    """Return what users are called in the log."""
    key = settings.log_key.get_secret_value().encode() or kept_key(settings.data_dir)
    return UserNames(settings.log_users, Aliases(key))


def admission_of(settings: Settings, metrics: Metrics) -> Admission:
    """Return how many requests may be answered at once, and watch the limit."""
    few = max(1, settings.max_in_flight // 8)
    answers = Limit(target_s=budget_rule(settings).answer_target_s, most=settings.max_in_flight)
    metrics.watch(metrics.concurrency_limit, lambda: answers.value)
    limits = (answers, Limit(target_s=math.inf, most=few), Limit(target_s=math.inf, most=few))
    return Admission(*(Shares(limit, len(settings.keys)) for limit in limits))


def crowd_of(settings: Settings, metrics: Metrics, log: Log) -> Crowd:
    """Return the connections, of which there are none yet, and count them."""

    def note_shed() -> None:
        metrics.shed["connections"].inc()
        log.fault("too_many_connections", most=crowd.most)

    crowd = Crowd(most_connections(settings.max_connections), note_shed)
    metrics.watch(metrics.connections, lambda: len(crowd))
    return crowd
