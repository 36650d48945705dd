"""kill -9 of refresher and store, each while the other works: nothing is lost, nothing is there twice."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter

import pytest

from service.bundle import open_bundle
from tests.service.running import SWAP_S, Running, clean_environment, run_command, wait_for
from training.data.prepared import load_prepared
from training.loop.event_file import read_event_files


def start(place, data, log):
    command = [sys.executable, "-m", "training", "refresh", "--store", str(data), "--out", str(place)]
    with log.open("wb") as file:
        return subprocess.Popen(
            [*command, "--set", "refresh.margin=0.99"], env=clean_environment({}), stdout=file, stderr=file
        )


def kill_at(words, place, data, log):
    """Start a refresh, and kill it once it has said something."""
    process = start(place, data, log)

    def has_said():
        assert process.poll() is None, log.read_text()
        return words in log.read_text()

    wait_for(has_said, timeout_s=2 * SWAP_S)
    process.kill()
    process.wait()


@pytest.mark.timeout(900)  # four refreshes, each a process of its own, on a machine that tests something else beside
def test_no_event_is_lost_or_doubled_and_the_live_version_is_the_one_that_was_judged(lasting, tmp_path):
    place, data, log = tmp_path / "run", tmp_path / "data", tmp_path / "log"
    shutil.copytree(lasting.run, place)
    half = len(lasting.later) // 2
    with Running(place / "bundle", data) as service:
        assert run_command("publish", str(place / "bundle"), "--data-dir", str(data)).returncode == 0
        service.send(*lasting.later[:half])
        for words, rest in (("[prepared] started", lasting.later[half:]), ("[bundle] started", lasting.later[:half])):
            kill_at(words, place, data, log)
            os.kill(service.store_pid(), signal.SIGKILL)
            body = {"events": rest}
            wait_for(lambda body=body: service.client.post("/events", json=body).status_code == 200, timeout_s=SWAP_S)

        assert start(place, data, log).wait(timeout=2 * SWAP_S) == 0, log.read_text()  # what was killed
        assert start(place, data, log).wait(timeout=2 * SWAP_S) == 0, log.read_text()  # what came after it was planned
        listed = run_command("status", "--data-dir", str(data)).stdout.splitlines()[-1]

    runs = sorted((place / "refresh").glob("0*"))
    files = read_event_files(place / "refresh" / "events")
    taken = [json.loads(line) for each in files for line in gzip.decompress(each.path.read_bytes()).splitlines()]
    assert Counter((each["user_id"], each["item_id"], each["timestamp"]) for each in taken) == Counter(
        (each["user_id"], each["item_id"], each["timestamp"]) for each in lasting.later
    )
    n_events = len(load_prepared(place / "prepared").item) + len(lasting.later)
    assert len(load_prepared(runs[-1] / "prepared").item) == n_events
    assert json.loads(listed)["live"]["version"] == open_bundle(runs[-1] / "bundle").manifest.version
