"""What is erased is gone: from every worker's memory and every service of a store, however the store fails then."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

from service.store.embedded import socket_path
from tests.service.running import Proxy, Running, stopped, wait_for

N_ANSWERS = 36


def level(service: Running, user: str) -> str:
    """Ask over a new connection: any worker may take it."""
    connection = HTTPConnection(service.url.removeprefix("http://"), timeout=10)
    try:
        connection.request(
            "POST", "/recommend", json.dumps({"user_id": user}), headers={"Content-Type": "application/json"}
        )
        return json.loads(connection.getresponse().read())["quality"]["level"]
    finally:
        connection.close()


def levels(service: Running, user: str) -> set[str]:
    """Ask so often that every worker is asked."""
    with ThreadPoolExecutor(6) as pool:
        return set(pool.map(lambda _: level(service, user), range(N_ANSWERS)))


def send(service: Running, *users: str) -> None:
    service.send(*[{"user_id": user, "item_id": "i4", "timestamp": 5} for user in users])


def test_no_worker_answers_from_memory_of_an_erased_user(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, "--workers", "2") as service:
        for user in ("anna", "bert", "cleo"):
            send(service, user, "stays")
            assert "full" in levels(service, user) & levels(service, "stays")
            erased = service.client.delete(f"/users/{user}").json()
            with stopped(service.store_pid()):
                found, others = levels(service, user), levels(service, "stays")
            wait_for(lambda: service.recommend(user_id="stays")["quality"]["level"] == "full")

            assert erased["memory"] == {"complete": True, "gone_within_s": 0}
            assert found == {"fallback"}
            assert "degraded" in others, "who is not erased is remembered"


def test_no_other_service_of_the_store_answers_from_memory_of_an_erased_user(toy_bundle: Path, tmp_path: Path) -> None:
    url = f"unix://{socket_path(tmp_path / 'a')}"
    with (
        Running(toy_bundle, tmp_path / "a") as first,
        Running(toy_bundle, tmp_path / "b", "--workers", "2", redis_url=url) as second,
    ):
        for user, erasing in (("anna", first), ("bert", second)):
            send(first, user)
            assert "full" in levels(first, user) & levels(second, user)
            erased = erasing.client.delete(f"/users/{user}").json()
            with stopped(first.store_pid()):
                found = levels(first, user) | levels(second, user)
            for service in (first, second):
                wait_for(
                    lambda service=service: service.recommend(user_id="stays")["quality"]["reasons"] == ["cold_user"]
                )

            assert erased["memory"]["complete"]
            assert found == {"fallback"}


def test_erasure_waits_for_a_service_that_is_cut_off_until_it_uses_no_memory(toy_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.sock"
    with (
        Running(toy_bundle, tmp_path / "a") as near,
        ExitStack() as way,
        ExitStack() as stack,
    ):
        way.enter_context(Proxy(path, socket_path(tmp_path / "a")))
        far = stack.enter_context(Running(toy_bundle, tmp_path / "b", redis_url=f"unix://{path}", memory_s="3"))
        send(near, "anna")
        assert "full" in levels(near, "anna") & levels(far, "anna")
        way.close()
        before = levels(far, "anna")
        erased = near.client.delete("/users/anna").json()
        after = levels(far, "anna")

    assert "degraded" in before
    assert erased["memory"] == {"complete": True, "gone_within_s": 0}
    assert after == {"fallback"}


def test_what_is_read_while_a_user_is_erased_is_not_remembered(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, "--workers", "2") as service:
        is_over = threading.Event()

        def ask() -> None:
            while not is_over.is_set():
                level(service, "busy")

        for _ in range(3):
            is_over.clear()
            with ThreadPoolExecutor(4) as pool:
                for _ in range(4):
                    pool.submit(ask)
                send(service, "busy")
                wait_for(lambda: "full" in levels(service, "busy"))
                service.client.delete("/users/busy")
                with stopped(service.store_pid()):
                    found = levels(service, "busy")
                    is_over.set()
            wait_for(lambda: service.recommend(user_id="busy")["quality"]["reasons"] == ["cold_user"])

            assert found == {"fallback"}
