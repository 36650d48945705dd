"""What making another version live would change, asked of a running service with a real store."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.bundle import Bundle
from tests.service.running import Running, run_command, wait_for
from tests.service.toy import described_items, write_toy_sum

ADMIN = {"X-API-Key": "the-admin-key-of-these-tests"}
USERS = {f"user {n}/é": [f"i{(7 * n + step) % 60}" for step in range(1 + n % 4)] for n in range(12)}
EVENTS = [
    {"user_id": user, "item_id": item, "timestamp": round(time.time()) - 200 * 86_400 + step}
    for user, items in USERS.items()
    for step, item in enumerate(items)
]
"""Of long ago, so that the trend does not change by them between two answers."""
SLOW_S = 60.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_sum(tmp_path_factory.mktemp("bundle") / "bundle", items=described_items())


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_sum(tmp_path_factory.mktemp("other") / "bundle", seed=5, n_items=61, items=described_items(61))


@pytest.fixture(scope="module")
def service(bundle: Bundle, other: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    data = tmp_path_factory.mktemp("data")
    with Running(bundle.path, data, admin_key=ADMIN["X-API-Key"]) as running:
        running.client.headers.update(ADMIN)
        for path in (bundle.path, other.path):
            done = run_command("publish", str(path), "--data-dir", str(data), "--no-activate")
            assert done.returncode == 0, done.stderr
        yield running


def compare(service: Running, **asked: Any) -> dict[str, Any]:
    response = service.client.post("/model/compare", json=asked, timeout=SLOW_S)
    assert response.status_code == 200, response.text
    return response.json()


def full_answer(service: Running, user: str) -> list[str]:
    """The items of a user's answer, asked again while a busy machine answers with less than all of it."""

    def ask() -> list[str]:
        answer = service.recommend(user_id=user, k=5)
        return [item["item_id"] for item in answer["items"]] if answer["quality"]["level"] == "full" else []

    items: list[str] = wait_for(ask)
    return items


def test_golden_histories_are_asked_where_the_store_has_none(service: Running, bundle: Bundle, other: Bundle) -> None:
    found = compare(service, version=other.manifest.version)

    assert found["source"] == "golden"
    assert found["users"] == sum(bool(golden.history) for golden in bundle.golden)


def test_users_of_the_store_are_answered_as_each_version_answers_them(
    service: Running, bundle: Bundle, other: Bundle, tmp_path: Path
) -> None:
    service.send(*EVENTS)
    now = {user: full_answer(service, user) for user in USERS}
    with Running(other.path, tmp_path) as there:
        there.send(*EVENTS)
        then = {user: full_answer(there, user) for user in USERS}

    found = compare(service, version=other.manifest.version, users=50, k=5)

    n = len(USERS)
    assert (found["source"], found["users"], found["k"]) == ("store", n, 5)
    assert (found["live"], found["version"]) == (bundle.manifest.version, other.manifest.version)
    assert found["overlap"] == pytest.approx(sum(len({*now[u]} & {*then[u]}) / 5 for u in USERS) / n, abs=1e-4)
    assert found["first_changes"] == pytest.approx(sum(now[u][0] != then[u][0] for u in USERS) / n, abs=1e-4)
    assert found["same"] == pytest.approx(sum(now[u] == then[u] for u in USERS) / n, abs=1e-4)
    assert found["coverage"]["live"] == len({item for items in now.values() for item in items})
    assert found["coverage"]["version"] == len({item for items in then.values() for item in items})
    assert found["popular"] == {"live": 0, "version": 0}
    most = max(sum(item in then[u] and item not in now[u] for u in USERS) for item in set().union(*then.values()))
    assert found["coming"][0]["users"] == most and len(found["coming"]) <= 10
    assert all(each["title"] == f"title {each['item_id'][1:]}" for each in found["coming"] + found["going"])
    lists = [[[item["item_id"] for item in each[side]] for side in ("live", "version")] for each in found["examples"]]
    assert lists and all(each in [[now[u], then[u]] for u in USERS] for each in lists)


def test_the_live_version_changes_nothing_and_nothing_is_swapped(service: Running, bundle: Bundle) -> None:
    swaps = service.metric("retort_model_swaps_total", result="ok")
    found = compare(service, version=bundle.manifest.version)

    assert (found["overlap"], found["first_changes"], found["same"]) == (1.0, 0.0, 1.0)
    assert found["coming"] == found["going"] == found["examples"] == []
    assert service.metric("retort_model_swaps_total", result="ok") == swaps
    assert service.client.get("/model").json()["version"] == bundle.manifest.version


def test_histories_that_were_imported_are_found(bundle: Bundle, other: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "histories.jsonl"
    file.write_text('{"user_id": "a{b}:c", "item_id": "i3", "timestamp": 1767225600}\n')
    with Running(bundle.path, tmp_path / "data", admin_key=ADMIN["X-API-Key"]) as service:
        service.client.headers.update(ADMIN)
        for arguments in (["publish", str(other.path), "--no-activate"], ["import", str(file)]):
            done = run_command(*arguments, "--data-dir", str(service.data_dir))
            assert done.returncode == 0, done.stderr

        found = compare(service, version=other.manifest.version)

    assert (found["source"], found["users"]) == ("store", 1)


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        ({"version": "0" * 16}, ADMIN, 404, "not_found"),
        ({"version": "x"}, ADMIN, 422, "malformed"),
        ({}, ADMIN, 422, "malformed"),
        ({"version": "0" * 16, "users": 101}, ADMIN, 422, "malformed"),
        ({"version": "0" * 16, "users": 0}, ADMIN, 422, "malformed"),
        ({"version": "0" * 16, "k": True}, ADMIN, 422, "malformed"),
        ({"version": "0" * 16, "user": 5}, ADMIN, 422, "malformed"),
        ({"version": "0" * 16}, {"X-API-Key": "other"}, 403, "wrong_key"),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    service: Running, body: Any, headers: dict[str, str], status: int, code: str
) -> None:
    response = httpx.post(f"{service.url}/model/compare", json=body, headers=headers, timeout=10, trust_env=False)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_one_at_a_time_while_callers_are_answered(service: Running, other: Bundle) -> None:
    def ask() -> None:
        answer = httpx.post(
            f"{service.url}/model/compare", json={"version": other.manifest.version, "users": 100, "k": 100},
            headers=ADMIN, timeout=SLOW_S, trust_env=False,
        )  # fmt: skip
        answers.append(answer.status_code)

    answers: list[int] = []
    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    levels = []
    while any(thread.is_alive() for thread in asking):
        levels.append(service.recommend(history=["i3"], k=5)["quality"]["level"])

    assert levels.count("full") > len(levels) / 2, levels
    assert sorted(answers) == [200, 503, 503]
