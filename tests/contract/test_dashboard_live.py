"""A real Prometheus on a real service under light load: every panel and rule has data, and moves when a part stops."""

import bisect
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from service.metrics import REQUEST_BUCKETS_S
from tests.contract.prometheus import (
    ALERTS,
    DASHBOARD,
    PANELS,
    QUERIES,
    RECORDINGS,
    SELECTOR,
    Prometheus,
    find_tool,
    run_prometheus,
    run_promtool,
)
from tests.service.running import Running, run_command, stopped, wait_for
from tests.service.toy import described_items, write_toy

WINDOW_S = 10
ALERT_AFTER = "3s"


class Load:
    """One client that asks, and sends an event now and then; it keeps when each /recommend ended and what it took."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_over = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False) as client:
            number = 0
            while not self._is_over.wait(0.005):
                some = {"filter": {"brand": "ABC"[number % 3]}} if number % 5 == 0 else {}
                client.post("/recommend", json={"user_id": f"u{number % 50}", **some})
                if number % 10 == 0:
                    event = {"user_id": f"u{number % 40}", "item_id": f"i{number % 60}", "timestamp": number}
                    client.post("/events", json={"events": [event]})
                number += 1

    def stop(self) -> None:
        self._is_over.set()


def logged_p99_s(service: Running, since: float, until: float) -> float:
    """The exact 99th percentile of the recommendations that the service's own log has in between."""
    lines = [line for line in service.log_lines() if line["event"] == "request" and line["route"] == "/recommend"]
    taken = sorted(line["took_ms"] / 1000 for line in lines if since <= line["time"] <= until)
    assert len(taken) > 50
    return taken[math.ceil(0.99 * len(taken)) - 1]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    find_tool("prometheus")
    bundle = write_toy(tmp_path_factory.mktemp("described") / "bundle", items=described_items())
    with Running(bundle.path, tmp_path_factory.mktemp("store") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def load(service: Running) -> Iterator[Load]:
    client = Load(service.url)
    thread = threading.Thread(target=client.run)
    thread.start()
    yield client
    client.stop()
    thread.join(30)


@pytest.fixture(scope="module")
def prometheus(service: Running, load: Load, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, once it has read the service for longer than the window."""
    target = service.url.removeprefix("http://")
    with run_prometheus(tmp_path_factory.mktemp("prometheus"), target=target, alert_after=ALERT_AFTER) as running:
        scrapes = f"count_over_time(retort_items[{2 * WINDOW_S}s])"
        wait_for(lambda: running.query(scrapes) > [WINDOW_S + 2], timeout_s=40)
        folder = tmp_path_factory.mktemp("bundles")
        live, other = (write_toy(folder / f"{seed}", seed=seed, items=described_items()) for seed in (0, 2))
        done = run_command("publish", str(live.path), "--data-dir", str(service.data_dir))
        assert done.returncode == 0, done.stderr
        try_beside(service, other.path, "canary", 50, lambda: running.query(panel_query("p99 by version")))
        try_beside(service, other.path, "shadow", 100, lambda: running.query(panel_query("Shadow p99")))
        yield running


def try_beside(service: Running, bundle: Path, kind: str, share: int, seen: Callable[[], list[float]]) -> None:
    """Let another version answer beside the live one until its panel has data, then stop it."""
    store = ("--data-dir", str(service.data_dir))
    published = run_command("publish", str(bundle), *store, "--as", kind, "--share", str(share))
    assert published.returncode == 0, published.stderr
    wait_for(lambda: any(is_number(value) for value in seen()), timeout_s=60)
    stopped_it = run_command("experiment", "stop", *store)
    assert stopped_it.returncode == 0, stopped_it.stderr


def substitute(expression: str) -> str:
    """What Grafana asks for, with All instances chosen."""
    return expression.replace("$__rate_interval", f"{WINDOW_S}s").replace("$instance", ".+")


def is_number(value: float) -> bool:
    return not math.isnan(value)


def panel_query(title: str, number: int = 0) -> str:
    (panel,) = [panel for panel in PANELS if panel["title"] == title]
    return substitute(panel["targets"][number]["expr"])


@pytest.mark.parametrize(("title", "expression"), QUERIES)
def test_panel_has_data(title: str, expression: str, prometheus: Prometheus) -> None:
    series = prometheus.query_range(substitute(expression), last_s=300)  # what was beside the live version has ended

    assert any(is_number(value) for values in series for value in values)


def test_annotations_can_be_asked_for(prometheus: Prometheus) -> None:
    answers = [prometheus.query_range(annotation["expr"]) for annotation in DASHBOARD["annotations"]["list"]]

    assert answers and all(isinstance(series, list) for series in answers)


@pytest.mark.parametrize("rule", RECORDINGS, ids=lambda rule: rule["record"])
def test_recording_has_data_whose_expression_gives_the_same(rule: dict[str, str], prometheus: Prometheus) -> None:
    recorded = prometheus.query(rule["record"])
    computed = prometheus.query(rule["expr"])

    assert len(recorded) == len(computed) == 1
    assert 0 <= recorded[0] <= 1
    assert 0 <= computed[0] <= 1


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_alert_evaluates_and_everything_that_it_reads_has_data(rule: dict[str, str], prometheus: Prometheus) -> None:
    read = [name + matchers for name, matchers in (m.groups(default="") for m in SELECTOR.finditer(rule["expr"]))]

    prometheus.query(rule["expr"])

    assert all(prometheus.query(selector) for selector in read)


def test_prometheus_evaluates_every_rule_without_an_error(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]

    assert len(rules) == len(RECORDINGS) + len(ALERTS)
    assert {rule["health"] for rule in rules} == {"ok"}


def test_instance_variable_lists_the_service(service: Running, prometheus: Prometheus) -> None:
    (variable,) = [v for v in DASHBOARD["templating"]["list"] if v["name"] == "instance"]

    assert variable["definition"] == "label_values(retort_build_info, instance)"
    assert prometheus.ask("label/instance/values", **{"match[]": "retort_build_info"}) == [
        service.url.removeprefix("http://")
    ]


def test_scrape_is_a_tenth_of_the_limit(prometheus: Prometheus) -> None:
    (samples,) = prometheus.query('scrape_samples_scraped{job="retort"}')

    assert 300 < samples < 2000


def test_metrics_page_follows_prometheus_conventions(service: Running, load: Load) -> None:
    page = service.client.get("/metrics").content

    done = run_promtool("check", "metrics", stdin=page)

    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_p99_panel_is_the_exact_p99_to_a_bucket(service: Running, load: Load, prometheus: Prometheus) -> None:
    now = time.time()
    (shown_s,) = prometheus.query(panel_query("p99"))
    # Which scrapes the window holds is Prometheus's choice: it begins and ends up to two scrapes earlier or later.
    exact = [
        bisect.bisect_left(REQUEST_BUCKETS_S, logged_p99_s(service, now - WINDOW_S - early, now - late))
        for early in (-2, -1, 0, 1, 2)
        for late in (0, 1, 2)
    ]

    shown = bisect.bisect_left(REQUEST_BUCKETS_S, shown_s)
    assert min(exact) - 1 <= shown <= max(exact) + 1, (shown_s, exact)


def test_stopped_store_moves_breaker_and_levels_and_both_come_back(
    service: Running, load: Load, prometheus: Prometheus
) -> None:
    degraded = 'sum(rate(retort_recommendations_total{level!="full",reason!="cold_user"}[5s]))'
    with stopped(service.store_pid()):
        wait_for(lambda: prometheus.query(panel_query("Store")) == [2])
        wait_for(lambda: prometheus.query(degraded) > [10])
        wait_for(lambda: sum(prometheus.query(panel_query("Store errors"))) > 0)
        wait_for(lambda: "RetortStoreBreakerOpen" in prometheus.firing())
        wait_for(lambda: prometheus.query(panel_query("Alerts firing")) >= [1])

    wait_for(lambda: prometheus.query(panel_query("Store")) == [0])
    wait_for(lambda: prometheus.query(degraded) == [0])
    wait_for(lambda: "RetortStoreBreakerOpen" not in prometheus.firing())


def test_stopped_service_fires_the_alert_on_absent_metrics(
    service: Running, load: Load, prometheus: Prometheus
) -> None:
    with stopped(service.process.pid):
        wait_for(lambda: prometheus.query(panel_query("Scrapes")) == [0])
        wait_for(lambda: "RetortMetricsAbsent" in prometheus.firing())

    wait_for(lambda: "RetortMetricsAbsent" not in prometheus.firing())
