"""The demo: serve a small model at once, train the whole one behind it, and swap that in while the service answers.

    python -m training demo --out .demo --port 8000 [--interactions FILE [--items FILE] [--columns ...]]

The service is started by its own command, in its own process, and models are published to it by theirs, as an operator
would do it. A second demo in the same directory finds the whole model trained, and serves it within seconds.

The service asks for a key that is made for this demo alone, so that a page which it prints the address of may also
change items and activate models, and nothing else on this machine may. OUT/key has it, for its owner's eyes.
"""

import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
FIRST = (
    "teacher.members=linear", "student.dim=16", "student.epochs=1", "student.positions=50000", "distill.smoothing=0",
    "newcomers.epochs=0",
)  # fmt: skip
"""The settings of the model that is served first: what is there within seconds."""
FIRST_RUN, WHOLE_RUN = "first", "run"
_NICE = 10


def serve_demo(run: Path, port: int, train: Callable[[], Path] | None = None) -> int:
    """Serve run/bundle with the run's histories, print its address and a request, and wait for the service to end.

    train: trains a better model while the first one is served, and returns its run; None: there is none to train.
    Returns the service's exit code, 0 after Ctrl-C or SIGTERM. Raises StageError where it does not become ready.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a terminated demo stops its service too
    demo = _Demo(run.parent, port)
    print(
        "\nThe model is there. What the users took is put into the service's store, and the service is started.",
        flush=True,
    )
    demo.command("import", str(run / "prepared" / "histories.jsonl.gz"))
    demo.command("publish", str(run / "bundle"))  # whatever was live in the store of an earlier demo
    try:
        with demo.serving(run) as process:
            _show(run, port, demo.key)
            if train is not None:
                demo.improve(run, train)
            while process.poll() is None:  # not wait(), in which Ctrl-C can go unheard
                sleep(0.2)
            return process.returncode
    except KeyboardInterrupt:
        return 0


class _Demo:
    """The service of a demo. out: holds its store, its log and its key."""

    def __init__(self, out: Path, port: int) -> None:
        self._port, self._log = port, out / "service.log"
        self.key = make_key(out / "key")
        self._environment = os.environ | {
            "RETORT_DATA_DIR": str((out / "store").absolute()), "RETORT_ADMIN_KEY": self.key
        }  # fmt: skip

    def command(self, name: str, argument: str) -> None:
        """Run a command of the service. Raises StageError where it fails."""
        done = subprocess.run(
            python_module("service", name, argument), env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise StageError(f"'python -m service {name} {argument}' failed: {done.stderr.strip()}")

    @contextmanager
    def serving(self, run: Path) -> "Iterator[subprocess.Popen[bytes]]":
        """Start the service and wait until it is ready; end it with the context."""
        command = python_module("service", "--bundle", str(run / "bundle"), "--port", str(self._port))
        with self._log.open("ab") as log:
            process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        try:
            _wait_until_ready(process, self._port, self._log)
            yield process
        finally:
            process.terminate()
            with suppress(KeyboardInterrupt):
                process.wait(timeout=30)

    def improve(self, first: Path, train: Callable[[], Path]) -> None:
        """Train behind the service, and swap the new model in."""
        print("\nThis model was made in seconds. The whole one is now trained behind the service, which takes minutes,")
        print("and is swapped in while it answers. The lines below are for those who want to watch.\n", flush=True)
        os.nice(_NICE)  # callers first
        whole = train()
        version = open_bundle(whole / "bundle").manifest.version
        self.command("publish", str(whole / "bundle"))
        deadline = monotonic() + READY_WITHIN_S
        while _version(self._port) != version:
            if monotonic() > deadline:
                raise StageError(
                    f"the service does not follow {version}; the end of {self._log} says:\n{_tail(self._log)}"
                )
            sleep(0.1)
        before, after = (_quality(run / "bundle") for run in (first, whole))
        print(
            f"\nswapped in: version {version}. NDCG@10 on held-out events: {before:.4f} before, {after:.4f} now (how\n"
            "near the top of ten items stands what users really took next; 1 is the best). The screen Models of the\n"
            f"page compares both versions and can roll back.\nreport: {whole / 'report.html'}",
            flush=True,
        )


def check_port(port: int) -> None:
    """Raise InputError where the port is taken. It is asked before training, not after."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise InputError(f"port {port}: {exc.strerror}; choose another: make demo PORT=8001") from exc


def make_key(path: Path) -> str:
    """Return a new random key, and write it to a file that only its owner can read."""
    key = secrets.token_urlsafe(18)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # of an earlier demo: its permissions may have been changed
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key)
    return key


def _show(run: Path, port: int, key: str) -> None:
    prepared = load_prepared(run / "prepared")
    titles = {item.item_id: item.title for item in open_bundle(run / "bundle").items}
    body = {"user_id": prepared.users[0], "k": 5}
    answer = json.loads(_request(port, "POST", "/recommend", json.dumps(body), key))
    recent = prepared.item[prepared.user == 0][-3:]
    _print_titles(f"user {body['user_id']} last took", [prepared.items[row].item_id for row in recent], titles)
    heading = f"and is recommended, after {answer['took_ms']:.1f} ms"
    _print_titles(heading, [item["item_id"] for item in answer["items"]], titles)
    print(f"\nThe same from another shell (docs at http://127.0.0.1:{port}/docs):\n")
    print(f"  {curl_command(port, body, key)}")
    report = run / "report.html"
    print(f"\nreport: {report}" if report.exists() else "")
    print("serving: open this in a browser; it brings the key of this demo with it. Ctrl-C stops the demo.\n")
    print(f"  http://127.0.0.1:{port}/#admin={key}\n")
    print(f"What the page gives to copy takes that key from your shell: export RETORT_API_KEY={key}", flush=True)


def curl_command(port: int, body: Mapping[str, Any], key: str) -> str:
    """Return the curl command of POST /recommend, to be pasted into a shell."""
    headers = f"-H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
    url = f"http://127.0.0.1:{port}/recommend"
    return f"curl -s {url} {headers} -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"


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


def _version(port: int) -> str:
    return str(json.loads(_request(port, "GET", "/readyz"))["model_version"])


def _quality(bundle: Path) -> float:
    """Return the NDCG@10 of a bundle's student on held-out events."""
    return float(open_bundle(bundle).manifest.quality["compressed"]["ndcg@10"])


def _request(port: int, method: str, path: str, body: str | None = None, key: str = "") -> bytes:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise ConnectionError(f"{method} {path}: {response.status}")
    return text


def _tail(path: Path, lines: int = 8) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
