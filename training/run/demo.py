"""The second half of the demo: serve a trained bundle, ask for recommendations, print the answer and keep serving.

    python -m training demo --out .demo --port 8000 [--interactions FILE [--items FILE] [--columns ...]]

The service is started by its own command, in its own process. training/__main__.py trains the bundle before; a second
demo in the same directory finds it trained and serves within seconds.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from service.bundle import open_bundle
from service.child import python_module
from training.data.prepared import load_prepared
from training.errors import InputError, StageError

READY_WITHIN_S = 60.0
SMALL = (
    "teacher.dim=64", "teacher.epochs=12", "teacher.patience=3",
    "student.dim=16", "student.epochs=16", "student.patience=3",
)  # fmt: skip
"""The settings for the simulated world, which needs no more. A user's own file is trained with the defaults."""


def serve_demo(run: Path, port: int) -> int:
    """Serve run/bundle with the run's histories, print a curl command and its answer, and wait for the service to end.

    Returns the service's exit code, 0 after Ctrl-C or SIGTERM. Raises StageError where it does not become ready.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a terminated demo stops its service too
    environment = os.environ | {"RETORT_DATA_DIR": str((run.parent / "store").absolute())}
    histories = run / "prepared" / "histories.jsonl.gz"
    imported = subprocess.run(python_module("service", "import", str(histories)), env=environment, check=False)
    if imported.returncode:
        raise StageError("the histories were not imported; the line above says why")
    with (run.parent / "service.log").open("ab") as log:
        process = subprocess.Popen(
            python_module("service", "--bundle", str(run / "bundle"), "--port", str(port)),
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_until_ready(process, port, run.parent / "service.log")
        _show(run, port)
        while process.poll() is None:  # not wait(), in which Ctrl-C can go unheard
            sleep(0.2)
        return process.returncode
    except KeyboardInterrupt:
        return 0
    finally:
        process.terminate()
        with suppress(KeyboardInterrupt):
            process.wait(timeout=30)


def check_port(port: int) -> None:
    """Raise InputError where the port is taken. It is asked before training, not after."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise InputError(f"port {port}: {exc.strerror}; choose another: make demo PORT=8001") from exc


def ask_service(port: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the service on this machine for recommendations: POST /recommend. Return the answer.

    Raises ConnectionError for any status but 200, and OSError where the service cannot be reached.
    """
    return json.loads(_request(port, "POST", "/recommend", json.dumps(body)))


def _show(run: Path, port: int) -> None:
    prepared = load_prepared(run / "prepared")
    titles = {item.item_id: item.title for item in open_bundle(run / "bundle").items}
    body = {"user_id": prepared.users[0], "k": 5}
    answer = ask_service(port, body)
    recent = prepared.item[prepared.user == 0][-3:]
    print(f"\nserving on http://127.0.0.1:{port} (docs at /docs, metrics at /metrics); Ctrl-C stops it. Try:\n")
    print(f"  {curl_command(port, body)}\n")
    print(json.dumps(answer, indent=1))
    _print_titles(f"user {body['user_id']} last took", [prepared.items[row].item_id for row in recent], titles)
    _print_titles("and is recommended", [item["item_id"] for item in answer["items"]], titles)
    print(f"\nreport: {run / 'report.html'}", flush=True)


def curl_command(port: int, body: Mapping[str, Any]) -> str:
    """Return the curl command of POST /recommend, to be pasted into a shell."""
    url = f"http://127.0.0.1:{port}/recommend"
    return f"curl -s {url} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"


def _print_titles(heading: str, item_ids: Sequence[str], titles: Mapping[str, str | None]) -> None:
    print(f"\n{heading}:")
    for item_id in item_ids:
        print(f"  {item_id}  {titles.get(item_id) or ''}")


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = monotonic() + READY_WITHIN_S
    while monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            _request(port, "GET", "/readyz")
            return
        sleep(0.1)
    raise StageError(f"the service did not become ready; the end of {log} says:\n{_tail(log)}")


def _request(port: int, method: str, path: str, body: str | None = None) -> bytes:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise ConnectionError(f"{method} {path}: {response.status}")
    return text


def _tail(path: Path, lines: int = 8) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
