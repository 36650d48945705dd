"""Whatever the store holds under the keys of releases, the follower lives on, and follows the next good version."""

import asyncio
import hashlib
import io
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.bundle import MANIFEST, read_manifest
from service.errors import RefusedError, StoreError
from service.experiment.shelf import ExperimentShelf
from service.logs import Log
from service.metrics import Metrics
from service.release.beside import BesideFollower
from service.release.fetched import FetchedBundles
from service.release.follower import Follower
from service.release.generation import Generations
from service.release.loader import VersionLoader
from service.release.published import PublishedVersions
from service.release.record import MAX_NUMBER, Agreement
from service.release.signature import Trust
from service.store.breaker import Breaker
from service.store.client import Store
from service.store.embedded import socket_path
from tests.service.running import Running, run_command, wait_for
from tests.service.toy import write_toy

PREFIX = "junk:release:"
Work = Callable[["Room"], Awaitable[Any]]


class FakeCatalogue:
    search = SimpleNamespace(recall=1.0)

    def __len__(self) -> int:
        return 1

    def dissolve(self) -> tuple[()]:
        return ()


class FakeGeneration:
    """What the follower needs of a generation."""

    def __init__(self, version: str, number: int) -> None:
        self.version, self.number, self.live_since = version, number, 0.0
        self.part, self.n_held = None, 0
        self.recommender = SimpleNamespace(close=self._nothing, rest=self._nothing)
        self.catalogue = FakeCatalogue()

    async def _nothing(self) -> None:
        pass


class Room:
    """A follower of a namespace of its own, in a real store."""

    def __init__(self, url: str, directory: Path) -> None:
        self.stream = io.StringIO()
        self.store = Store(url, max_connections=4, slow_s=5.0, breaker=Breaker())
        self.published = PublishedVersions(self.store, "junk")
        self.log, self.metrics = Log(stream=self.stream), Metrics("0")
        trust = Trust("junk", [], is_required=False, on_unsigned=lambda: None)
        fetched = FetchedBundles(directory, self.published, self._try, trust)
        loader = VersionLoader(fetched, self._load, self.log)
        shelf = ExperimentShelf(self.store, "junk")
        self.beside = BesideFollower(shelf, self.published, loader, self.metrics, self.log, shadow_s=1.0)
        self.follower = Follower(self.published, fetched, loader, self.beside, self.metrics, self.log)
        self.generations = Generations(FakeGeneration("f" * 16, 1))

    async def look(self) -> None:
        self.follower._again_at = 0.0  # as after a while
        await self.follower._look(self.generations)

    async def _try(self, path: Path) -> None:
        pass

    def _load(self, path: Path, number: int) -> FakeGeneration:
        return FakeGeneration(read_manifest(path).version, number)


@pytest.fixture(scope="module")
def server(shared_service: Running) -> Iterator[redis.Redis]:
    client = shared_service.store()
    yield client
    for key in client.keys("junk:*"):
        client.delete(key)
    client.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("good") / "bundle", seed=77).path


@pytest.fixture
def in_room(shared_service: Running, tmp_path: Path) -> Callable[[Work], Any]:
    def run(work: Work) -> Any:
        async def do() -> Any:
            room = Room(f"unix://{socket_path(shared_service.data_dir)}", tmp_path / "releases")
            try:
                return await work(room)
            finally:
                await room.store.close()
                room.log.close()

        return asyncio.run(do())

    return run


async def publish(room: Room, path: Path) -> str:
    version = (await room.published.upload(path)).version
    await room.published.activate(version)
    return version


def table_of(manifest: bytes, **fields: Any) -> bytes:
    whole = {"chunk_bytes": 1 << 18, "manifest": manifest.decode(), "sha256": hashlib.sha256(manifest).hexdigest()}
    return json.dumps(whole | fields).encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6,
)  # fmt: skip
VERSIONS = st.sampled_from(["0" * 16, "abcdef0123456789", "", "../../../../etc", "\ud800", "a\nb", "A" * 16]) | JSON
NUMBERS = st.sampled_from([0, 1, -1, 2**53, 2**63, 10**400, 1e308, True, "7", MAX_NUMBER]) | JSON
RECORDS = st.fixed_dictionaries(
    {}, optional={
        "version": VERSIONS, "number": NUMBERS, "previous": VERSIONS, "since": NUMBERS, "at": NUMBERS, "result": JSON,
        "message": JSON, "n_items": NUMBERS, "dim": NUMBERS, "bytes": NUMBERS, "published_at": NUMBERS,
        "chunk_bytes": NUMBERS, "manifest": JSON, "sha256": JSON, "signature": JSON,
    },
)  # fmt: skip
TEXTS = st.binary(max_size=64) | (RECORDS | JSON).map(lambda value: json.dumps(value).encode())
KEYS = st.sampled_from(["live", "versions", "replicas", "table"])
KINDS = st.sampled_from(["string", "hash", "list", "set", "zset", "stream"])


def put(server: redis.Redis, key: str, kind: str, name: bytes, value: bytes) -> None:
    server.delete(key)
    match kind:
        case "string":
            server.set(key, value)
        case "hash":
            server.hset(key, name, value)
        case "list":
            server.rpush(key, value)
        case "set":
            server.sadd(key, value)
        case "zset":
            server.zadd(key, {value: 1.0})
        case "stream":
            server.xadd(key, {"event": value})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    junk=st.lists(st.tuples(KEYS, KINDS, TEXTS, TEXTS), max_size=6),
    live=st.one_of(st.none(), st.fixed_dictionaries({"number": st.integers(2, MAX_NUMBER)})),
)  # fmt: skip
def test_no_junk_ends_the_following(
    server: redis.Redis, good: Path, in_room: Callable[[Work], Any], junk: list[Any], live: dict[str, int] | None
) -> None:
    wanted = read_manifest(good).version
    for name in ("live", "versions", "replicas", f"{wanted}:table"):
        server.delete(PREFIX + name)
    for name, kind, field, value in junk:
        key = PREFIX + (f"{wanted}:table" if name == "table" else name)
        put(server, key, "hash" if kind == "string" and name in ("versions", "replicas") else kind, field, value)
    if live is not None:
        server.set(PREFIX + "live", json.dumps({"version": wanted, "previous": None, "since": 1.0, **live}))

    async def work(room: Room) -> str:
        await room.look()
        await room.published.listed()
        version = await publish(room, good)
        await room.look()
        await room.published.prune()
        assert room.generations.live.version == version, room.stream.getvalue()
        return version

    assert in_room(work) == wanted


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "lone surrogate": lambda fields: fields["files"].update({"\ud800": fields["files"]["items.jsonl"]}),
    "newline": lambda fields: fields["files"].update({"a\nb": fields["files"]["items.jsonl"]}),
    "another directory": lambda fields: fields["files"].update({"../x": fields["files"]["items.jsonl"]}),
    "name that we know not": lambda fields: fields["files"].update({"extra.npy": fields["files"]["items.jsonl"]}),
    "its own name": lambda fields: fields["files"].update({MANIFEST: fields["files"]["items.jsonl"]}),
    "size of a text": lambda fields: fields["files"]["items.jsonl"].update(size="7"),
    "size too large": lambda fields: fields["files"]["items.jsonl"].update(size=10**30),
    "negative size": lambda fields: fields["files"]["items.jsonl"].update(size=-1),
    "sum of a list": lambda fields: fields["files"]["items.jsonl"].update(sha256=["0"]),
    "files of a list": lambda fields: fields.update(files=[]),
    "surrogate in a text": lambda fields: fields.update(created_at="\udfff"),
    "number too large": lambda fields: fields.update(quality={"a": [10**40]}),
    "deep": lambda fields: fields.update(quality=nested(500)),
    "dim too large": lambda fields: fields.update(dim=10**12),
    "format of a truth": lambda fields: fields.update(format=True),
    "version of another": lambda fields: fields.update(version="../../etc/passwd"),
}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("name", MANIFESTS)
def test_strange_manifest_is_refused_and_counted_once_and_the_next_version_is_followed(
    server: redis.Redis, good: Path, in_room: Callable[[Work], Any], name: str
) -> None:
    fields = json.loads((good / MANIFEST).read_text())
    MANIFESTS[name](fields)
    strange = "a" * 16
    server.set(f"{PREFIX}{strange}:table", table_of(json.dumps(fields).encode()))
    server.set(PREFIX + "live", json.dumps({"version": strange, "number": 5, "previous": None, "since": 1.0}).encode())

    async def work(room: Room) -> Room:
        for _ in range(3):
            await room.look()
        with pytest.raises((RefusedError, StoreError)):
            await room.published.activate("b" * 16)
        assert room.metrics.model_swaps["rejected_schema"]._value.get() == 1
        version = await publish(room, good)
        await room.look()
        assert room.generations.live.version == version
        return room

    room = in_room(work)

    lines = [json.loads(line) for line in room.stream.getvalue().splitlines()]
    refused = [line for line in lines if line["event"] == "model_refused"]
    assert [line["result"] for line in refused] == ["rejected_schema"]
    assert strange in refused[0]["message"]


def test_table_that_claims_huge_chunks_is_refused_before_one_is_read(
    server: redis.Redis, good: Path, in_room: Callable[[Work], Any]
) -> None:
    text = (good / MANIFEST).read_bytes()
    version = read_manifest(good).version
    server.set(f"{PREFIX}{version}:table", table_of(text, chunk_bytes=1 << 30))

    async def work(room: Room) -> None:
        with pytest.raises(RefusedError, match="manifest"):
            await room.published.table(version)

    in_room(work)


async def refuse_then(room: Room, server: redis.Redis, refused: bytes, then: bytes | None) -> list[str]:
    """Return what a process says of itself after a live record that it refuses, and after another one or none."""
    said = []
    for record in (refused, then):
        if record is None:
            server.delete(PREFIX + "live")
        else:
            server.set(PREFIX + "live", record)
        room.follower._reported_at = -1e9  # as after a while
        await room.look()
        said += [replica.result for replica in await room.published.replicas()]
    return said


SERVED = json.dumps({"version": "f" * 16, "number": 3, "previous": None, "since": 1.0}).encode()
"""A live record of the version that a room begins with."""


@pytest.mark.parametrize("refused", [b"junk", SERVED.replace(b"f" * 16, b"e" * 16)], ids=["junk", "missing"])
@pytest.mark.parametrize("then", [None, SERVED], ids=["emptied", "served"])
def test_what_was_refused_is_not_told_any_more_once_it_is_not_live(
    in_room: Callable[[Work], Any], server: redis.Redis, refused: bytes, then: bytes | None
) -> None:
    server.delete(PREFIX + "replicas")

    first, second = in_room(lambda room: refuse_then(room, server, refused, then))

    assert (first != "ok", second) == (True, "ok")


def test_error_that_nobody_foresaw_is_counted_and_tried_again_later(
    good: Path, in_room: Callable[[Work], Any], server: redis.Redis
) -> None:
    server.delete(PREFIX + "live")

    async def work(room: Room) -> Room:
        async def fail(live: Any) -> Path:
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

        bring, room.follower._fetched.bring = room.follower._fetched.bring, fail  # type: ignore[method-assign]
        version = await publish(room, good)
        await room.follower._look(room.generations)
        await room.follower._look(room.generations)  # too early
        assert room.metrics.model_swaps["error"]._value.get() == 1
        room.follower._fetched.bring = bring  # type: ignore[method-assign]
        await room.look()
        assert room.generations.live.version == version
        return room

    assert "UnicodeEncodeError" in in_room(work).stream.getvalue()


def test_service_starts_and_follows_with_junk_in_its_store(toy_bundle: Path, good: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path) as service:
        service.store().set("retort:release:live", b'{"version": "\\ud800", "number": "x"}')
        service.store().set("retort:release:versions", "no hash")
        service.store().set("retort:release:replicas", "no hash")
        wait_for(lambda: [line for line in service.log_lines() if line["event"] == "model_refused"])
    with Running(toy_bundle, tmp_path) as service:
        assert service.recommend(history=["i1"], k=1)["model_version"] == read_manifest(toy_bundle).version
        done = run_command("publish", str(good), "--data-dir", str(tmp_path), "--wait", "50")
        assert done.returncode == 0, done.stderr
        assert wait_for(lambda: service.recommend(history=["i1"], k=1)["model_version"] == read_manifest(good).version)
        assert service.metric("retort_model_swaps_total", result="error") >= 1
        assert orjson.loads(run_command("status", "--data-dir", str(tmp_path)).stdout.splitlines()[-1])["versions"]


@pytest.mark.parametrize(
    "junk", [b"", b"[]", b"{", b'{"live": 2, "offline": 0.5, "least": 0.4}', b'{"live": true}', b"x" * 5000]
)
def test_what_a_refresh_said_of_student_and_teacher_is_shown_and_junk_is_as_good_as_nothing(
    in_room: Callable[[Work], Any], server: redis.Redis, junk: bytes
) -> None:
    async def work(room: Room) -> tuple[list[float], list[float]]:
        shown = []
        server.set("junk:release:agreement", junk)
        for _ in range(2):
            room.follower._agreement_read_at = -1e9  # as after a while
            await room.follower._read_agreement()
            shown.append([gauge._value.get() for gauge in room.metrics.refresh_agreement.values()])
            await room.published.note_agreement(Agreement(0.31, 0.5, 0.4))
        return shown[0], shown[1]

    assert in_room(work) == ([0, 0, 0], [0.31, 0.5, 0.4])
