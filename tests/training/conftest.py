"""One finished run of the chain world, for all tests that only look."""

from pathlib import Path

import pytest

from tests.training.world import tiny_settings, write_chain_world
from training.__main__ import main


@pytest.fixture(scope="session")
def chain_world(tmp_path_factory) -> Path:
    """A file of interactions."""
    return write_chain_world(tmp_path_factory.mktemp("world") / "interactions.csv")


@pytest.fixture(scope="session")
def finished_run(chain_world, tmp_path_factory) -> Path:
    """A run directory with everything in it. Look, do not touch."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["run", "--interactions", str(chain_world), "--out", str(out), *tiny_settings()]) == 0
    return out
