"""Answers of a running service, made again: real requests, a moving trend, live items, a real store."""

import asyncio
import io
import json
import random
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from service import __version__
from service.bundle import read_manifest
from service.command import replay as command
from service.errors import StartError
from service.item.shelf import ItemShelf, shard_of
from service.metrics import Metrics
from service.release.published import PublishedVersions
from service.replay.live import read_live
from service.replay.player import Player, Replayed
from service.replay.record import KeptAnswer, Surroundings, without_times
from tests.service.running import Running, run_command, wait_for
from tests.service.store.test_client import open_store
from tests.service.toy import N_ITEMS, described_items, toy_parts, write_toy_sum

SCENARIO = {"k": 6, "boost": [{"if": {"brand": "b1"}, "by": 3}], "diversity": 0.3}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    parts = [toy_parts(seed=seed, as_of=time.time() - 3600) for seed in (0, 1)]
    made = [write_toy_sum(folder / f"{n}", seed=n, parts=each, items=described_items()) for n, each in enumerate(parts)]
    return [each.path for each in made]


@pytest.fixture(scope="module")
def service(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("data")
    with Running(bundles[0], folder, replay_share="1", explore="0.3", api_keys="") as running:
        items = [{"item_id": f"n{n}", "title": f"new {n}", "attributes": {"brand": "b1"}} for n in range(8)]
        assert running.client.post("/items", json={"items": items}).json()["accepted"] == 8
        assert running.client.put("/scenarios/home", json=SCENARIO).status_code in (200, 201)
        running.send(*({"user_id": f"u{n % 20}", "item_id": f"i{n % 37}", "event_id": f"e{n}"} for n in range(200)))
        wait_for(lambda: running.recommend(user_id="u1", scenario="home", k=1)["items"])
        yield running


def kept(service: Running, answer_id: str) -> tuple[KeptAnswer, Surroundings]:
    """What is kept of an answer, once it is."""
    key = "retort:{retort:replay}:records"
    with service.store() as store:
        found = KeptAnswer.unpack(wait_for(lambda: store.hget(key, answer_id)))
        return found, Surroundings.unpack(store.hget(key, found.surroundings))


def play(service: Running, player: Player, found: KeptAnswer, around: Surroundings) -> Replayed:
    """The answer, made again."""

    async def do() -> Replayed:
        store = open_store(service)
        try:
            live = await read_live(ItemShelf(store, "retort"), around, 5)
        finally:
            await store.close()
        player.surround(found, around, live.records, None)
        return await player.answer(found)

    return asyncio.run(do())


def ask_somehow(service: Running, rng: random.Random) -> dict[str, Any]:
    """The body of an answer to some request."""
    who: dict[str, Any] = rng.choice([
        {"user_id": f"u{rng.randrange(20)}"},
        {"history": [f"i{rng.randrange(N_ITEMS)}" for _ in range(rng.randrange(1, 9))]},
        {"user_id": "a stranger"},
    ])  # fmt: skip
    how: dict[str, Any] = rng.choice([
        {}, {"k": 30, "exclude": ["i3", "n1"]}, {"filter": {"brand": ["b0", "b1"]}, "fields": ["title", "brand"]},
        {"scenario": "home"}, {"max_per": [{"attribute": "brand", "n": 2}], "pin": [{"item_id": "i9", "position": 2}]},
        {"trend": 3}, {"candidates": ["i1", "i2", "n3", "nobody"]}, {"explain": True, "k": 4},
        {"debug": True, "offset": 5}, {"exclude_seen": False, "boost": [{"if": {"brand": "b2"}, "by": 0.2}]},
    ])  # fmt: skip
    if rng.random() < 0.2:
        return service.similar(item_id=f"i{rng.randrange(N_ITEMS)}", **who)
    if rng.random() < 0.2:
        answers = service.batch(*[{**who, **how}] * 3)
        if answered := [each for each in answers if "error" not in each]:  # a busy machine refuses some of many lists
            return rng.choice(answered)
    return service.recommend(**who, **how)


def those_kept(service: Running, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with service.store() as store:
        ids = {each.decode() for each in store.hkeys("retort:{retort:replay}:records")}
    return [each for each in answers if each["recommendation_id"] in ids]


def test_answers_come_out_the_same_byte_for_byte_while_the_trend_moves(service: Running, bundles: list[Path]) -> None:
    rng = random.Random(7)
    answers = []
    for turn in range(50):
        answers.append(ask_somehow(service, rng))
        service.send({"user_id": f"u{turn % 20}", "item_id": f"i{rng.randrange(N_ITEMS)}"})

    def has_moved() -> bool:
        answers.append(ask_somehow(service, rng))
        found = those_kept(service, answers)
        oldest, newest = (kept(service, found[place]["recommendation_id"])[0] for place in (0, -1))
        return oldest.surroundings != newest.surroundings

    wait_for(lambda: bool(those_kept(service, answers)))
    wait_for(has_moved)
    wait_for(lambda: service.metric("retort_replay_records_total") >= len(answers))
    found = those_kept(service, answers)
    assert len(found) > 30  # but where the trend moved in between
    assert service.metric("retort_replay_records_total", result="failed") == 0

    player = Player(bundles[0], kind="auto", codes=service.data_dir / "index", metrics=Metrics(__version__))
    surroundings = set()
    for answer in found:
        record, around = kept(service, answer["recommendation_id"])
        surroundings.add(record.surroundings)
        body = without_times(json.dumps(answer).encode())
        assert json.loads(record.answer) == json.loads(body)
        assert play(service, player, record, around).body == record.answer, record
    assert any(each["quality"]["level"] == "full" and len(each["items"]) >= 4 for each in found)
    assert len(surroundings) > 1


def upload(service: Running, bundle: Path) -> None:
    """Put a version into the store."""

    async def do() -> None:
        store = open_store(service)
        try:
            await PublishedVersions(store, "retort").upload(bundle)
        finally:
            await store.close()

    asyncio.run(do())


def asking(service: Running, answer_id: str, bundle: Path, **more: Any) -> Namespace:
    asked = {"recommendation_id": answer_id, "bundle": bundle, "version": None, "json": True}
    return Namespace(**asked | {"data_dir": service.data_dir} | more)


def replay(service: Running, answer_id: str, bundle: Path, version: str | None = None) -> tuple[int, Any]:
    """The command's exit code, and the JSON that it prints."""
    shown = io.StringIO()
    with redirect_stdout(shown):
        code = command.replay(asking(service, answer_id, bundle, version=version))
    return code, json.loads(shown.getvalue())


def test_command_says_that_the_bytes_are_the_same(service: Running, bundles: list[Path]) -> None:
    answer = service.recommend(user_id="u3", scenario="home")
    kept(service, answer["recommendation_id"])

    code, said = replay(service, answer["recommendation_id"], bundles[0])

    assert (code, said["same"], said["notes"]) == (0, True, [])
    assert said["request"] == {"user_id": "u3", **SCENARIO}
    assert [line["item_id"] for line in said["items"]] == [item["item_id"] for item in answer["items"]]
    shown = io.StringIO()
    with redirect_stdout(shown):
        command.replay(asking(service, answer["recommendation_id"], bundles[0], json=False))
    assert "the same bytes: 6 items" in shown.getvalue()


def test_command_says_what_another_version_would_have_answered(service: Running, bundles: list[Path]) -> None:
    answer = service.recommend(user_id="u4", k=10)
    record, _ = kept(service, answer["recommendation_id"])
    upload(service, bundles[0])
    version = read_manifest(bundles[1]).version

    code, said = replay(service, answer["recommendation_id"], bundles[1], version)

    assert (code, said["same"], said["replayed_by"]) == (0, False, version)
    assert said["notes"] == ["the trend is that of the answer, as its version counted it"]
    assert {"came", "went"} <= {line["what"] for line in said["items"]}
    shown = {item["item_id"]: item["score"] for item in answer["items"]}
    for line in said["items"]:
        assert line["score_before"] == shown.get(line["item_id"])
        for which in ("before", "after"):
            assert (line[f"parts_{which}"] is None) == (line[which] is None)
            if line[which] is not None:
                assert sum(line[f"parts_{which}"].values()) == pytest.approx(line[f"score_{which}"], abs=1e-5)
    assert said["fields"]["model_version"] == [record.version, version]


def test_live_items_that_have_changed_since_are_named(service: Running, bundles: list[Path]) -> None:
    answer = service.recommend(user_id="u5", k=10)
    kept(service, answer["recommendation_id"])
    service.client.put("/items/brand-new", json={"title": "came later"})
    service.client.delete("/items/n2")
    service.client.patch("/items/i1", json={"title": "another title"})

    code, said = replay(service, answer["recommendation_id"], bundles[0])

    assert "live items have come since, and are left out: brand-new" in said["notes"]
    (changed,) = [note for note in said["notes"] if "have changed since" in note]
    assert {"n2", "i1"} == set(changed.partition(": ")[2].split(", "))
    assert code in (0, 1)


def let_go_of(service: Running, item_id: str) -> None:
    """Let an item make room, as where there are too many of them."""
    tag = f"retort:items:{{retort:items:{shard_of(item_id)}}}"
    with service.store() as store:
        assert store.hdel(f"{tag}:records", item_id) == store.zrem(f"{tag}:changes", item_id) == 1


def test_new_item_that_was_withdrawn_before_the_answer_moves_no_other(service: Running, bundles: list[Path]) -> None:
    for name in ("w0", "w1"):
        assert service.client.put(f"/items/{name}", json={"like": ["i5"]}).status_code == 200
    assert service.client.delete("/items/w0").status_code == 200
    popular = service.recommend(user_id="a stranger", k=60)
    own = service.recommend(history=["i4", "i9"], k=60)
    with_it = service.recommend(history=["i4", "w0"], k=5)
    beside_it = service.similar(item_ids=["i4", "w0"], k=5)
    for answer in (popular, own, with_it, beside_it):
        kept(service, answer["recommendation_id"])

    for answer in (popular, own, with_it, beside_it):
        code, said = replay(service, answer["recommendation_id"], bundles[0])
        assert (code, said["same"], said["notes"]) == (0, True, [])

    let_go_of(service, "w0")
    for answer in (popular, own):
        code, said = replay(service, answer["recommendation_id"], bundles[0])
        assert (code, said["same"]) == (0, True)
    for answer in (with_it, beside_it):
        _, said = replay(service, answer["recommendation_id"], bundles[0])
        assert "items of which nothing is kept count as the mean of all items: w0" in said["notes"]
        assert not said["fields"]


def test_version_that_is_not_at_hand_is_named(service: Running, bundles: list[Path]) -> None:
    answer = service.recommend(user_id="u8", k=3)
    kept(service, answer["recommendation_id"])

    with pytest.raises(StartError, match=f"version {'a' * 16} is not in the store: give --bundle DIR"):
        replay(service, answer["recommendation_id"], bundles[0], "a" * 16)


def test_answer_of_an_erased_user_is_gone_and_what_comes_next_is_not_kept_for_a_while(service: Running) -> None:
    answer = service.recommend(user_id="u6", k=3)
    kept(service, answer["recommendation_id"])
    other = service.recommend(user_id="u7", k=3)
    kept(service, other["recommendation_id"])

    assert service.client.delete("/users/u6").status_code == 200
    later = service.recommend(user_id="u6", k=3)

    wait_for(lambda: service.metric("retort_replay_records_total", result="erased") == 1)
    with service.store() as store:
        records = store.hgetall("retort:{retort:replay}:records")
        assert answer["recommendation_id"].encode() not in records
        assert later["recommendation_id"].encode() not in records
        assert other["recommendation_id"].encode() in records
        assert int(store.get("retort:{retort:replay}:bytes")) == sum(map(len, records.values()))
    done = run_command("replay", answer["recommendation_id"], "--data-dir", str(service.data_dir))
    assert done.returncode == 2
    assert "nothing is kept of the answer" in done.stderr and "RETORT_REPLAY_SHARE" in done.stderr
    assert "in the namespace retort" in done.stderr and "its user was erased" in done.stderr


@pytest.mark.parametrize("answer_id", ["", "abc", "g" * 32, "../" * 11])
def test_what_is_no_answer_id_is_said_so(service: Running, bundles: list[Path], answer_id: str) -> None:
    with pytest.raises(StartError, match="is no recommendation_id"):
        replay(service, answer_id, bundles[0])
