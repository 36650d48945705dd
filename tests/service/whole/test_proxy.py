"""Behind real nginx and haproxy: nothing is smuggled, and a rolling restart fails no request."""

import os
import shutil
import socket
import subprocess
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.port import free_port
from tests.service.running import Running, wait_for

HISTORY = {"history": ["i1"], "k": 1}
Backends = list[tuple[str, int]]


def needs(program: str) -> None:
    """Skip where a program is not installed, unless the tests must not."""
    if shutil.which(program) is None:
        assert "RETORT_REQUIRE_PROXIES" not in os.environ, f"{program} is not installed"
        pytest.skip(f"NOT CHECKED: {program} is not installed")


def nginx_command(directory: Path, port: int, backends: Backends) -> list[str]:
    """nginx with the usual map for WebSockets, and connections to the service that are kept.

    As haproxy is below, it is told to ask another service where a kept connection turns out to be closed, also for
    POST: a list asked for twice changes nothing, and an event with an id or a time counts once.
    """
    servers = "".join(f"server {host}:{number} max_fails=1 fail_timeout=1s;" for host, number in backends)
    (directory / "nginx.conf").write_text(
        textwrap.dedent(f"""
        worker_processes 1; daemon off; pid {directory}/nginx.pid; error_log {directory}/error.log;
        events {{ worker_connections 512; }}
        http {{
          access_log off;
          client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;
          uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
          map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
          upstream retort {{ {servers} keepalive 8; }}
          server {{
            listen 127.0.0.1:{port};
            location / {{
              proxy_pass http://retort; proxy_http_version 1.1; proxy_set_header Host localhost;
              proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
              proxy_next_upstream error timeout non_idempotent http_502 http_503; proxy_connect_timeout 1s;
            }}
          }}
        }}
        """)
    )
    return ["nginx", "-c", str(directory / "nginx.conf"), "-p", str(directory)]


def haproxy_command(directory: Path, port: int, backends: Backends) -> list[str]:
    """haproxy, which asks /readyz and shares its connections to the service among callers.

    It keeps a request until it is whole: it could not ask another service with half of a body.
    """
    servers = "\n          ".join(
        f"server s{place} {host}:{behind} check inter 100ms fall 1 rise 1"
        for place, (host, behind) in enumerate(backends)
    )
    (directory / "haproxy.cfg").write_text(
        textwrap.dedent(f"""
        defaults
          mode http
          timeout connect 1s
          timeout client 30s
          timeout server 30s
          timeout check 5s
          option redispatch
          option http-buffer-request
          retries 3
          retry-on conn-failure empty-response
        frontend f
          bind 127.0.0.1:{port}
          default_backend b
        backend b
          http-reuse always
          option httpchk GET /readyz
          http-request set-header Host localhost
          {servers}
        """)
    )
    return ["haproxy", "-f", str(directory / "haproxy.cfg"), "-db"]


PROXIES: dict[str, Callable[[Path, int, Backends], list[str]]] = {"nginx": nginx_command, "haproxy": haproxy_command}


@contextmanager
def proxy(name: str, directory: Path, backends: Backends) -> Iterator[str]:
    """Run a proxy in front of services; the URL to ask."""
    needs(name)
    port = free_port()
    directory.mkdir()
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(PROXIES[name](directory, port, backends), stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: is_ready(url))
        yield url
    finally:
        process.terminate()
        process.wait(10)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def address(service: Running) -> tuple[str, int]:
    host, _, port = service.url.removeprefix("http://").partition(":")
    return host, int(port)


@pytest.mark.parametrize("name", PROXIES)
def test_nobody_smuggles_a_request_under_the_next_callers_key(toy_bundle: Path, tmp_path: Path, name: str) -> None:
    smuggled = b"DELETE /users/victim HTTP/1.1\r\nHost: localhost\r\nX-Ignore: "
    upgrades = (b"websocket", b"h2c", b"foo")
    with (
        Running(toy_bundle, tmp_path / "data", api_keys="right") as service,
        proxy(name, tmp_path / name, [address(service)]) as url,
        httpx.Client(base_url=url, headers={"X-API-Key": "right"}, trust_env=False) as client,
    ):
        service.client.headers["X-API-Key"] = "right"
        service.send({"user_id": "victim", "item_id": "i1"})
        port = int(url.rpartition(":")[2])
        answers = []
        for number in range(50):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as attacker:
                attacker.sendall(
                    b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: %s\r\n"
                    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                    % (upgrades[number % 3], len(smuggled), smuggled)
                )
                attacker.recv(4096)
            answers.append(client.get("/users/victim").json())

    assert [answer.get("count") for answer in answers] == [1] * 50


@pytest.mark.parametrize("name", PROXIES)
def test_rolling_restarts_fail_no_request(toy_bundle: Path, tmp_path: Path, name: str) -> None:
    ports = [str(free_port()) for _ in range(2)]
    services = [Running(toy_bundle, tmp_path / f"data{n}", port=port, drain_s="0.5") for n, port in enumerate(ports)]
    statuses: list[int | str] = []
    is_over = threading.Event()

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, trust_env=False, timeout=10) as client:
            while not is_over.wait(0.02):  # what starts anew needs the processor too
                try:
                    statuses.append(client.post("/recommend", json=HISTORY).status_code)
                except httpx.HTTPError as exc:
                    statuses.append(repr(exc))

    with services[0], services[1], proxy(name, tmp_path / name, [("127.0.0.1", int(port)) for port in ports]) as url:
        threads = [threading.Thread(target=ask, args=(url,), daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(10):
            service = services[number % 2]
            service.process.terminate()
            assert service.process.wait(60) == 0
            service.client.close()
            service.start()
            wait_for(lambda service=service: service.metric("retort_recommendations_total") > 5)
        is_over.set()
        for thread in threads:
            thread.join()

    assert set(statuses) == {200}, statuses.count(502)
    assert len(statuses) > 200
