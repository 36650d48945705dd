"""Three services behind haproxy and a Cluster of three nodes: parts die, restart, are renewed, and no caller sees it.

It is the small form of tests/bench/replicas.py: toy bundles, and half a second for each thing that happens.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from service.bundle import read_manifest
from service.child import python_module
from tests.contract.build_context import ROOT
from tests.contract.namespace import enter_namespace
from tests.service.toy import write_toy
from tests.service.whole.test_proxy import needs

LONGEST_S = 380  # of a machine that others keep busy; pytest itself gives up after 420
TOGETHER = ("--net", "--pid", "--fork", "--mount-proc", "--kill-child")  # what ends the first ends all
PHASES = ["steady", "service killed", "node killed", "rolling restart", "publish"]


@pytest.mark.timeout(LONGEST_S + 20)
def test_no_request_fails_while_parts_of_a_site_die_and_every_event_is_kept_once(tmp_path: Path) -> None:
    needs("haproxy")
    bundle = write_toy(tmp_path / "bundle").path
    following = write_toy(tmp_path / "next", seed=1).path
    (tmp_path / "out").mkdir()
    words = ["--bundle", str(bundle), "--next", str(following), "--out", str(tmp_path / "out"), "--seconds", "0.5"]
    command = [*enter_namespace(*TOGETHER, tools=("ip",)), *python_module("tests.service.replicas", *words)]

    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=LONGEST_S
    )

    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [phase for phase in found["phases"] if phase != "begin"] == PHASES
    assert {status for seen in found["phases"].values() for status in seen["statuses"]} == {"200"}, found["phases"]
    assert found["are_counts_exact"] and found["events_sent"] > 0
    assert found["are_answers_the_same"]
    assert found["versions"] == [read_manifest(following).version]
