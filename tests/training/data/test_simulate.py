"""The made-up world: deterministic, readable by prepare, and won by whoever looks at the sequence."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from training.data.interaction_file import Cleaning
from training.data.prepare import prepare
from training.data.prepared import Prepared
from training.data.simulate import END, simulate
from training.data.split import TEST, TRAIN, SplitRule
from training.errors import InputError
from training.evaluation.metric import ndcg, rank_targets


def prepared(world: Path) -> Prepared:
    return prepare(
        world / "interactions.csv.gz",
        world / "items.csv",
        world / "prepared",
        Cleaning(max_malformed=0.0),
        SplitRule(),
    )


def bytes_of(world: Path) -> list[bytes]:
    return [(world / name).read_bytes() for name in ("interactions.csv.gz", "items.csv")]


def test_simulate_writes_the_same_bytes_for_the_same_seed_and_others_for_another(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        simulate(tmp_path / name, users=30, items=50, days=30, seed=seed)

    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert bytes_of(tmp_path / "a") != bytes_of(tmp_path / "c")


def test_simulate_leads_a_markov_chain_to_beat_popularity_nine_times(tmp_path: Path) -> None:
    simulate(tmp_path, users=2000, items=1000, days=180, seed=1)
    data = prepared(tmp_path)
    popularity = np.array([item.popularity for item in data.items])
    follows = (data.user[1:] == data.user[:-1]) & (data.part[1:] == TRAIN)
    transitions = np.zeros((len(popularity), len(popularity)))
    np.add.at(transitions, (data.item[:-1][follows], data.item[1:][follows]), 1.0)
    at = np.flatnonzero(data.part == TEST)
    seen = [data.item[np.searchsorted(data.user, data.user[i]) : i] for i in at]

    scores = {
        "popularity": np.tile(popularity, (len(at), 1)),
        "markov": transitions[data.item[at - 1]] + popularity / 1e6,
    }
    quality = {name: ndcg(rank_targets(s, data.item[at], seen), 10).mean() for name, s in scores.items()}

    print(quality)
    assert quality["popularity"] <= 0.03
    assert quality["markov"] >= 9 * quality["popularity"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    simulate(path, users=400, items=300, days=60, seed=3, events_per_user=30)
    return path


def test_simulate_writes_what_prepare_takes_whole(world: Path) -> None:
    report = prepared(world).report

    assert report["malformed"]["count"] == 0
    assert report["dropped"] == {}
    assert report["n_users"] == 400
    assert report["items_file"]["without_a_line"] == 0
    assert report["repeat_consumption"] is False


def test_simulate_gives_every_item_its_own_title_and_category(world: Path) -> None:
    items = pl.read_csv(world / "items.csv", infer_schema=False)

    assert items.columns == ["item_id", "title", "description", "category"]
    assert items["item_id"].n_unique() == items["title"].n_unique() == items.height == 300
    assert items["category"].str.contains(r"^\w+\|\w+$").all()


def test_simulate_keeps_each_user_in_order_and_inside_the_days(world: Path) -> None:
    log = pl.read_csv(world / "interactions.csv.gz")

    assert log["timestamp"].is_sorted()
    assert log["timestamp"].max() <= END
    assert log["timestamp"].min() >= END - 60 * 86_400
    assert log.group_by("user_id").agg(pl.col("timestamp").n_unique() == pl.len())["timestamp"].all()


def test_simulate_skews_popularity_and_hits_the_mean_length(world: Path) -> None:
    counts = np.sort(np.array([item.popularity for item in prepared(world).items]))[::-1]

    assert counts[:30].sum() > 2 * counts.sum() * 30 / len(counts)
    assert pl.read_csv(world / "interactions.csv.gz").height / 400 == pytest.approx(30, rel=0.1)


@pytest.mark.parametrize(
    ("name", "value"), [("users", 1), ("items", 19), ("days", 0), ("events_per_user", 3), ("users", -5)]
)
def test_simulate_refuses_a_world_too_small_and_writes_nothing(tmp_path: Path, name: str, value: int) -> None:
    sizes = {"users": 10, "items": 20, "days": 5, "seed": 1} | {name: value}

    with pytest.raises(InputError, match=f"{name} must be at least"):
        simulate(tmp_path / "world", **sizes)

    assert not (tmp_path / "world").exists()


@pytest.mark.parametrize(("users", "items"), [(2, 20), (5, 21), (3, 40_000)])
def test_simulate_makes_the_smallest_and_odd_worlds_too(tmp_path: Path, users: int, items: int) -> None:
    simulate(tmp_path, users=users, items=items, days=1, seed=1)

    log = pl.read_csv(tmp_path / "interactions.csv.gz", infer_schema=False)
    listed = pl.read_csv(tmp_path / "items.csv", infer_schema=False)
    assert log["user_id"].n_unique() == users
    assert listed["title"].n_unique() == listed.height == items
    assert set(log["item_id"]) <= set(listed["item_id"])
