"""Callers of a whole service: hosts, scopes, guesses, rates over workers, and scrapes."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.service.running import Running, run_command, wait_for

HISTORY = {"history": ["i1"], "k": 1}
EVENTS = {"events": [{"user_id": "u", "item_id": "i1"}]}


def test_page_of_another_host_reaches_nothing_without_keys(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, allowed_hosts="shop.internal") as service:
        evil = {"Host": "evil.example"}
        answers = [
            service.client.request(method, path, headers=evil, json=body)
            for method, path, body in [
                ("GET", "/users/u", None), ("DELETE", "/users/u", None), ("POST", "/recommend", HISTORY),
                ("POST", "/events", {"events": []}), ("GET", "/model", None), ("GET", "/metrics", None),
            ]
        ]  # fmt: skip
        ours = service.client.post("/recommend", headers={"Host": "shop.internal:80"}, json=HISTORY).status_code
        probe = service.client.get("/livez", headers=evil).status_code

    assert [answer.status_code for answer in answers] == [403] * 6
    assert {answer.json()["error"]["code"] for answer in answers} == {"wrong_host"}
    assert not any("evil" in answer.text for answer in answers)
    assert (ours, probe) == (200, 200)


def test_key_of_one_scope_opens_that_alone(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, api_keys="recommend:front,events:tracker,metrics:scraper") as service:
        codes = {
            key: [
                service.client.post("/recommend", json=HISTORY, headers={"X-API-Key": key}).status_code,
                service.client.post("/events", json=EVENTS, headers={"X-API-Key": key}).status_code,
                service.client.delete("/users/u", headers={"X-API-Key": key}).status_code,
                service.client.get("/metrics", headers={"X-API-Key": key}).status_code,
            ]
            for key in ("front", "tracker", "scraper")
        }

    assert codes == {"front": [200, 403, 403, 403], "tracker": [403, 200, 403, 403], "scraper": [403, 403, 403, 200]}


def test_guessing_keys_is_slow_and_does_not_harm_who_has_one(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, api_keys="right") as service:
        guesses = [
            service.client.post("/recommend", json=HISTORY, headers={"X-API-Key": f"guess{n}"}).status_code
            for n in range(60)
        ]
        right = service.client.post("/recommend", json=HISTORY, headers={"X-API-Key": "right"}).status_code
        shed = service.metric("retort_shed_total", reason="rate")

    assert set(guesses) == {403, 429}
    assert guesses.count(429) == shed > 20
    assert right == 200


@pytest.mark.parametrize("n_workers", [1, 3])
def test_rate_is_that_of_all_workers_together(toy_bundle: Path, tmp_path: Path, n_workers: int) -> None:
    with Running(toy_bundle, tmp_path, "--workers", str(n_workers), rate_per_s="20") as service:
        wait_for(lambda: httpx.get(f"{service.url}/readyz", trust_env=False).status_code == 200)

        def ask(_: int) -> int:
            return httpx.post(f"{service.url}/recommend", json=HISTORY, trust_env=False, timeout=10).status_code

        with ThreadPoolExecutor(4) as pool:
            began = time.monotonic()
            statuses = list(pool.map(ask, range(150)))
            seconds = time.monotonic() - began

    let_in = statuses.count(200)
    assert let_in + statuses.count(429) == 150
    assert let_in <= 20 * (1 + seconds) + 1
    assert let_in >= min(150, 20)


def test_list_of_events_weighs_what_it_costs(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, rate_per_s="20") as service:  # the list is worth five seconds
        events = [{"user_id": "u", "item_id": f"i{n % 50}", "timestamp": n} for n in range(1000)]
        first = service.client.post("/events", json={"events": events}).status_code
        statuses = [service.client.post("/recommend", json=HISTORY).status_code for _ in range(5)]

    assert first == 200
    assert 429 in statuses


def test_callers_behind_a_trusted_proxy_have_rates_of_their_own(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, rate_per_s="1", trusted_proxies="127.0.0.1") as service:
        codes = {
            address: [
                service.client.post("/recommend", json=HISTORY, headers={"X-Forwarded-For": address}).status_code
                for _ in range(3)
            ]
            for address in ("1.1.1.1", "2.2.2.2")
        }

    assert all(200 in statuses and 429 in statuses for statuses in codes.values())


def test_many_scrapes_are_one(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path) as service:
        done = threading.Event()

        def scrape() -> int:
            n = 0
            with httpx.Client(base_url=service.url, trust_env=False) as client:
                while not done.is_set():
                    n += client.get("/metrics").status_code == 200
            return n

        with ThreadPoolExecutor(8) as pool:
            running = [pool.submit(scrape) for _ in range(8)]
            try:
                before = service.metric("retort_recommendations_total")
                service.ask(**HISTORY)
                after = service.metric("retort_recommendations_total")
            finally:
                done.set()
            counts = [each.result() for each in running]

    assert after == before + 1
    assert min(counts) >= 1


@pytest.mark.parametrize("name", ["api_keys", "admin_key"])
def test_key_that_is_too_short_does_not_go_beyond_this_machine(toy_bundle: Path, tmp_path: Path, name: str) -> None:
    keys = {"api_keys": "x" * 16, name: "y" * 15}

    done = run_command("--bundle", str(toy_bundle), "--data-dir", str(tmp_path), host="0.0.0.0", **keys)

    assert done.returncode == 2
    assert "less than 16 characters" in done.stderr
    assert "yyy" not in done.stderr


def test_proxy_that_is_no_address_is_a_bad_setting(toy_bundle: Path) -> None:
    done = run_command("--bundle", str(toy_bundle), trusted_proxies="the-proxy")

    assert done.returncode == 2
    assert "RETORT_TRUSTED_PROXIES" in done.stderr
