"""schemathesis finds nothing against a live service: all of its checks, and two that know this API."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.service.running import ADMIN_KEY, Running

ROOT = Path(__file__).parents[2]
CHECKS = Path(__file__).with_name("schemathesis_checks.py")


def run_schemathesis(url: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run every phase with every check, the same cases each time."""
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", ROOT / "schemathesis.toml", "run"]
    bounds = ["--generation-deterministic", "--no-color", "--workers", "1"]
    return subprocess.run(
        [*command, f"{url}/openapi.json", "--checks", "all", *bounds, *arguments],
        cwd=folder, env={**os.environ, "SCHEMATHESIS_HOOKS": str(CHECKS), "PYTHONWARNINGS": "ignore"},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


def assert_nothing_found(done: "subprocess.CompletedProcess[str]") -> None:
    """It came to its end, tried every operation in every phase and failed none."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 26" in done.stdout
    passed = set(re.findall(r"^  ✅ (\w+)$", done.stdout, flags=re.MULTILINE))
    assert passed == {"Examples", "Coverage", "Fuzzing", "Stateful"}, done.stdout


def test_schemathesis_finds_nothing_with_keys(keyed_service: Running, tmp_path: Path) -> None:
    done = run_schemathesis(keyed_service.url, tmp_path, "-n", "20", "-H", f"Authorization: Bearer {ADMIN_KEY}")

    assert_nothing_found(done)


def test_schemathesis_finds_nothing_without_keys(shared_service: Running, tmp_path: Path) -> None:
    done = run_schemathesis(shared_service.url, tmp_path, "-n", "10")

    assert_nothing_found(done)
