"""A real Prometheus with the repository's configuration, for the tests of the dashboard and the rules."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.port import free_port
from tests.service.running import wait_for

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "prometheus"
RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]
RECORDINGS = [rule for rule in RULES if "record" in rule]
ALERTS = [rule for rule in RULES if "alert" in rule]
DASHBOARD = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "retort.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
# A metric or a recording with its label matchers, if any.
SELECTOR = re.compile(r"\b(retort[a-z_:0-9]+)(\{[^}]*\})?")


def find_tool(name: str) -> str:
    """Return the path of a Prometheus program; skip, or fail where RETORT_REQUIRE_PROMETHEUS=1, when it is absent."""
    path = shutil.which(name)
    if path is None:
        message = f"NOT CHECKED: {name} is not installed (Debian: apt-get install prometheus)"
        if os.environ.get("RETORT_REQUIRE_PROMETHEUS") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return path


def run_promtool(*arguments: str | Path, stdin: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    """Run promtool to its end."""
    return subprocess.run(
        [find_tool("promtool"), *arguments], input=stdin, capture_output=True, timeout=60, check=False
    )


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """Call its HTTP API and return `data`; the answer must be a success."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            answer = json.loads(reply.read())
        assert answer["status"] == "success"
        return answer["data"]

    def query(self, expression: str) -> list[float]:
        """Run an instant query; the value of each series."""
        return [float(series["value"][1]) for series in self.ask("query", query=expression)["result"]]

    def query_range(self, expression: str, last_s: float = 5.0) -> list[list[float]]:
        """Run a range query over the last seconds; the values of each series."""
        now = time.time()
        data = self.ask("query_range", query=expression, start=f"{now - last_s}", end=f"{now}", step="1")
        return [[float(value) for _, value in series["values"]] for series in data["result"]]

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


@contextmanager
def run_prometheus(folder: Path, *, target: str, alert_after: str) -> Iterator[Prometheus]:
    """Start it with our configuration and rules; changed are the target, the intervals (1 s) and the alerts' `for`."""
    _write_config(folder, target, alert_after)
    address = f"127.0.0.1:{free_port()}"
    command = [find_tool("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: process.poll() is not None or _is_ready(f"http://{address}"))
        assert process.poll() is None, (folder / "log").read_text()
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(20)


def _write_config(folder: Path, target: str, alert_after: str) -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    rules = yaml.safe_load((FOLDER / "rules.yml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"] if "for" in rule):
        rule["for"] = alert_after
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False
