"""TLS with a private certificate authority, against a real server, Cluster and Sentinel."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from service.store.breaker import Breaker
from service.store.client import Store
from service.user.event import StoredEvent
from service.user.history import History, Kept, Retention
from service.user.key import UserKeys
from tests.port import free_port
from tests.service.running import run_command, wait_for

DEBIAN = shutil.which("redis-server")
pytestmark = pytest.mark.skipif(
    (DEBIAN is None or shutil.which("openssl") is None) and not os.environ.get("RETORT_REQUIRE_REDIS_SERVER"),
    reason="NOT CHECKED: redis-server, which is built with TLS, or openssl is not installed",
)
KEY_PASSWORD = "k3y-pass"


class Authority:
    """A certificate authority with a certificate for 127.0.0.1, and one for clients whose key has a password."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = self._path("ca.crt")
        self._run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                  "-subj", "/CN=private", "-keyout", self._path("ca.key"), "-out", self.ca)  # fmt: skip
        self.server = self._sign("server")
        self.client = self._sign("client", "-aes256", "-passout", f"pass:{KEY_PASSWORD}")
        self.hashed = directory / "hashed"
        self.hashed.mkdir()
        shutil.copy(self.ca, self.hashed)
        self._run("rehash", str(self.hashed))

    def _path(self, name: str) -> str:
        return str(self.directory / name)

    def _sign(self, name: str, *protection: str) -> tuple[str, str]:
        key, request, signed, extra = (self._path(f"{name}.{end}") for end in ("key", "csr", "crt", "ext"))
        plain = self._path(f"{name}.plain")
        self._run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", plain)
        self._run("pkey", "-in", plain, "-out", key, *protection)
        self._run("req", "-new", "-key", plain, "-subj", f"/CN={name}", "-out", request)
        Path(extra).write_text("subjectAltName=IP:127.0.0.1\n")
        self._run("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._path("ca.key"), "-CAcreateserial",
                  "-days", "2", "-extfile", extra, "-out", signed)  # fmt: skip
        return signed, key

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def start(authority: Authority, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Starts a server that speaks TLS alone, and returns its port."""
    with ExitStack() as stack:

        def start(*arguments: str, auth_clients: str = "no") -> int:
            port = free_port()
            signed, key = authority.server
            tls = ["--tls-port", str(port), "--port", "0", "--tls-cert-file", signed, "--tls-key-file", key,
                   "--tls-ca-cert-file", authority.ca, "--tls-auth-clients", auth_clients, "--tls-replication", "yes",
                   "--bind", "127.0.0.1"]  # fmt: skip
            process = subprocess.Popen(
                [str(DEBIAN), *arguments, *tls, "--dir", str(tmp_path)], stdout=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return port

        yield start


def client_of(authority: Authority, port: int) -> redis.Redis:
    signed, key = authority.server
    return redis.Redis(port=port, ssl=True, ssl_ca_certs=authority.ca, ssl_certfile=signed, ssl_keyfile=key,
                       ssl_check_hostname=False, protocol=2)  # fmt: skip


def answers(authority: Authority, port: int) -> bool:
    try:
        return bool(client_of(authority, port).ping())
    except redis.RedisError:
        return False


async def outcome(url: str) -> str:
    """Ok, if an event can be kept at a URL; else why not."""
    store = Store(url, max_connections=4, slow_s=5.0, breaker=Breaker())
    try:
        if not await store.wait_until_up(2):
            return store.last_words
        kept = await History(store, UserKeys("tls"), Retention()).append([StoredEvent("u", "i1", 1)], 5)
        return "ok" if kept == [Kept.NEW] else str(kept)
    finally:
        await store.close()


UNTRUSTED = "certificate verify failed"


async def test_single_server_with_certificates_of_its_own_authority(
    authority: Authority, start: Callable[..., int]
) -> None:
    port = start("--save", "")
    wait_for(lambda: answers(authority, port))
    base = f"rediss://127.0.0.1:{port}"

    assert UNTRUSTED in await outcome(base)
    assert await outcome(f"{base}?ssl_ca_certs={authority.ca}&ssl_min_version=1.2") == "ok"


async def test_cluster_takes_the_same_options(authority: Authority, start: Callable[..., int]) -> None:
    port = start("--save", "", "--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", str(free_port()))
    wait_for(lambda: answers(authority, port))
    client_of(authority, port).execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
    wait_for(
        lambda: client_of(authority, port).execute_command("CLUSTER INFO").get("cluster_state") == "ok"  # type: ignore[union-attr]
    )
    base = f"rediss+cluster://127.0.0.1:{port}"

    assert UNTRUSTED in await outcome(base)
    assert await outcome(f"{base}?ssl_ca_path={authority.hashed}") == "ok"
    assert await outcome(f"{base}?ssl_cert_reqs=none") == "[<Kept.KNOWN: 0>]"


async def test_sentinel_and_primary_take_the_same_options(
    authority: Authority, start: Callable[..., int], tmp_path: Path
) -> None:
    primary = start("--save", "", auth_clients="yes")
    wait_for(lambda: answers(authority, primary))
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor shop 127.0.0.1 {primary} 1\n")
    watcher = start(str(config), "--sentinel", auth_clients="yes")
    wait_for(lambda: answers(authority, watcher))
    signed, key = authority.client
    base = f"rediss+sentinel://127.0.0.1:{watcher}/shop?ssl_ca_certs={authority.ca}"

    assert await outcome(base) != "ok", "both ask for a certificate of the client"
    assert await outcome(f"{base}&ssl_certfile={signed}&ssl_keyfile={key}&ssl_password={KEY_PASSWORD}") == "ok"


def test_commands_say_that_the_certificate_is_not_trusted(
    authority: Authority, start: Callable[..., int], tmp_path: Path
) -> None:
    port = start("--save", "")
    wait_for(lambda: answers(authority, port))

    done = run_command("status", redis_url=f"rediss://:s3cr3t@127.0.0.1:{port}", data_dir=str(tmp_path))

    assert done.returncode == 2
    assert UNTRUSTED in done.stderr
    assert "s3cr3t" not in done.stderr and "127.0.0.1" not in done.stderr
