"""Several workers on one port: counts that add up, and nothing lost when one is killed or all are told to end."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.service.running import Running, is_alive, metric, run_command, wait_for

N_WORKERS = 2
MAX_IN_FLIGHT = 256
PATIENCE_S = 30.0


@pytest.fixture
def service(toy_bundle: Path, tmp_path: Path) -> Iterator[Running]:
    with Running(toy_bundle, tmp_path / "data", "--workers", str(N_WORKERS)) as running:
        yield running


def worker_pids(service: Running) -> list[int]:
    """The workers that are ready, those that died left out."""
    pids = [line["pid"] for line in service.log_lines() if line["event"] == "worker_ready"]
    return [pid for pid in pids if is_alive(pid)]


def ask_once(url: str, number: int) -> int:
    """One request on a connection of its own, so that any worker may get it."""
    body = {"user_id": f"u{number % 40}", "k": 3}
    return httpx.post(f"{url}/recommend", json=body, timeout=PATIENCE_S, trust_env=False).status_code


def ask_often(url: str, n: int) -> list[int]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda number: ask_once(url, number), range(n)))


def read_count(url: str) -> float:
    """Answers counted, as whichever worker that gets the request says."""
    text = httpx.get(f"{url}/metrics", timeout=PATIENCE_S, trust_env=False).text
    return metric(text, "retort_recommendations_total")


def test_counts_of_all_workers_add_up_and_outlive_a_killed_one(service: Running) -> None:
    pids = wait_for(lambda: len(found := worker_pids(service)) == N_WORKERS and found)
    assert ask_often(service.url, 200) == [200] * 200
    wait_for(lambda: {read_count(service.url) for _ in range(5)} == {200})

    os.kill(pids[0], signal.SIGKILL)
    seen = [read_count(service.url) for _ in range(20)]
    replaced = wait_for(lambda: len(found := worker_pids(service)) == N_WORKERS and found)
    assert ask_often(service.url, 100) == [200] * 100

    assert seen == [200] * 20
    assert set(replaced) != set(pids)
    wait_for(lambda: {read_count(service.url) for _ in range(5)} == {300})


def test_gauges_are_of_the_living_workers(service: Running) -> None:
    pids = wait_for(lambda: len(found := worker_pids(service)) == N_WORKERS and found)
    assert service.metric("retort_concurrency_limit") == N_WORKERS * MAX_IN_FLIGHT
    os.kill(pids[0], signal.SIGKILL)

    wait_for(lambda: len(found := worker_pids(service)) == N_WORKERS and pids[0] not in found)

    assert service.metric("retort_concurrency_limit") == N_WORKERS * MAX_IN_FLIGHT
    assert service.metric("retort_items") == 60
    assert service.metric("retort_model_generation_max") == 1


def test_killed_worker_takes_nothing_with_it_but_what_it_was_answering(service: Running) -> None:
    pids = wait_for(lambda: len(found := worker_pids(service)) == N_WORKERS and found)
    failures: list[Exception] = []
    statuses: list[int] = []
    is_over = threading.Event()

    def ask_on() -> None:
        number = 0
        while not is_over.wait(0.01):
            number += 1
            try:
                statuses.append(ask_once(service.url, number))
            except httpx.HTTPError as exc:
                failures.append(exc)

    threads = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(statuses) > 50)
        os.kill(pids[0], signal.SIGKILL)
        wait_for(lambda: len(found := worker_pids(service)) == N_WORKERS and pids[0] not in found)
        n_then = len(statuses)
        wait_for(lambda: len(statuses) > n_then + 50)
    finally:  # else they would ask for ever, and starve every test after this one
        is_over.set()
        for thread in threads:
            thread.join()

    assert set(statuses) == {200}
    assert len(failures) <= len(threads)


def test_event_told_to_one_worker_is_visible_in_all(service: Running) -> None:
    for number in range(20):
        event = {"user_id": f"new{number}", "item_id": "i7", "timestamp": 5}
        sent = httpx.post(f"{service.url}/events", json={"events": [event]}, timeout=PATIENCE_S, trust_env=False)
        body = {"user_id": f"new{number}"}
        answer = httpx.post(f"{service.url}/recommend", json=body, timeout=PATIENCE_S, trust_env=False).json()

        assert sent.json()["accepted"] == 1
        assert answer["quality"]["level"] == "full"
        assert "i7" not in {item["item_id"] for item in answer["items"]}


def test_sigterm_under_load_loses_nothing_that_was_acknowledged(toy_bundle: Path, tmp_path: Path) -> None:
    acknowledged: list[int] = []
    statuses: set[int] = set()
    with Running(toy_bundle, tmp_path / "data", "--workers", str(N_WORKERS)) as service:
        pids = wait_for(lambda: len(found := worker_pids(service)) == N_WORKERS and found)

        def send(first: int) -> None:
            with httpx.Client(base_url=service.url, timeout=PATIENCE_S, trust_env=False) as client:
                for number in range(first, 10**6, 4):
                    event = {"user_id": f"w{number % 20}", "item_id": f"i{number % 60}", "timestamp": number}
                    try:
                        response = client.post("/events", json={"events": [event]})
                    except httpx.HTTPError:
                        return  # the connection was closed before any answer
                    statuses.add(response.status_code)
                    acknowledged.append(number)

        threads = [threading.Thread(target=send, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(acknowledged) > 200)
        service.process.terminate()
        service.process.wait(30)
        for thread in threads:
            thread.join()
        wait_for(lambda: not any(is_alive(pid) for pid in pids))
        code = service.process.returncode

    with Running(toy_bundle, tmp_path / "data") as again:
        store = again.store()
        stored = {
            int(member.partition(b"\x00")[2]) // 1000
            for user in range(20)
            for member in store.zrange(f"retort:{{w{user}}}:h", 0, -1)
        }
        n_kept = store.xlen("retort:events")
        store.close()

    assert (code, statuses) == (0, {200})
    newest = {number for number in acknowledged if number >= max(acknowledged) - 5000}  # 500 of a user are kept
    assert newest - stored == set()
    assert n_kept >= len(acknowledged)


def test_workers_and_store_end_with_a_parent_that_is_killed(service: Running) -> None:
    pids = wait_for(lambda: len(found := worker_pids(service)) == N_WORKERS and found)
    store_pid = service.store_pid()

    service.kill()

    wait_for(lambda: not any(is_alive(pid) for pid in [*pids, store_pid]))


def test_worker_that_cannot_start_ends_the_others_with_its_message(tmp_path: Path) -> None:
    done = run_command("--bundle", str(tmp_path), "--workers", "2", "--port", "0", "--data-dir", str(tmp_path / "data"))

    assert done.returncode == 2
    assert "no manifest.json here" in done.stderr
    assert "a worker did not start" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("n", ["0", "-1", "65"])
def test_a_number_of_workers_that_makes_no_sense_is_refused(toy_bundle: Path, n: str) -> None:
    done = run_command("--bundle", str(toy_bundle), "--workers", n)

    assert done.returncode == 2
    assert "--workers: 1 to 64" in done.stderr


@pytest.mark.parametrize("n_signals", [1, 2])
def test_drain_lasts_as_long_as_was_set_with_several_workers(toy_bundle: Path, tmp_path: Path, n_signals: int) -> None:
    with Running(toy_bundle, tmp_path, "--workers", "2", drain_s="4") as service:
        began = time.monotonic()
        service.process.terminate()
        wait_for(lambda: httpx.get(f"{service.url}/readyz", trust_env=False).status_code == 503)
        answer = httpx.post(f"{service.url}/recommend", json={"user_id": "u"}, trust_env=False)
        if n_signals == 2:
            service.process.terminate()
        code = service.process.wait(20)
        seconds = time.monotonic() - began

    assert (code, answer.status_code) == (0, 200)
    assert answer.headers["connection"] == "close"
    assert seconds >= 4 if n_signals == 1 else seconds < 4
