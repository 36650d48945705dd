"""The demo: the whole way by one command, the curl that it prints, and nothing left running."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from urllib.request import urlopen

import httpx
import pytest

from tests.port import free_port
from tests.service.running import clean_environment, wait_for
from tests.training.world import heed_interrupts, tiny_settings
from training.__main__ import main
from training.run.demo import FIRST_RUN, WHOLE_RUN, curl_command

NAMES = (FIRST_RUN, WHOLE_RUN)


def start_demo(chain_world, out, port):
    command = [sys.executable, "-m", "training", "demo", "--interactions", str(chain_world), "--out", str(out)]
    command += ["--port", str(port), *tiny_settings()]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=clean_environment({}), preexec_fn=heed_interrupts
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="NOT CHECKED: curl is not installed")
def test_demo_serves_and_its_curl_answers(chain_world, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "demo" / "run")  # trained already: the second demo
    port = free_port()
    process = start_demo(chain_world, tmp_path / "demo", port)

    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("What the page gives to copy"):
            break
    curl = next(line for line in lines if "curl -s" in line)
    answer = json.loads(subprocess.run(curl, shell=True, capture_output=True, check=True, text=True).stdout)
    kept = tmp_path / "demo" / "key"
    key = next(line for line in lines if "/#admin=" in line).strip().partition("/#admin=")[2]
    statuses = [status_of(port, with_key) for with_key in (key, None, "another")]
    process.send_signal(signal.SIGTERM)  # Ctrl-C is pressed below
    process.communicate(timeout=60)

    assert answer["quality"]["level"] == "full"
    assert len(answer["items"]) == 5
    assert statuses == [200, 401, 403]
    assert kept.read_text() == key and kept.stat().st_mode & 0o777 == 0o600
    assert process.returncode == 0
    wait_for(lambda: is_free(port))


def status_of(port, key):
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.get(f"http://127.0.0.1:{port}/model/versions", headers=headers, trust_env=False).status_code


def is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_demo_says_at_once_that_the_port_is_taken(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert main(["demo", "--out", str(tmp_path / "demo"), "--port", str(port)]) == 2

    assert f"port {port}: Address already in use; choose another: make demo PORT=8001" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_curl_command_survives_quotes_in_ids():
    command = curl_command(8000, {"user_id": "o'neil"}, "key")

    assert """'{"user_id": "o'"'"'neil"}'""" in command


def test_demo_serves_a_first_model_and_swaps_the_whole_one_in(chain_world, tmp_path):
    port = free_port()
    process = start_demo(chain_world, tmp_path / "demo", port)

    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("swapped in: version"):
            break
    with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as ready:
        served = json.load(ready)["model_version"]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)

    assert process.returncode == 0
    wait_for(lambda: is_free(port))
    text = "".join(lines)
    first, whole = (json.loads((tmp_path / "demo" / name / "bundle/manifest.json").read_text()) for name in NAMES)
    assert f"  http://127.0.0.1:{port}/#admin=" in text and "curl -s" in text
    assert text.index("curl -s") < text.index("The whole one is now trained behind the service")
    assert served == whole["version"] != first["version"]
    assert lines[-1].startswith(f"swapped in: version {served}. NDCG@10 on held-out events: ")
    assert not (tmp_path / "demo" / "run" / ".copied").exists()
