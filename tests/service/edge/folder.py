"""An edge folder for tests: the runtime is fetched once a machine, and Node answers from the folder."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import main
from service.command.web_runtime import find_runtime
from service.errors import StartError

ASK = Path(__file__).parent / "ask.mjs"
DEADLINE_S = 120


def need_edge() -> None:
    """Skip, or fail where RETORT_REQUIRE_EDGE=1, unless Node and the runtime are here."""
    try:
        if shutil.which("node") is None:
            raise StartError("node is not here (Debian: apt-get install nodejs npm)")
        find_runtime(None)
    except StartError as exc:
        if os.environ.get("RETORT_REQUIRE_EDGE") == "1":
            pytest.fail(f"NOT CHECKED: {exc}")
        pytest.skip(f"NOT CHECKED: {exc}")


def build(bundle: Path, out: Path) -> Path:
    """Build an edge folder; return it."""
    need_edge()
    assert main(["edge", str(bundle), str(out)]) == 0
    return out


def ask(
    folder: Path,
    calls: Iterable[tuple[str, list[Any]]],
    *,
    bundle: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Load a folder in Node and make calls, (method, arguments); return {"value"} or {"error"} of load and each."""
    lines = "".join(json.dumps({"method": method, "given": given}) + "\n" for method, given in calls)
    done = subprocess.run(
        ["node", str(ASK), str(folder), bundle or str(folder / "bundle"), json.dumps(options or {})],
        input=lines, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def values(answers: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Return what was answered; no call may have failed."""
    listed = list(answers)
    assert not [each for each in listed if "error" in each], listed
    return [each["value"] for each in listed]
