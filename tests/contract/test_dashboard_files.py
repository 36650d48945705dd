"""The dashboard and the rules as files: valid, readable, and about metrics that exist, all of them."""

import itertools
import re
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from service.metrics import Metrics
from tests.contract.prometheus import (
    ALERTS,
    DASHBOARD,
    FOLDER,
    PANELS,
    QUERIES,
    RECORDINGS,
    ROOT,
    RULES,
    SELECTOR,
    run_promtool,
)

EXPRESSIONS = [expression for _, expression in QUERIES] + [rule["expr"] for rule in RULES]
UNITS = {"short", "reqps", "s", "percentunit", "bytes", "ops", "cps"}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


def read_samples(registry: CollectorRegistry) -> dict[str, tuple[str, dict[str, set[str]]]]:
    """Each sample name with its family and the values of each label that exist from the start."""
    samples: dict[str, tuple[str, dict[str, set[str]]]] = {}
    for family in registry.collect():
        for suffix in SUFFIXES[family.type]:
            values: dict[str, set[str]] = {}
            for sample in family.samples:
                for label, value in sample.labels.items() if sample.name == family.name + suffix else ():
                    values.setdefault(label, set()).add(value)
            samples[family.name + suffix] = (family.name, values)
    return samples


@pytest.fixture(scope="module")
def samples() -> dict[str, tuple[str, dict[str, set[str]]]]:
    return read_samples(Metrics("0").registry)


def selectors() -> list[tuple[str, str]]:
    found = (match.groups(default="") for expression in EXPRESSIONS for match in SELECTOR.finditer(expression))
    return sorted({(name, matchers) for name, matchers in found})


def test_every_metric_of_a_query_exists(samples: dict[str, Any]) -> None:
    recorded = {rule["record"] for rule in RECORDINGS}

    assert {name for name, _ in selectors()} <= set(samples) | recorded


def test_every_metric_of_the_service_is_shown_or_watched(samples: dict[str, Any]) -> None:
    used = {samples[name][0] for name, _ in selectors() if name in samples}

    assert {family for family, _ in samples.values()} <= used


@pytest.mark.parametrize(("name", "matchers"), selectors())
def test_every_label_of_a_query_exists_with_the_value_asked_for(
    name: str, matchers: str, samples: dict[str, Any]
) -> None:
    pairs = re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers)

    for label, operator, value in pairs:
        if label != "instance":
            present = samples[name][1][label]

            assert operator in ("=~", "!~") or value in present


def test_every_recording_is_used() -> None:
    read = {name for name, _ in selectors()}

    assert {rule["record"] for rule in RECORDINGS} <= read


def test_dashboard_draws_from_a_data_source_that_the_reader_chooses() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    chosen = {"type": "prometheus", "uid": "${datasource}"}

    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert all(panel["datasource"] == chosen for panel in PANELS)
    assert all(target["datasource"] == chosen for panel in PANELS for target in panel["targets"])


def test_dashboard_asks_over_the_scrape_interval_that_the_data_source_names() -> None:
    provisioned = ROOT / "docker/grafana/provisioning/datasources/prometheus.yml"
    (source,) = yaml.safe_load(provisioned.read_text())["datasources"]
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())

    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    assert all("[$__rate_interval]" in query or "[30d]" in query for _, query in QUERIES if "rate(" in query)


def test_dashboard_and_panels_have_identities_of_their_own() -> None:
    identities = [panel["id"] for panel in DASHBOARD["panels"]]

    assert DASHBOARD["uid"] == "retort"
    assert len(set(identities)) == len(identities)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)


def test_panels_stay_on_the_grid_and_do_not_overlap() -> None:
    boxes = [panel["gridPos"] for panel in DASHBOARD["panels"]]

    assert all(box["x"] >= 0 and box["x"] + box["w"] <= 24 for box in boxes)
    for one, other in itertools.combinations(boxes, 2):
        is_apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_apart = is_apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]

        assert is_apart, (one, other)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel_says_what_it_shows_in_which_unit_and_names_its_lines(panel: dict[str, Any]) -> None:
    references = [target["refId"] for target in panel["targets"]]

    assert len(panel["description"]) > 20
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert len(set(references)) == len(references) > 0
    assert panel["type"] == "stat" or all(target["legendFormat"] for target in panel["targets"])


def test_thresholds_of_the_objectives_are_bucket_edges(samples: dict[str, Any]) -> None:
    edges = samples["retort_http_request_duration_seconds_bucket"][1]["le"]
    asked = {edge for expression in EXPRESSIONS for edge in re.findall(r'le="([^"]+)"', expression)}

    assert asked == {"0.05", "0.2"}
    assert asked <= edges


def test_there_are_these_alerts_and_no_others() -> None:
    severities = {(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS}

    assert severities == {
        ("RetortAvailabilityBurn", "page"),
        ("RetortAvailabilityBurn", "ticket"),
        ("RetortLatencyBurn", "page"),
        ("RetortLatencyBurn", "ticket"),
        ("RetortStoreBreakerOpen", "ticket"),
        ("RetortModelNotFollowed", "ticket"),
        ("RetortBug", "ticket"),
        ("RetortExperimentEnded", "ticket"),
        ("RetortExperimentUneven", "ticket"),
        ("RetortExperimentMissing", "ticket"),
        ("RetortStudentDrifted", "ticket"),
        ("RetortCoverageFell", "ticket"),
        ("RetortListsUnequal", "ticket"),
        ("RetortNewItemsUnseen", "ticket"),
        ("RetortMetricsAbsent", "page"),
    }


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_alert_says_what_to_look_at_and_has_a_chapter_in_the_runbook(alert: dict[str, Any]) -> None:
    runbook = (ROOT / "docker" / "RUNBOOK.md").read_text()
    title = alert["alert"]

    assert alert["annotations"]["summary"]
    assert alert["annotations"]["runbook"].endswith(f"docker/RUNBOOK.md#{title.lower()}")
    assert f"\n## {title}\n" in runbook


def test_runbook_names_panels_that_exist() -> None:
    text = (ROOT / "docker" / "RUNBOOK.md").read_text() + "".join(rule["annotations"]["runbook"] for rule in ALERTS)
    named = {name for pair in re.findall(r"\*\*([A-Z/][^*]+)\*\*|'([A-Z][^']+)'", text) for name in pair if name}

    assert named <= {panel["title"] for panel in PANELS}


def test_prometheus_accepts_the_configuration_and_the_rules() -> None:
    done = run_promtool("check", "config", FOLDER / "prometheus.yml")

    assert done.returncode == 0, done.stderr.decode()
    assert f"{len(RULES)} rules found" in done.stdout.decode()


@pytest.mark.parametrize("name", ["rules_test.yml", "rules_week_test.yml"])
def test_each_alert_fires_when_it_should_and_not_otherwise(name: str) -> None:
    done = run_promtool("test", "rules", FOLDER / name)

    assert done.returncode == 0, (done.stdout + done.stderr).decode()
