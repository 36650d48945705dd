"""A bundle whose items have attributes, its edge folder, and the service of the same bundle.

Its trend fades so slowly that the scores stay as they are while it is asked.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.service.edge.folder import build
from tests.service.running import Running
from tests.service.toy import described_items, toy_parts, write_toy_sum


@pytest.fixture(scope="package")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("described") / "bundle"
    parts = toy_parts(as_of=round(time.time()) - 100.0)
    assert parts.rule.trend is not None
    rule = replace(parts.rule, trend=replace(parts.rule.trend, half_life_s=1e8))
    return write_toy_sum(place, parts=replace(parts, rule=rule), items=described_items()).path


@pytest.fixture(scope="package")
def described_folder(described: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(described, tmp_path_factory.mktemp("edge") / "out")


@pytest.fixture(scope="package")
def service(described: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(described, tmp_path_factory.mktemp("data")) as running:
        yield running
