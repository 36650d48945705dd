"""The doctor uses the store as the service does: it fails where that would fail, and not where the service works."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from service.command import store_check
from service.command.store_check import FAIL, PASS, WARN
from service.store.breaker import Breaker
from service.store.client import Store
from service.store.server import find_server
from tests.port import free_port
from tests.service.running import Running, run_command, wait_for

ENOUGH = "+@read +@write +@stream +@scripting +@blocking +@connection -@admin -@dangerous"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., redis.Redis]]:
    """Starts a server on a port, and returns its client."""
    with ExitStack() as stack:

        def start(*options: str) -> redis.Redis:
            port = free_port()
            command = [str(find_server()), "--port", str(port), "--save", "", "--dir", str(tmp_path), *options]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            client = redis.Redis(port=port, protocol=2)
            stack.callback(client.close)
            wait_for(lambda: answers(client))
            return client

        yield start


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.AuthenticationError:
        return True
    except redis.RedisError:
        return False


def port_of(client: redis.Redis) -> int:
    return int(client.connection_pool.connection_kwargs["port"])


async def examine(url: str) -> dict[str, tuple[str, str]]:
    """Subject -> level and text of what is found of a store."""
    store = Store(url, max_connections=4, slow_s=5.0, breaker=Breaker())
    try:
        assert await store.wait_until_up(5), store.last_words
        found = await store_check.check_store(store, "shop", 5.0)
    finally:
        await store.close()
    return {finding.subject: (finding.level, f"{finding.text} {finding.advice}") for finding in found}


async def test_good_store_is_used_and_nothing_is_left_behind(start: Callable[..., redis.Redis]) -> None:
    client = start("--appendonly", "yes", "--maxmemory-policy", "noeviction")

    found = await examine(f"redis://127.0.0.1:{port_of(client)}")

    assert {level for level, _ in found.values()} == {PASS}
    assert client.keys("*") == []


async def test_cluster_behind_the_url_of_one_server_fails(start: Callable[..., redis.Redis]) -> None:
    client = start("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
    wait_for(lambda: client.execute_command("CLUSTER INFO").get("cluster_state") == "ok")

    found = await examine(f"redis://127.0.0.1:{port_of(client)}")
    right = await examine(f"redis+cluster://127.0.0.1:{port_of(client)}")

    level, text = found["use"]
    assert level == FAIL
    assert "cannot write an event" in text and "CROSSSLOT" in text and "redis+cluster://" in text
    assert right["use"][0] == PASS
    assert client.keys("*") == []


async def test_user_without_admin_commands_passes_where_the_service_works(
    start: Callable[..., redis.Redis], toy_bundle: Path, tmp_path: Path
) -> None:
    client = start()
    client.execute_command("ACL", "SETUSER", "shop", "on", ">pw", "~retort:*", "~shop:*", *ENOUGH.split())
    url = f"redis://shop:pw@127.0.0.1:{port_of(client)}"

    found = await examine(url)
    with Running(toy_bundle, tmp_path / "x", redis_url=url) as service:
        sent = service.send({"user_id": "u", "item_id": "i1", "timestamp": 1})
        erased = service.client.delete("/users/u").json()

    assert found["use"][0] == PASS, found["use"]
    assert {found[name][0] for name in ("eviction", "persistence")} == {WARN}
    assert FAIL not in {level for level, _ in found.values()}
    assert (sent["accepted"], erased["event_stream"]["erased"], erased["memory"]["complete"]) == (1, 1, True)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("~shop:* +@all -@scripting", "cannot write an event"), ("~other:* +@all", "cannot write an event"),
        ("~shop:* +@read +@scripting +@connection", "cannot write an event"),
        ("~shop:* +@all -xdel", "cannot erase a user"), ("~shop:* +@all -xinfo", "cannot erase a user"),
        ("~shop:* +@all -hset", "cannot erase a user"), ("~shop:* +@all -get", "cannot follow releases"),
    ],
)  # fmt: skip
async def test_user_who_may_not_do_what_the_service_does_fails(
    start: Callable[..., redis.Redis], rules: str, expected: str
) -> None:
    client = start()
    client.execute_command("ACL", "SETUSER", "shop", "on", ">pw", *rules.split())

    level, text = (await examine(f"redis://shop:pw@127.0.0.1:{port_of(client)}"))["use"]

    assert level == FAIL
    assert expected in text


async def test_replica_and_full_server_fail_in_the_words_of_the_server(start: Callable[..., redis.Redis]) -> None:
    primary, full = start(), start("--maxmemory", "1mb")
    replica = start("--replicaof", f"127.0.0.1 {port_of(primary)}", "--repl-diskless-sync-delay", "0")
    wait_for(lambda: replica.info("replication")["master_link_status"] == "up")

    of_replica, of_full = [(await examine(f"redis://127.0.0.1:{port_of(each)}"))["use"] for each in (replica, full)]

    assert of_replica[0] == of_full[0] == FAIL
    assert "READONLY" in of_replica[1] and "primary" in of_replica[1]
    assert "OOM" in of_full[1]


async def test_stream_key_of_another_type_fails(start: Callable[..., redis.Redis]) -> None:
    client = start()
    client.set("shop:events", "x")

    level, text = (await examine(f"redis://127.0.0.1:{port_of(client)}"))["use"]

    assert (level, "WRONGTYPE" in text) == (FAIL, True)


def test_wrong_password_is_told_in_the_words_of_the_server(start: Callable[..., redis.Redis], tmp_path: Path) -> None:
    client = start("--requirepass", "right-one")
    url = f"redis://:wr0ng-one@127.0.0.1:{port_of(client)}"

    done = run_command("doctor", redis_url=url, data_dir=str(tmp_path))

    assert done.returncode == 1
    assert "WRONGPASS" in done.stdout
    assert "wr0ng-one" not in done.stdout + done.stderr and "right-one" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"aof_enabled": "1", "role": "master"}, PASS), ({"aof_enabled": "0"}, WARN), ({"loading": "1"}, WARN),
        ({"aof_enabled": "1", "role": "slave"}, FAIL), ({"aof_enabled": "1", "aof_last_write_status": "err"}, FAIL),
    ],
)  # fmt: skip
def test_persistence_is_judged_by_what_the_server_says(info: dict[str, str], expected: str) -> None:
    assert store_check.judge_persistence(info).level == expected


@pytest.mark.parametrize(("apart_s", "expected"), [(0, PASS), (-5, WARN), (5, WARN), (3600, FAIL)])
def test_clocks_that_are_apart_are_found(apart_s: int, expected: str) -> None:
    now = time.time() + apart_s

    assert store_check.judge_clock(now).level == expected
