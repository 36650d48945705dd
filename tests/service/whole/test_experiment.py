"""Another version beside the live one: real services on a real store, asked as callers ask."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.bundle import read_manifest
from service.experiment.assignment import Assignment
from service.experiment.record import Experiment, Kind
from service.experiment.shelf import ExperimentShelf
from service.metrics import SHADOW_RESULTS
from service.release.published import PublishedVersions
from service.release.record import Replica
from service.release.signature import make_signing_key
from tests.service.running import SWAP_S, Running, metric, run_command, wait_for
from tests.service.store.test_client import open_store
from tests.service.toy import toy_items, write_toy

USERS = [f"user-{number}" for number in range(60)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return [write_toy(folder / f"{seed}", seed=seed).path for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def versions(bundles: list[Path]) -> list[str]:
    return [read_manifest(path).version for path in bundles]


@pytest.fixture(scope="module")
def service(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(bundles[0], tmp_path_factory.mktemp("data"), "--workers", "2") as running:
        yield running


@pytest.fixture(autouse=True)
def first_live(service: Running, bundles: list[Path], versions: list[str]) -> None:
    """Before each test the first version is live, and nothing is tried."""
    with service.store() as store:
        store.delete("retort:experiment")
    with_store(service, lambda published, _: published.upload(bundles[0]))
    make_live(service, versions[0])


def with_store(service: Running, work: Callable[[PublishedVersions, ExperimentShelf], Awaitable[Any]]) -> Any:
    async def do() -> Any:
        store = open_store(service)
        try:
            return await work(PublishedVersions(store, "retort"), ExperimentShelf(store, "retort"))
        finally:
            await store.close()

    return asyncio.run(do())


def make_live(service: Running, version: str) -> None:
    with_store(service, lambda published, _: published.activate(version))
    wait_for(lambda: {(each.version, each.other) for each in replicas(service)} == {(version, "")}, SWAP_S)


def try_beside(service: Running, bundle: Path, kind: Kind, share: float) -> Experiment:
    """Do what publish --as does, without its trial, and wait until every process has it."""

    async def begin(published: PublishedVersions, shelf: ExperimentShelf) -> Experiment:
        version, live = await published.upload(bundle), await published.live()
        return await shelf.begin(kind, version.version, live.version if live else "", share)

    begun: Experiment = with_store(service, begin)
    wait_for(lambda: {(r.other, r.experiment) for r in replicas(service)} == {(begun.version, begun.id)}, SWAP_S)
    return begun


def replicas(service: Running) -> list[Replica]:
    listed: list[Replica] = with_store(service, lambda published, _: published.replicas())
    return listed


def status(service: Running) -> tuple[dict[str, Any], str]:
    done = run_command("status", "--data-dir", str(service.data_dir))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


def answering(service: Running, users: list[str] = USERS) -> dict[str, str]:
    return {user: service.recommend(user_id=user, k=3)["model_version"] for user in users}


def expected(service: Running, versions: list[str]) -> dict[str, str]:
    """Who must be answered by which version, by the record in the store."""
    with service.store() as store:
        record = json.loads(store.get("retort:experiment"))
    takes = Assignment(record["salt"], record["share"]).takes
    return {user: versions[1] if takes(user) else versions[0] for user in USERS}


def test_share_of_the_users_is_answered_by_the_other_version_throughout(
    service: Running, bundles: list[Path], versions: list[str]
) -> None:
    live = answering(service)
    try_beside(service, bundles[1], "canary", 30)
    by = answering(service)
    other = next(user for user in USERS if by[user] == versions[1])
    service.send({"user_id": other, "item_id": "i3"}, {"user_id": other, "item_id": "i5"})

    one = service.recommend(user_id=other, k=5, debug=True)
    again = [service.recommend(user_id=other, k=5) for _ in range(6)]
    page = service.client.post("/page", json={"user_id": other, "slots": [{"name": "a", "k": 3}, {"name": "b"}]}).json()
    similar = service.similar(item_id="i1", user_id=other, k=5)
    batch = service.batch(*({"user_id": user} for user in USERS))
    nobody = service.recommend(history=["i3", "i5"], k=5, debug=True)

    assert set(live.values()) == {versions[0]}
    assert by == expected(service, versions) and len(set(by.values())) == 2
    assert {each["model_version"] for each in again} == {versions[1]}
    assert {json.dumps(each["items"]) for each in again} == {json.dumps(one["items"])}
    assert one["recommendation_id"].startswith(versions[1][:8])
    assert one["debug"]["experiment"] | {"id": ""} == {
        "id": "", "kind": "canary", "share": 30, "answered_by": "other",
    }  # fmt: skip
    assert (page["model_version"], similar["model_version"]) == (versions[1], versions[1])
    assert [each["model_version"] for each in batch] == [by[user] for user in USERS]
    assert all(each["recommendation_id"].startswith(each["model_version"][:8]) for each in batch)
    assert nobody["model_version"] == versions[0]
    assert nobody["debug"]["experiment"]["answered_by"] == "live"
    assert nobody["items"] != one["items"]
    counted = [service.metric("retort_version_answers_total", version=role) for role in ("live", "other")]
    assert counted[0] >= list(by.values()).count(versions[0]) and counted[1] >= list(by.values()).count(versions[1])
    assert service.metric("retort_experiment_share", kind="canary") == 30
    assert service.metric("retort_experiment_missing") == 0


def test_raised_share_keeps_who_is_in_and_a_restarted_worker_too(
    service: Running, bundles: list[Path], versions: list[str]
) -> None:
    try_beside(service, bundles[1], "experiment", 20)
    few = answering(service)
    try_beside(service, bundles[1], "experiment", 60)
    wait_for(lambda: answering(service) == expected(service, versions))
    many = answering(service)

    service.process.terminate()
    service.process.wait()
    service.client.close()
    service.start()
    restarted = answering(service)

    assert {user for user in USERS if few[user] == versions[1]} < {u for u in USERS if many[u] == versions[1]}
    assert restarted == many  # from the first request on


def test_experiment_is_over_where_another_version_is_made_live(
    service: Running, bundles: list[Path], versions: list[str]
) -> None:
    try_beside(service, bundles[1], "canary", 50)

    with_store(service, lambda published, _: published.upload(bundles[2]))
    make_live(service, versions[2])
    after = answering(service)
    said = wait_for(lambda: (found := status(service)[0])["experiment"]["ended"] and found)

    assert set(after.values()) == {versions[2]}
    assert said["experiment"]["reason"] == f"version {versions[2]} was made live"
    assert {replica["other"] for replica in said["replicas"]} == {""}
    ends = [line for line in service.log_lines() if line["event"] == "experiment_ended"]
    assert [line["experiment_id"] for line in ends].count(said["experiment"]["id"]) == 1
    assert service.metric("retort_experiment_share") == 0
    assert service.recommend(history=["i1"], debug=True)["debug"].get("experiment") is None


def test_other_version_that_is_made_live_is_promoted_without_being_loaded_again(
    service: Running, bundles: list[Path], versions: list[str]
) -> None:
    try_beside(service, bundles[1], "canary", 50)
    n_loaded = sum(line["event"] == "model_loaded" for line in service.log_lines())

    make_live(service, versions[1])

    assert set(answering(service).values()) == {versions[1]}
    assert sum(line["event"] == "model_loaded" for line in service.log_lines()) == n_loaded
    said = wait_for(lambda: (found := status(service)[0])["experiment"]["ended"] and found)
    assert said["experiment"]["reason"] == f"promoted: version {versions[1]} is live"


def test_what_stands_wrongly_in_the_key_is_no_experiment_and_says_so(
    service: Running, bundles: list[Path], versions: list[str]
) -> None:
    try_beside(service, bundles[1], "canary", 100)
    before = set(answering(service).values())

    with service.store() as store:
        store.set("retort:experiment", b'{"kind": "canary", "version": "../../../../etc/x", "share": 100}')
    wait_for(lambda: set(answering(service).values()) == {versions[0]})
    text = status(service)[1]

    assert before == {versions[1]}
    assert "the experiment's record is none that this service writes" in text
    assert any(line["event"] == "experiment_unreadable" for line in service.log_lines())
    try_beside(service, bundles[1], "canary", 100)
    assert set(answering(service).values()) == {versions[1]}


def test_emptied_store_leaves_the_live_version_to_everybody(
    service: Running, bundles: list[Path], versions: list[str]
) -> None:
    try_beside(service, bundles[1], "canary", 100)

    with service.store() as store:
        store.flushall()
    wait_for(lambda: set(answering(service).values()) == {versions[0]})
    done = run_command("publish", str(bundles[1]), "--data-dir", str(service.data_dir), "--as", "canary")

    assert done.returncode == 2
    assert "no version is live that it could be set beside: publish one without --as first" in done.stderr


def test_replica_that_must_not_load_it_answers_with_the_live_one_and_says_so(
    service: Running, bundles: list[Path], versions: list[str], tmp_path: Path
) -> None:
    key = make_signing_key(tmp_path / "key").public_text
    url = f"unix://{service.data_dir}/server.sock"
    with Running(bundles[0], tmp_path / "data", redis_url=url, trusted_keys=key) as strict:
        done = run_command(
            "publish", str(bundles[1]), "--data-dir", str(service.data_dir), "--wait", "50", "--as", "canary",
            "--share", "100",
        )  # fmt: skip

        assert done.returncode == 1, done.stderr
        assert f"{versions[1]} as canary beside {versions[0]}, 100 % of the users" in done.stderr
        assert "nobody is left to compare with" in done.stderr and "--share 99 leaves some" in done.stderr
        assert "has nothing beside" in done.stderr and "rejected_signature" in done.stderr
        wait_for(lambda: sorted(r.other for r in replicas(service)) == ["", versions[1], versions[1]], SWAP_S)
        assert "and nothing beside it: rejected_signature" in status(service)[1]
        assert set(answering(strict, USERS[:5]).values()) == {versions[0]}
        assert strict.metric("retort_experiment_missing") == 1
    assert set(answering(service, USERS[:5]).values()) == {versions[1]}


def test_no_answer_fails_or_mixes_versions_while_an_experiment_begins_changes_and_ends(
    service: Running, bundles: list[Path], versions: list[str]
) -> None:
    user, is_over = "asked-all-along", threading.Event()
    service.send(*({"user_id": user, "item_id": f"i{row}"} for row in (1, 2, 3)))
    seen: list[tuple[int, str, str]] = []

    def ask() -> None:
        one = {"user_id": user, "k": 5, "budget_ms": 1000}
        with httpx.Client(base_url=service.url, timeout=10, trust_env=False) as client:
            while not is_over.wait(0.005):
                first = client.post("/recommend", json=one)
                many = client.post("/recommend/batch", json={"requests": [one] * 40})
                answers = [first.json(), *many.json()["answers"]]
                seen.extend((first.status_code, each["model_version"], json.dumps(each["items"])) for each in answers)
                assert len({each["model_version"] for each in many.json()["answers"]}) == 1

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            for kind, share in (("canary", 100), ("shadow", 100), ("experiment", 100)):
                begun = try_beside(service, bundles[1], kind, share)
            with_store(service, lambda _, shelf: shelf.end(begun, "stopped"))
            wait_for(lambda: {each.other for each in replicas(service)} == {""})
            try_beside(service, bundles[1], "canary", 100)
            make_live(service, versions[1])
        finally:
            is_over.set()
        asking.result()

    assert {status for status, _, _ in seen} == {200}
    assert {version for _, version, _ in seen} == set(versions[:2])
    assert len({(version, items) for _, version, items in seen}) == 2


def test_shadow_is_compared_in_spare_time_and_answers_nobody(
    service: Running, bundles: list[Path], versions: list[str]
) -> None:
    service.send(*({"user_id": user, "item_id": f"i{place}"} for place, user in enumerate(USERS[:20])))
    try_beside(service, bundles[1], "shadow", 100)
    before = shadow_requests(service)

    answers = [service.recommend(user_id=user, k=10, debug=True) for user in USERS[:20]]
    service.similar(item_id="i1", k=5)
    answers += [service.recommend(history=["i1", "i2"], k=10, debug=True)]
    wait_for(lambda: shadow_requests(service)["compared"] > before["compared"], SWAP_S)  # few on a busy machine

    assert {each["model_version"] for each in answers} == {versions[0]}
    assert {each["debug"]["experiment"]["answered_by"] for each in answers} == {"live"}
    after = shadow_requests(service)
    assert sum(after.values()) <= sum(before.values()) + 22
    assert after["failed"] == before["failed"]
    wait_for(has_noted_all(service))
    page = service.client.get("/metrics").text
    assert metric(page, "retort_shadow_levels_total", version="other", level="full") > 0
    assert 0 < metric(page, "retort_shadow_coverage", version="other") <= 1
    assert metric(page, "retort_shadow_mean_score", version="other") != 0
    n = metric(page, "retort_shadow_overlap_count")
    assert metric(page, "retort_shadow_overlap_sum") < n  # another model's lists are not the same


def shadow_requests(service: Running) -> dict[str, float]:
    """How many requests were sampled since the service began, by what came of them."""
    page = service.client.get("/metrics").text
    return {result: metric(page, "retort_shadow_requests_total", result=result) for result in SHADOW_RESULTS}


def has_noted_all(service: Running) -> Callable[[], bool]:
    """Whether each comparison that has begun to be noted is noted whole."""

    def has() -> bool:
        page = service.client.get("/metrics").text
        n = metric(page, "retort_shadow_overlap_count")
        took = metric(page, "retort_shadow_duration_seconds_count", version="other")
        return n == took == metric(page, "retort_shadow_requests_total", result="compared")

    return has


def test_shadow_of_a_model_with_the_same_answers_is_found_to_agree(
    service: Running, versions: list[str], tmp_path: Path
) -> None:
    twin = write_toy(
        tmp_path / "twin", seed=1, items=[replace(item, popularity=item.popularity + 1) for item in toy_items()]
    )
    try_beside(service, twin.path, "shadow", 100)
    before, n_before = (service.metric(f"retort_shadow_{name}") for name in ("overlap_sum", "overlap_count"))

    def has_compared() -> bool:
        """Ask once more, because a busy machine compares few."""
        service.recommend(history=["i1", "i6"], k=10)
        return service.metric("retort_shadow_overlap_count") >= n_before + 3

    wait_for(has_compared, SWAP_S)
    wait_for(has_noted_all(service))

    page = service.client.get("/metrics").text
    n_compared = metric(page, "retort_shadow_overlap_count") - n_before
    assert metric(page, "retort_shadow_overlap_sum") - before == pytest.approx(n_compared)


def test_live_version_and_a_second_version_are_refused_with_a_way_out(service: Running, bundles: list[Path]) -> None:
    data = ["--data-dir", str(service.data_dir)]
    try_beside(service, bundles[1], "shadow", 5)

    itself = run_command("publish", str(bundles[0]), *data, "--as", "canary")
    second = run_command("publish", str(bundles[2]), *data, "--as", "canary")
    nowhere = run_command("publish", str(bundles[1]), "--as", "canary", redis_url="redis://127.0.0.1:1")

    assert (itself.returncode, second.returncode, nowhere.returncode) == (2, 2, 2)
    assert "is the live one: there is nothing to set beside it" in itself.stderr
    assert "runs as shadow: end it first, by 'experiment stop'" in second.stderr
    assert "the store does not answer" in nowhere.stderr
