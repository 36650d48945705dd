"""Fixtures that more than one folder uses."""

import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: here and in child processes sums run in one order, bit for bit
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before onnxruntime, which a test may import before our packages
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")  # of Javas that live for seconds

import hypothesis
import pytest

from service.store.client import Store
from tests.service.running import ADMIN_KEY, KEY, Running, run_command
from tests.service.store.test_client import open_store
from tests.service.toy import write_toy
from tests.training.world import tiny_settings, write_chain_world
from training.__main__ import main

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one stands still for longer than a deadline
hypothesis.settings.load_profile("any machine")
gc.set_threshold(100_000, 20, 50)  # an export makes millions of objects: each thousand, all of torch's were looked at


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid bundle that needs no torch."""
    return write_toy(tmp_path_factory.mktemp("toy") / "bundle").path


@pytest.fixture(scope="session")
def shared_service(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service for the tests that do it no harm; each uses users of its own."""
    with Running(toy_bundle, tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
async def store(shared_service: Running) -> AsyncIterator[Store]:
    """A client of the shared service's store; each test uses a namespace or users of its own."""
    opened = open_store(shared_service)
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def keyed_service(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A module's service with keys, whose live version its tests may change; its client sends none."""
    with Running(toy_bundle, tmp_path_factory.mktemp("keyed"), api_keys=KEY, admin_key=ADMIN_KEY) as running:
        yield running


@pytest.fixture(scope="module")
def published_versions(keyed_service: Running, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two versions that the service with keys may be told to serve."""
    versions = []
    for seed in (1, 2):
        bundle = write_toy(tmp_path_factory.mktemp("published") / "bundle", seed=seed)
        done = run_command("publish", str(bundle.path), "--data-dir", str(keyed_service.data_dir))
        assert done.returncode == 0, done.stderr
        versions.append(bundle.manifest.version)
    return versions


@pytest.fixture(scope="session")
def chain_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of interactions."""
    return write_chain_world(tmp_path_factory.mktemp("world") / "interactions.csv")


@pytest.fixture(scope="session")
def finished_run(chain_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of the chain world with everything in it. Look, do not touch."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["run", "--interactions", str(chain_world), "--out", str(out), *tiny_settings()]) == 0
    return out
