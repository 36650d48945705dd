"""Where the store is: what is taken for a URL, and a real Sentinel trio that moves the primary elsewhere."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry

from service.errors import StartError
from service.store.address import open_address
from service.store.server import find_server
from tests.port import free_port
from tests.service.running import Running, run_command, wait_for

PASSWORD = "s3ntinel-pa/ss@word"
QUOTED = "s3ntinel-pa%2Fss%40word"


@pytest.mark.parametrize(
    "url",
    [
        "redis://host", "redis://u:p@host:1/2", "unix:///tmp/x.sock?db=3", "redis+sentinel://a/shop",
        "redis+sentinel://:p@a:1,b:2,[::1]:3/shop/4?sentinel_password=x",
    ],
)  # fmt: skip
def test_plain_urls_have_a_lean_connection(url: str) -> None:
    assert open_address(url, 4).connection is not None


@pytest.mark.parametrize(
    "url",
    ["rediss://host", "redis://host?client_name=x", "rediss+sentinel://a/shop", "redis+cluster://u:p@a,b:2"],
)
def test_tls_options_and_clusters_go_through_redis_py(url: str) -> None:
    assert open_address(url, 4).connection is None


@pytest.mark.parametrize(
    "url",
    [
        "http://host", "redis+cluster://a/0", "redis+cluster://a:x", "redis+cluster://",
        "redis://host:port", "redis+sentinel://a", "redis+sentinel:///shop",
        "redis+sentinel://a:x/shop", "redis+sentinel://a/shop/x", "redis+sentinel://a/shop?socket_timeout=1",
        "redis+sentinel://a,,b/shop", "redis+sentinel://pw@a/shop", "redis+sentinel://a/shop?x",
    ],
)  # fmt: skip
def test_bad_url_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(StartError, match="RETORT_REDIS_URL") as caught:
        open_address(url, 4)
    assert url not in str(caught.value)


@pytest.mark.parametrize("url", ["unix:///nowhere", "redis+sentinel://a/shop"])
def test_client_retries_nothing_speaks_resp2_and_uses_the_asyncio_retry(url: str) -> None:
    client = open_address(url, 4).client
    assert isinstance(client, redis.asyncio.Redis)
    kwargs = client.connection_pool.connection_kwargs

    assert type(kwargs["retry"]) is Retry
    assert kwargs["retry"].get_retries() == 0
    assert kwargs["protocol"] == 2


class Trio:
    """A primary, its replica, and three sentinels that watch them, all with a password."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory, self._stack = directory, stack
        self.ports = [free_port() for _ in range(2)]
        self.sentinels = [free_port() for _ in range(3)]
        login = ["--requirepass", PASSWORD, "--masterauth", PASSWORD, "--save", "", "--dir", str(directory)]
        replica = ["--replicaof", f"127.0.0.1 {self.ports[0]}", "--repl-diskless-sync-delay", "0"]
        self.servers = [
            self._start("--port", str(port), *login, *extra)
            for port, extra in zip(self.ports, ([], replica), strict=True)
        ]
        wait_for(lambda: self.client(1).info("replication")["master_link_status"] == "up", 20)
        for port in self.sentinels:
            config = directory / f"sentinel-{port}.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\nsentinel monitor shop 127.0.0.1 {self.ports[0]} 2\n"
                f"sentinel auth-pass shop {PASSWORD}\nsentinel down-after-milliseconds shop 1000\n"
                "sentinel failover-timeout shop 5000\n"
            )
            self._start(str(config), "--sentinel", "--dir", str(directory))
        wait_for(self._is_formed, 20)

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in [free_port(), *self.sentinels])  # nobody is at the first
        return f"redis+sentinel://:{QUOTED}@{hosts}/shop"

    def client(self, number: int) -> redis.Redis:
        return redis.Redis(port=self.ports[number], password=PASSWORD, protocol=2)

    def watcher(self) -> redis.Redis:
        return redis.Redis(port=self.sentinels[0], protocol=2)

    def primary(self) -> int:
        return int(self.watcher().sentinel_get_master_addr_by_name("shop")[1])

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([str(find_server()), *arguments], stdout=subprocess.DEVNULL)
        self._stack.callback(_end, process)
        return process

    def _is_formed(self) -> bool:
        try:
            state = self.watcher().sentinel_master("shop")
        except redis.RedisError:
            return False
        return state["num-other-sentinels"] == 2 and state["num-slaves"] == 1


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    with ExitStack() as stack:
        yield Trio(tmp_path, stack)


def send(service: Running, item: str, timestamp: float) -> bool:
    """Whether an event was accepted."""
    body = {"events": [{"user_id": "u", "item_id": item, "timestamp": timestamp}]}
    return service.client.post("/events", json=body).status_code == 200


def read(service: Running) -> list[str]:
    return [event["item_id"] for event in service.client.get("/users/u").json().get("history", [])]


def test_primary_that_is_moved_or_killed_is_found_again(trio: Trio, toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path / "x", redis_url=trio.url) as service:
        assert send(service, "i1", 1)
        assert service.recommend(user_id="u")["quality"] == {"level": "full", "reasons": []}

        trio.watcher().execute_command("SENTINEL", "FAILOVER", "shop")
        wait_for(lambda: trio.primary() == trio.ports[1], 20)
        # Until it is a replica the old primary takes writes that it then forgets: no client can know.
        wait_for(lambda: trio.client(0).info("replication")["role"] == "slave", 20)
        wait_for(lambda: send(service, "i2", 2), 10)

        assert read(service) == ["i1", "i2"]
        wait_for(lambda: service.recommend(user_id="u")["quality"]["level"] == "full", 10)

        wait_for(lambda: trio.client(0).info("replication").get("master_link_status") == "up", 30)
        wait_for(lambda: trio.client(0).zcard("retort:{u}:h") == 2, 30)  # it has what it will be asked for
        trio.servers[1].kill()
        statuses = []

        def is_moved() -> bool:
            statuses.append(service.client.post("/recommend", json={"user_id": "u"}).status_code)
            return trio.primary() == trio.ports[0]

        wait_for(is_moved, 30)
        wait_for(lambda: send(service, "i3", 3), 10)

        assert set(statuses) == {200}
        wait_for(lambda: service.recommend(user_id="u")["quality"]["level"] == "full", 10)
        assert read(service) == ["i1", "i2", "i3"]
        logged = "".join(map(str, service.log_lines()))
    assert PASSWORD not in logged and QUOTED not in logged


def test_commands_reach_the_primary_through_sentinel(trio: Trio, tmp_path: Path) -> None:
    histories = tmp_path / "histories.jsonl"
    histories.write_text('{"user_id": "u", "item_id": "i1", "timestamp": 1}\n')

    done = run_command("import", str(histories), redis_url=trio.url)
    unknown = run_command("import", str(histories), redis_url=trio.url.replace("/shop", "/other"))

    assert done.returncode == 0, done.stderr
    assert trio.client(0).zcard("retort:{u}:h") == 1
    assert unknown.returncode == 2
    assert "does not answer" in unknown.stderr
