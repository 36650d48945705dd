"""docker/renew.py against a registry that speaks the API of the real ones; the locks against the constraints."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import requires
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from packaging.requirements import Requirement

from tests.contract.build_context import ROOT, read_lock

FILES = ("docker-compose.yml", "docker/service.Dockerfile", "docker/training.Dockerfile")
TAGS = {
    "valkey/valkey": ["8.1.2", "8.1.99", "8.1.100", "8.1.101-alpine", "8.2.0", "9.0.0", "latest"],
    "prom/prometheus": ["v3.13.400", "v3.14.0", "3.13.500", "v3.13.4-rc.0"],
    "grafana/grafana": ["12.4.1", "12.4.2"],
    "library/python": ["3.11-slim-bookworm", "3.11.99"],
}
NEWEST = {
    "valkey/valkey": "8.1.100",
    "prom/prometheus": "v3.13.400",
    "grafana/grafana": None,  # the registry has none that is newer than ours
    "python": "3.11-slim-bookworm",
}
TOKEN = "a-token"


class FakeRegistry(BaseHTTPRequestHandler):
    """Manifests and tags for callers with a token, as the real ones do; two tags a page.

    broken: what it does wrong: digest, realm, missing, or nothing.
    """

    protocol_version = "HTTP/1.1"
    broken = ""

    def do_GET(self) -> None:
        """Answer."""
        url, page = urlsplit(self.path), 2
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        found = re.fullmatch(r"/v2/(.+)/(?:tags/(list)|manifests/([\w.-]+))", url.path)
        if url.path == "/token":
            assert re.fullmatch(r"repository:[\w/]+:pull", query["scope"])
            self.answer(200, json.dumps({"token": f"{TOKEN} {query['scope']}"}).encode())
        elif found and self.headers.get("Authorization") != f"Bearer {TOKEN} repository:{found[1]}:pull":
            host, port = self.server.server_address[:2]
            realm = "http://elsewhere.example" if self.broken == "realm" else f"http://{host}:{port}"
            self.answer(401, b"{}", **{"WWW-Authenticate": f'Bearer realm="{realm}/token",service="fake"'})
        elif found and found[2]:
            start, tags = int(query.get("last", 0)), TAGS[found[1]]
            more = {"Link": f'</v2/{found[1]}/tags/list?last={start + page}>; rel="next"'}
            self.answer(
                200,
                json.dumps({"tags": tags[start : start + page]}).encode(),
                **(more if start + page < len(tags) else {}),
            )
        elif found and self.broken != "missing":
            assert "application/vnd.oci.image.index.v1+json" in self.headers["Accept"]
            body = manifest_of(found[1], found[3])
            digest = "0" * 64 if self.broken == "digest" else hashlib.sha256(body).hexdigest()
            self.answer(200, body, **{"Docker-Content-Digest": f"sha256:{digest}"})
        else:
            self.answer(404, b"{}")

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def manifest_of(repository: str, tag: str) -> bytes:
    """What the registry has of a tag."""
    return json.dumps({"schemaVersion": 2, "manifests": [], "annotations": {"of": f"{repository}:{tag}"}}).encode()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a registry."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeRegistry)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield "http://{}:{}".format(*server.server_address[:2])
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files that name images, to be written to."""
    (tmp_path / "docker").mkdir()
    for name in FILES:
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def renew(root: Path, registry: str) -> "subprocess.CompletedProcess[str]":
    """Renew the images of the files under root."""
    return subprocess.run(
        [sys.executable, ROOT / "docker" / "renew.py", "images", "--registry", registry, "--root", root],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def references(root: Path) -> dict[str, str]:
    """The images that the files name, each with what is behind its name."""
    texts = [re.sub("^#.*", "", (root / name).read_text(), flags=re.MULTILINE) for name in FILES]
    found = [pair for text in texts for pair in re.findall(r"(?:image: |FROM )([\w./]+):(\S+)", text)]
    assert len(set(found)) == len(dict(found)), "one image, one reference"
    return dict(found)


def test_images_get_the_newest_patch_release_and_its_digest(copy: Path, registry: str) -> None:
    before = references(copy)

    done = renew(copy, registry)

    assert done.returncode == 0, done.stderr
    after = references(copy)
    assert after.pop("retort") == before["retort"] == "0.1.0"
    for name, newest in NEWEST.items():
        tag = newest or before[name].partition("@")[0]
        repository = name if "/" in name else f"library/{name}"
        assert after[name] == f"{tag}@sha256:{hashlib.sha256(manifest_of(repository, tag)).hexdigest()}"
    again = renew(copy, registry)
    assert (again.returncode, references(copy)) == (0, after | {"retort": "0.1.0"})


@pytest.mark.parametrize("broken", ["digest", "realm", "missing"])
def test_a_registry_that_cannot_be_believed_changes_no_file(
    copy: Path, registry: str, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeRegistry, "broken", broken)

    done = renew(copy, registry)

    assert done.returncode == 1
    assert done.stderr.startswith("not renewed: ")
    assert references(copy) == references(ROOT)


def test_a_registry_that_does_not_answer_changes_no_file(copy: Path) -> None:
    done = renew(copy, "http://127.0.0.1:9")

    assert (done.returncode, references(copy)) == (1, references(ROOT))
    assert "127.0.0.1:9" in done.stderr


def pins() -> dict[str, str]:
    """What constraints.txt pins, by name as PyPI writes it in addresses."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line and line[0] != "#"]
    return {_plain(line.partition("==")[0]): line.partition("==")[2] for line in lines}


def needed(requirements: list[str]) -> set[str]:
    """The names of all that some requirements need on this machine, themselves included."""
    names: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = _plain(requirement.name)
        if name not in names and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            names.add(name)
            waiting += requires(name) or []
    return names


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", ["build", "service", "training"])
def test_lock_pins_what_the_constraints_pin_and_gives_the_sums(name: str) -> None:
    text = (ROOT / "docker" / f"{name}.lock").read_text()
    packages = re.split(r"\n(?=\S)", text)[1:]

    for package, version, condition in read_lock(name):
        if condition != "sys_platform == 'win32'":
            assert pins()[_plain(package)] == version, package
    assert len(packages) == len(read_lock(name))
    assert all(re.search("--hash=sha256:[0-9a-f]{64}", package) for package in packages)


def test_locks_hold_all_that_the_images_need_but_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core, extras = project["dependencies"], project["optional-dependencies"]
    locked = {name: {_plain(package) for package, _, _ in read_lock(name)} for name in ("service", "training")}

    assert needed([*core, *extras["embedded"], *extras["tracing"]]) <= locked["service"]
    assert needed([*core, *extras["train"]]) - {"torch"} <= locked["training"]
    assert not {"torch", "polars"} & locked["service"]
    assert "torch" not in locked["training"]


def test_build_requirements_are_pinned_and_locked() -> None:
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]

    assert required == [f"{name}=={version}" for name, version, _ in read_lock("build")]
