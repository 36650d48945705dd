"""Publishing into a real store: a running service follows, refuses a bad bundle by name, and has a short way back."""

import asyncio
import hashlib
import itertools
import json
import os
import signal
import threading
import zlib
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest

from service.bundle import EMBEDDINGS, ENCODER, ITEMS, MANIFEST, bundle_version
from service.errors import StoreError
from service.release.published import CHUNK_BYTES, KEPT_VERSIONS, PublishedVersions
from service.store.breaker import Breaker
from service.store.client import Store
from tests.service.running import Running, children_of, run_command, wait_for
from tests.service.toy import DIM, N_ITEMS, mean_encoder, write_toy

ADMIN = {"X-API-Key": "admin-key"}
Result = TypeVar("Result")
wait = partial(wait_for, timeout_s=90)  # a trial steps back behind everything else on the machine


@pytest.fixture(scope="module")
def service(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(toy_bundle, tmp_path_factory.mktemp("data"), admin_key="admin-key") as running:
        running.client.headers.update(ADMIN)
        yield running


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three good bundles of other versions than the one that the service starts with."""
    directory = tmp_path_factory.mktemp("bundles")
    return [write_toy(directory / str(seed), seed=seed).path for seed in (1, 2, 3)]


def with_published(url: str, work: Callable[[PublishedVersions], Awaitable[Result]]) -> Result:
    """Do something with the versions published in a store."""

    async def do() -> Result:
        store = Store(url, max_connections=4, slow_s=5.0, breaker=Breaker())
        try:
            return await work(PublishedVersions(store, "retort"))
        finally:
            await store.close()

    return asyncio.run(do())


def upload(service: Running, path: Path) -> str:
    """Put a bundle into the store untried, and return its version."""
    url = f"unix://{service.data_dir}/server.sock"
    return with_published(url, lambda published: published.upload(path)).version


def activate(service: Running, version: str) -> dict[str, Any]:
    response = service.client.post("/model/activate", json={"version": version})
    assert response.status_code == 200, response.text
    return response.json()


def served(service: Running) -> str:
    return service.recommend(history=["i1"], k=1)["model_version"]


def make_live(service: Running, path: Path) -> str:
    """Upload and activate a good bundle, and wait until it is served."""
    version = upload(service, path)
    activate(service, version)
    wait(lambda: served(service) == version)
    wait_reported(service, version)
    return version


def wait_reported(service: Running, version: str) -> None:
    """Wait until the store knows that a version is served: there is no way back to one that nobody has served."""
    url = f"unix://{service.data_dir}/server.sock"
    wait(lambda: version in [r.version for r in with_published(url, lambda published: published.replicas())])


def refusals(service: Running) -> list[dict[str, Any]]:
    return [line for line in service.log_lines() if line["event"] == "model_refused"]


def rewrite(path: Path, name: str, data: bytes, **fields: Any) -> Path:
    """Replace a file of a bundle and make its manifest's sums right again."""
    (path / name).write_bytes(data)
    return rewrite_manifest(path, **fields)


def rewrite_manifest(path: Path, **fields: Any) -> Path:
    manifest = json.loads((path / MANIFEST).read_text())
    for name, entry in manifest["files"].items():
        content = (path / name).read_bytes()
        entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    manifest.update(version=bundle_version(manifest["files"]), **fields)
    (path / MANIFEST).write_text(json.dumps(manifest))
    return path


def array(path: Path, name: str = EMBEDDINGS) -> np.ndarray:
    return np.load(path / name)


def save(path: Path, values: np.ndarray) -> bytes:
    np.save(path / "aside.npy", values)
    data = (path / "aside.npy").read_bytes()
    (path / "aside.npy").unlink()
    return data


def test_published_bundle_is_served_without_a_restart_and_rolled_back(service: Running, bundles: list[Path]) -> None:
    data = ["--data-dir", str(service.data_dir)]
    before = service.metric("retort_model_swaps_total", result="ok")

    first = run_command("publish", str(bundles[0]), *data, "--wait", "50")
    version = served(service)
    second = run_command("publish", str(bundles[1]), *data, "--wait", "50")
    newer = served(service)
    back = run_command("rollback", *data, "--wait", "50")

    assert (first.returncode, second.returncode, back.returncode) == (0, 0, 0), first.stderr + back.stderr
    assert f"published {version}" in first.stderr and "served by 1 processes" in first.stderr
    assert f"live: {newer}" in second.stderr
    assert served(service) == version != newer
    assert service.client.get("/model").json()["version"] == version
    assert service.metric("retort_model_swaps_total", result="ok") == before + 3
    assert service.metric("retort_model_generation_min") == service.metric("retort_model_generation_max")


def test_status_lists_versions_the_live_one_and_who_serves_it(service: Running, bundles: list[Path]) -> None:
    version = make_live(service, bundles[0])

    done = run_command("status", "--data-dir", str(service.data_dir))

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["live"]["version"] == version
    assert version in [listed["version"] for listed in said["versions"]]
    assert [(replica["version"], replica["result"]) for replica in said["replicas"]] == [(version, "ok")]
    assert f"live  {version}" in done.stdout


def test_rollback_is_a_toggle_and_needs_no_second_fetch(service: Running, bundles: list[Path]) -> None:
    first, second = make_live(service, bundles[0]), make_live(service, bundles[1])
    n_loaded = len([line for line in service.log_lines() if line["event"] == "model_loaded"])

    for expected in (first, second, first):
        answer = service.client.post("/model/rollback").json()
        assert answer["live"] == expected
        wait(lambda expected=expected: served(service) == expected)
        wait_reported(service, expected)

    assert len([line for line in service.log_lines() if line["event"] == "model_loaded"]) == n_loaded


def test_answers_after_a_swap_are_those_of_the_new_version(service: Running, bundles: list[Path]) -> None:
    make_live(service, bundles[0])
    service.send({"user_id": "swapped", "item_id": "i7"}, {"user_id": "swapped", "item_id": "i9"})
    old = service.recommend(user_id="swapped", k=5)

    make_live(service, bundles[1])
    new, again = service.recommend(user_id="swapped", k=5), service.recommend(user_id="swapped", k=5)

    direct = service.recommend(history=["i7", "i9"], k=5)
    assert new["items"] == again["items"] == direct["items"] != old["items"]
    assert new["quality"] == {"level": "full", "reasons": []}


def test_no_answer_fails_or_mixes_versions_while_they_are_swapped(service: Running, bundles: list[Path]) -> None:
    versions = [make_live(service, path) for path in bundles]
    is_over = threading.Event()
    answers: list[tuple[int, str, str]] = []

    def ask() -> None:
        with httpx.Client(base_url=service.url, headers=ADMIN, timeout=10, trust_env=False) as client:
            while not is_over.wait(0.005):  # no more: what loads a version steps back behind requests
                response = client.post("/recommend", json={"history": ["i1", "i2"], "k": 5, "budget_ms": 1000})
                body = response.json()
                answers.append((response.status_code, body["model_version"], json.dumps(body["items"])))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for version in versions:
            activate(service, version)
            wait(lambda version=version: served(service) == version)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()

    assert {status for status, _, _ in answers} == {200}
    assert len({(version, items) for _, version, items in answers}) == len({version for _, version, _ in answers}) == 3


DAMAGED_BUNDLES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "table of another dim": (
        lambda path: rewrite(path, EMBEDDINGS, save(path, array(path)[:, :4])), "rejected_schema", EMBEDDINGS,
    ),
    "table with NaN": (
        lambda path: rewrite(path, EMBEDDINGS, save(path, array(path) * np.nan)), "rejected_schema", EMBEDDINGS,
    ),
    "table that is no array": (lambda path: rewrite(path, EMBEDDINGS, b"no array"), "rejected_schema", EMBEDDINGS),
    "items missing": (
        lambda path: rewrite(path, ITEMS, (path / ITEMS).read_bytes().partition(b"\n")[2]), "rejected_schema", ITEMS,
    ),
    "encoder of another dim": (
        lambda path: rewrite(path, ENCODER, mean_encoder(dim=4)), "rejected_canary", "golden answer",
    ),
    "encoder that is no graph": (lambda path: rewrite(path, ENCODER, b"no graph"), "rejected_schema", "onnxruntime"),
    "encoder that gives NaN": (
        lambda path: rewrite(path, ENCODER, mean_encoder(scale=float("nan"))), "rejected_canary", "golden answer",
    ),
    "encoder that asks for 14 GB": (
        lambda path: rewrite(path, ENCODER, mean_encoder(wasted=60_000)), "rejected_canary", "golden answer",
    ),
    "answers differ from golden": (
        lambda path: rewrite(path, ENCODER, mean_encoder(scale=1.01)), "rejected_canary", "golden answer",
    ),
    "rows exchanged": (
        lambda path: rewrite(path, EMBEDDINGS, save(path, array(path)[::-1])), "rejected_canary", "golden answer",
    ),
    "another number of items": (
        lambda path: rewrite_manifest(path, n_items=N_ITEMS + 1), "rejected_schema", EMBEDDINGS,
    ),
    "dim not that of the table": (lambda path: rewrite_manifest(path, dim=DIM + 1), "rejected_schema", EMBEDDINGS),
}  # fmt: skip
"""What is done to a bundle whose sums are right: the damage, the result counted, what the message names."""


@pytest.mark.parametrize("name", DAMAGED_BUNDLES)
def test_bad_bundle_is_refused_by_name_and_the_old_one_serves_on(
    service: Running, bundles: list[Path], tmp_path: Path, name: str
) -> None:
    good = make_live(service, bundles[0])
    damage, result, named = DAMAGED_BUNDLES[name]
    path = damage(write_toy(tmp_path / "bundle", seed=9).path)
    n_before, n_counted = len(refusals(service)), service.metric("retort_model_swaps_total", result=result)

    bad = upload(service, path)
    activate(service, bad)

    line = wait(lambda: refusals(service)[n_before:])[0]
    assert (line["result"], line["model_version"]) == (result, bad)
    assert named in line["message"]
    assert served(service) == good
    assert service.metric("retort_model_swaps_total", result=result) == n_counted + 1
    assert not (service.data_dir / "releases" / bad).exists()


def cut_chunk(service: Running, version: str) -> None:
    key = f"retort:release:{version}:{EMBEDDINGS}:0"
    service.store().set(key, service.store().get(key)[:-1])


def drop_chunk(service: Running, version: str) -> None:
    service.store().delete(f"retort:release:{version}:{ITEMS}:0")


def flip_bit(service: Running, version: str) -> None:
    key = f"retort:release:{version}:{EMBEDDINGS}:0"
    value = bytearray(service.store().get(key))
    value[200] ^= 1
    service.store().set(key, bytes(value))


def forge_chunk(service: Running, version: str) -> None:
    """Another content, with the sum of its own chunk right."""
    key = f"retort:release:{version}:{EMBEDDINGS}:0"
    data = bytearray(service.store().get(key)[4:])
    data[-1] ^= 1
    service.store().set(key, zlib.crc32(data).to_bytes(4, "little") + bytes(data))


def cut_manifest(service: Running, version: str) -> None:
    key = f"retort:release:{version}:table"
    service.store().set(key, service.store().get(key)[:-20])


def forge_manifest(service: Running, version: str) -> None:
    key = f"retort:release:{version}:table"
    service.store().set(key, service.store().get(key).replace(b"dim", b"dIm", 1))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (cut_chunk, f"{EMBEDDINGS}: chunk 0"), (drop_chunk, f"{ITEMS}: chunk 0"), (flip_bit, f"{EMBEDDINGS}: chunk 0"),
        (forge_chunk, f"{EMBEDDINGS}: its sha256"), (cut_manifest, "manifest"), (forge_manifest, "manifest"),
    ],
)  # fmt: skip
def test_damage_in_the_store_is_refused_by_name_and_repaired_by_publishing_again(
    service: Running, bundles: list[Path], tmp_path: Path, damage: Callable[[Running, str], None], named: str
) -> None:
    good = make_live(service, bundles[0])
    path = write_toy(tmp_path / "bundle", seed=int.from_bytes(named.encode()[-3:]) + len(damage.__name__)).path
    version = upload(service, path)
    damage(service, version)
    n_before = len(refusals(service))

    activate(service, version)

    line = wait(lambda: refusals(service)[n_before:])[0]
    assert (line["result"], line["model_version"]) == ("rejected_checksum", version)
    assert named in line["message"]
    assert served(service) == good
    assert make_live(service, path) == version


def test_publish_refuses_a_bad_bundle_and_leaves_the_store_alone(
    service: Running, bundles: list[Path], tmp_path: Path
) -> None:
    good = make_live(service, bundles[0])
    path = rewrite(write_toy(tmp_path / "bundle", seed=8).path, ENCODER, mean_encoder(scale=2.0))

    done = run_command("publish", str(path), "--data-dir", str(service.data_dir))

    assert done.returncode == 2
    assert "not published" in done.stderr and "golden answer" in done.stderr
    assert served(service) == good
    assert not service.store().keys(f"retort:release:{json.loads((path / MANIFEST).read_text())['version']}:*")


def test_version_that_is_not_fit_to_serve_is_compared_with_nothing(service: Running, tmp_path: Path) -> None:
    path = rewrite(write_toy(tmp_path / "bundle", seed=9).path, ENCODER, mean_encoder(scale=2.0))
    version = upload(service, path)

    response = service.client.post("/model/compare", json={"version": version}, timeout=60)

    assert (response.status_code, response.json()["error"]["code"]) == (409, "version_refused")
    assert "golden answer" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code"),
    [
        ("/model/activate", {"version": "0" * 16}, ADMIN, 404, "not_found"),
        ("/model/activate", {"version": "x"}, ADMIN, 422, "malformed"),
        ("/model/activate", {}, ADMIN, 422, "malformed"),
        ("/model/activate", {"version": "0" * 16, "more": 1}, ADMIN, 422, "malformed"),
        ("/model/activate", {"version": "0" * 16}, {"X-API-Key": "other"}, 403, "wrong_key"),
        ("/model/rollback", None, {"X-API-Key": ""}, 401, "no_key"),
    ],
)
def test_flip_over_http_is_refused_when_asked_wrongly(
    service: Running, path: str, body: Any, headers: dict[str, str], status: int, code: str
) -> None:
    response = httpx.post(service.url + path, json=body, headers=headers, timeout=10, trust_env=False)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_flip_over_http_needs_an_admin_key_even_where_no_key_is_set(shared_service: Running) -> None:
    response = shared_service.client.post("/model/rollback")

    assert (response.status_code, response.json()["error"]["code"]) == (403, "admin_key_needed")


def test_file_of_many_chunks_arrives_whole(service: Running, tmp_path: Path) -> None:
    path = write_toy(tmp_path / "large", n_items=20_000, seed=5).path
    assert (path / EMBEDDINGS).stat().st_size > 2 * CHUNK_BYTES

    version = make_live(service, path)

    fetched = service.data_dir / "releases" / version
    assert (fetched / EMBEDDINGS).read_bytes() == (path / EMBEDDINGS).read_bytes()
    assert service.metric("retort_items") == 20_000


def test_old_versions_leave_the_store_but_never_the_live_one_or_the_one_before(
    tmp_path: Path, service: Running
) -> None:
    paths = [write_toy(tmp_path / str(seed), seed=seed).path for seed in range(20, 20 + KEPT_VERSIONS + 2)]
    live, previous = make_live(service, paths[0]), served(service)
    versions = [upload(service, path) for path in paths[1:]]
    url = f"unix://{service.data_dir}/server.sock"

    removed = with_published(url, lambda published: published.prune())

    left = {published.version for published in with_published(url, lambda published: published.listed())}
    assert {live, previous, *versions[-KEPT_VERSIONS:]} <= left
    assert not left & set(removed)
    assert not [key for version in removed for key in service.store().keys(f"retort:release:{version}:*")]


@pytest.fixture(scope="module")
def followed(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory, bundles: list[Path]) -> tuple[Path, str]:
    """A data directory whose store has a live version, which a service has served: and which it is."""
    data_dir = tmp_path_factory.mktemp("followed")
    done = run_command("publish", str(bundles[2]), "--data-dir", str(data_dir))
    assert done.returncode == 0, done.stderr
    with Running(toy_bundle, data_dir) as service:
        live = served(service)
    return data_dir, live


def test_live_version_wins_over_the_bundle_at_the_next_start_and_without_a_store_too(
    toy_bundle: Path, bundles: list[Path], followed: tuple[Path, str]
) -> None:
    data_dir, live = followed
    with Running(toy_bundle, data_dir, redis_url=f"unix://{data_dir}/nobody.sock") as service:
        without_store = served(service)

    assert live == without_store == json.loads((bundles[2] / MANIFEST).read_text())["version"]


def test_pinned_service_serves_its_bundle_whatever_is_live(
    toy_bundle: Path, bundles: list[Path], followed: tuple[Path, str]
) -> None:
    data_dir, live = followed
    with Running(toy_bundle, data_dir, "--pin", admin_key="admin-key") as service:
        service.client.headers.update(ADMIN)
        kept = served(service)
        flipped = activate(service, upload(service, bundles[1]))
        still = served(service)
        followers = with_published(f"unix://{data_dir}/server.sock", lambda published: published.replicas())
        activate(service, live)

    assert kept == still == json.loads((toy_bundle / MANIFEST).read_text())["version"] != flipped["live"]
    assert not followers


def test_bundle_damaged_on_disk_after_its_trial_is_fetched_anew(toy_bundle: Path, followed: tuple[Path, str]) -> None:
    data_dir, live = followed
    with (data_dir / "releases" / live / ITEMS).open("ab") as file:
        file.write(b"damage")

    with Running(toy_bundle, data_dir) as service:
        wait(lambda: served(service) == live)
        refused = refusals(service)

    assert [line["result"] for line in refused] == ["error"]
    assert f"{ITEMS}: " in refused[0]["message"]


def test_every_worker_follows_and_one_of_them_fetches(toy_bundle: Path, tmp_path: Path, bundles: list[Path]) -> None:
    with Running(toy_bundle, tmp_path, "--workers", "2") as several:
        with several.store() as store:
            store.config_set("slowlog-max-len", 100_000)
            store.config_set("slowlog-log-slower-than", 0)  # every command
            done = run_command("publish", str(bundles[0]), "--data-dir", str(tmp_path), "--wait", "50")
            asked = [entry["command"].split() for entry in store.slowlog_get(-1)]
        swapped = [line for line in several.log_lines() if line["event"] == "model_swapped"]
        read = [words[1] for words in asked if words[0] == b"GETRANGE" and b":experiment" not in words[1]]

    assert done.returncode == 0, done.stderr
    assert "served by 2 processes" in done.stderr
    assert len(swapped) == 2
    assert len(read) == len(set(read)) == 4  # chunks of four files, once


def test_store_that_holds_no_release_raises_nothing(service: Running) -> None:
    url = f"unix://{service.data_dir}/server.sock"
    service.store().set("other:release:live", "no record")

    async def read(published: PublishedVersions) -> object:
        return await PublishedVersions(published._store, "nothing").live()

    assert with_published(url, read) is None
    with pytest.raises(StoreError):
        with_published(url, lambda published: PublishedVersions(published._store, "other").live())


def test_way_back_leads_past_a_version_that_nobody_could_serve(
    service: Running, bundles: list[Path], tmp_path: Path
) -> None:
    good = make_live(service, bundles[0])
    bad = write_toy(tmp_path / "bad", seed=11).path
    bad = rewrite(bad, EMBEDDINGS, save(bad, np.full_like(array(bad), np.nan)))
    activate(service, upload(service, bad))
    wait(lambda: [line["result"] for line in status_of(service)["replicas"]] != ["ok"])
    make_live(service, bundles[1])

    answer = service.client.post("/model/rollback").json()

    assert answer["live"] == good
    wait(lambda: served(service) == good)


def test_upload_cut_short_leaves_nothing_that_stays(service: Running, tmp_path: Path) -> None:
    path = write_toy(tmp_path / "cut", n_items=20_000, seed=12).path  # of more chunks than are sent at once
    version = json.loads((path / MANIFEST).read_text())["version"]
    (path / ITEMS).unlink()  # the last file in the order of names

    with pytest.raises(FileNotFoundError):
        upload(service, path)
    store = service.store()
    left = {key: store.ttl(key) for key in store.keys(f"retort:release:{version}:*")}
    whole = upload(service, write_toy(tmp_path / "whole", n_items=20_000, seed=12).path)
    kept = {key: store.ttl(key) for key in store.keys(f"retort:release:{whole}:*")}
    store.close()

    assert left and min(left.values()) > 0
    assert set(kept.values()) == {-1}


def test_trial_that_is_killed_is_begun_again(service: Running, bundles: list[Path], tmp_path: Path) -> None:
    good = make_live(service, bundles[0])
    n_before = len(refusals(service))
    version = upload(service, write_toy(tmp_path / "slow", seed=13, encoder=mean_encoder(wasted=2000)).path)

    activate(service, version)
    (trial,) = wait_for(lambda: children_of(service.process.pid, b"service.release.trial"), 30, 0.001)
    os.kill(trial, signal.SIGKILL)

    refused = wait(lambda: refusals(service)[n_before:])[0]
    assert (refused["result"], refused["model_version"]) == ("error", version)
    assert "ended with code" in refused["message"]
    assert service.client.get("/readyz").json()["model_version"] in (good, version)
    wait(lambda: served(service) == version)


def status_of(service: Running) -> dict[str, Any]:
    done = run_command("status", "--data-dir", str(service.data_dir))
    return json.loads(done.stdout.splitlines()[-1])


def test_after_the_store_was_emptied_everybody_says_what_is_served(toy_bundle: Path, tmp_path: Path) -> None:
    other = write_toy(tmp_path / "other", seed=7)
    data = ("--data-dir", str(tmp_path / "data"))
    with Running(toy_bundle, tmp_path / "data") as service:
        assert run_command("publish", str(other.path), *data, "--wait", "60").returncode == 0
        service.store().flushall()
        (lost,) = wait_for(lambda: [line for line in service.log_lines() if line["event"] == "release_lost"])
        status = wait_for(lambda: (done := run_command("status", *data)) and "serves" in done.stdout and done.stdout)
        answer = service.recommend(history=["i1"])
        assert run_command("publish", str(toy_bundle), *data, "--wait", "60").returncode == 0
        again = service.recommend(history=["i1"])

    assert lost["model_version"] == answer["model_version"] == other.manifest.version
    assert "the store names no live version" in status
    assert f"serves {other.manifest.version}" in status
    assert again["model_version"] != other.manifest.version


@pytest.mark.parametrize("version", ["../x", "", "0" * 15, "A" * 16, "\u0660" * 16, "a\nb", "x" * 5000])
def test_text_that_is_no_version_is_refused_before_the_store_is_asked(tmp_path: Path, version: str) -> None:
    done = run_command("activate", version, redis_url=f"unix://{tmp_path}/nobody.sock")

    assert done.returncode == 2
    assert "is no version: 16 digits or letters from a to f" in done.stderr and len(done.stderr) < 300


def test_waiting_counts_who_serves_though_the_store_was_just_emptied(toy_bundle: Path, tmp_path: Path) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    with Running(toy_bundle, tmp_path / "data") as service:
        wait(lambda: status_of(service)["replicas"])
        service.store().flushall()
        new = write_toy(tmp_path / "new", seed=9)
        done = run_command("publish", str(new.path), *data, "--wait", "60")
        answer = service.recommend(history=["i1"])
    assert run_command("activate", new.manifest.version, *data, "--wait", "1").stderr.endswith(
        "follows this store now\n"
    )

    assert done.returncode == 0, done.stderr
    assert "served by 1 processes" in done.stderr
    assert answer["model_version"] == new.manifest.version


@pytest.mark.parametrize(("n_fields", "n_bytes"), [(50_000, 50), (20, 1 << 20)])
def test_a_list_that_is_too_large_is_as_good_as_none(
    toy_bundle: Path, tmp_path: Path, n_fields: int, n_bytes: int
) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    with Running(toy_bundle, tmp_path / "data") as service:
        store = service.store()
        for name, first in itertools.product(("replicas", "versions"), range(0, n_fields, 1000)):
            fields = {f"x{n}": "y" * n_bytes for n in range(first, min(first + 1000, n_fields))}
            store.hset(f"retort:release:{name}", mapping=fields)
        done = run_command("publish", str(write_toy(tmp_path / "new", seed=9).path), *data, "--wait", "60")
        status = run_command("status", *data)

    assert done.returncode == 0, done.stderr
    assert status.returncode == 0 and "live" in status.stdout


def test_waiting_for_a_release_is_not_over_where_numbers_begin_anew(toy_bundle: Path, tmp_path: Path) -> None:
    new = write_toy(tmp_path / "new", seed=9)
    with Running(toy_bundle, tmp_path / "data") as service:
        live = {"version": "0" * 16, "number": (1 << 53) - 1, "since": 1.0, "previous": None}
        service.store().set("retort:release:live", json.dumps(live))
        wait(lambda: [line for line in service.log_lines() if line["event"] == "model_refused"])
        done = run_command("publish", str(new.path), "--data-dir", str(tmp_path / "data"), "--wait", "60")
        served = service.recommend(history=["i1"])["model_version"]

    assert done.returncode == 0, done.stderr
    assert served == new.manifest.version


def test_commands_name_the_store_where_its_record_cannot_be_read(toy_bundle: Path, tmp_path: Path) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    with Running(toy_bundle, tmp_path / "data") as service:
        service.store().set("retort:release:live", "junk")
        back = run_command("rollback", *data)
        service.store().delete("retort:release:live")

    assert back.returncode == 2
    assert back.stderr.startswith("retort: the store: ") and "'status' says what is live" in back.stderr


def test_publish_if_live_takes_the_place_of_that_version_alone(service: Running, tmp_path: Path) -> None:
    place = ("--data-dir", str(service.data_dir))
    paths = [write_toy(tmp_path / str(seed), seed=seed) for seed in (71, 72, 73)]
    first, second, _ = (bundle.manifest.version for bundle in paths)
    assert run_command("publish", str(paths[0].path), *place).returncode == 0

    taken = run_command("publish", str(paths[1].path), *place, "--if-live", first)
    late = run_command("publish", str(paths[2].path), *place, "--if-live", first)
    none = run_command("publish", str(paths[2].path), *place, "--if-live", "none")
    wrong = run_command("publish", str(paths[2].path), *place, "--if-live", "the last")

    assert taken.returncode == 0, taken.stderr
    assert [done.returncode for done in (late, none, wrong)] == [2, 2, 2]
    assert f"retort: uploaded, and not made live: {second} is live, not {first}" in late.stderr
    assert f"{second} is live, not none" in none.stderr and "'the last' is no version" in wrong.stderr
    live = with_published(f"unix://{service.data_dir}/server.sock", lambda published: published.live())
    assert live is not None and live.version == second


def test_what_a_refresh_says_of_student_and_teacher_is_a_metric_of_the_service(service: Running) -> None:
    done = run_command("agreement", "0.31", "0.5", "0.4", "--data-dir", str(service.data_dir))
    assert done.returncode == 0, done.stderr

    wait(lambda: service.metric("retort_refresh_agreement", of="live") == 0.31)

    assert service.metric("retort_refresh_agreement", of="least") == 0.4
    assert run_command("agreement", "31", "0.5", "0.4", "--data-dir", str(service.data_dir)).returncode == 2
