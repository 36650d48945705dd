"""Three services and three nodes of a Cluster, each in a network of its own, while parts of them die behind haproxy."""

import json
import subprocess
import sys
from pathlib import Path

from tests.contract.namespace import enter_namespace
from tests.service.toy import write_toy
from tests.service.whole.test_proxy import needs

PHASES = {"steady", "service killed", "node killed", "rolling restart", "publish"}


def test_no_request_fails_and_no_event_is_lost_while_parts_die(toy_bundle: Path, tmp_path: Path) -> None:
    needs("haproxy")
    enter = enter_namespace("--net", tools=("ip",))
    following, out = write_toy(tmp_path / "next", seed=1), tmp_path / "out"
    out.mkdir()
    arguments = ["--bundle", str(toy_bundle), "--next", str(following.path), "--out", str(out), "--seconds", "0.5"]

    done = subprocess.run(
        [*enter, sys.executable, "-m", "tests.service.replicas", *arguments],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["phases"].keys() >= PHASES
    for phase in found["phases"].values():
        assert phase["statuses"].keys() == {"200"}, found
    assert found["events_sent"] > 50 and found["are_counts_exact"], found
    assert found["are_answers_the_same"] and found["is_next_served"], found
