"""The examples of service/README.md in other languages: run as they stand, against a running service."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.document import DOCUMENTS
from tests.service.running import Running

EXAMPLES = {
    "Python": ("from service.client import", "ask.py", [sys.executable]),
    "JavaScript": ("fetch(", "ask.mjs", ["node"]),
    "Java": ("java.net.http", "Ask.java", ["java"]),
}
"""What an example is known by, the name of its file, and what runs it."""
NEEDED = {"JavaScript": ("NODE", ["node"]), "Java": ("JAVA", ["java", "javac"])}


def check_there(language: str) -> None:
    """Skip where a runtime is missing, or fail where it must not."""
    variable, programs = NEEDED.get(language, ("", []))
    if missing := [program for program in programs if shutil.which(program) is None]:
        assert f"RETORT_REQUIRE_{variable}" not in os.environ, f"not installed: {missing}"
        pytest.skip(f"NOT CHECKED: not installed: {missing}")


@pytest.mark.parametrize("language", EXAMPLES)
def test_example_runs_and_its_event_is_stored(language: str, shared_service: Running, tmp_path: Path) -> None:
    check_there(language)
    mark, name, command = EXAMPLES[language]
    (block,) = [block for block in DOCUMENTS["service/README.md"].blocks() if mark in block]
    user = f"reads-{language}"
    shared_service.send({"user_id": user, "item_id": "i7", "timestamp": 1000})
    assert '"anna' in block and "http://127.0.0.1:8000" in block
    code = block.replace("http://127.0.0.1:8000", shared_service.url).replace("anna", user)
    (tmp_path / name).write_text(code)

    done = subprocess.run(
        [*command, str(tmp_path / name)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "full" in done.stdout
    history = shared_service.client.get(f"/users/{user}").json()["history"]
    assert [event["type"] for event in history] == [None, "click"]
