"""From a user's file to prepared arrays: what counts, in which order, what is dropped and what is said about it."""

import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.bundle import tie_hash
from tests.training.world import write_chain_world
from training.data.interaction_file import Cleaning
from training.data.prepare import parse_columns, parse_weights, prepare
from training.data.prepared import Prepared, load_prepared
from training.data.split import TEST, TRAIN, VAL, SplitRule
from training.errors import InputError

HEADER = "user_id,item_id,timestamp\n"
GOOD = HEADER + "a,x,1\na,y,2\na,z,3\nb,x,1\nb,y,2\nb,z,3\n"


def run(file: Path, items: Path | None = None, columns: str = "", **changed: Any) -> Prepared:
    rule = SplitRule(changed.pop("test", "last"))
    repeats = changed.pop("repeats", "auto")
    return prepare(file, items, file.parent / "out", Cleaning(parse_columns(columns), **changed), rule, repeats)


def run_text(folder: Path, text: str, name: str = "log.csv", **changed: Any) -> Prepared:
    (folder / name).write_text(text, encoding="utf-8")
    return run(folder / name, **changed)


def events_of(data: Prepared) -> list[tuple[str, str, int]]:
    numbers = zip(data.user.tolist(), data.item.tolist(), data.timestamp_ms.tolist(), strict=True)
    return [(data.users[user], data.items[item].item_id, time) for user, item, time in numbers]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_prepare_splits_popularity_and_numbers_follow_a_table_worked_by_hand(tmp_path: Path) -> None:
    data = run_text(tmp_path, GOOD)

    assert data.users == ["a", "b"]
    assert [(item.item_id, item.popularity) for item in data.items] == [("x", 2.0), ("y", 0.0), ("z", 0.0)]
    assert data.user.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.item.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.timestamp_ms.tolist() == [1000, 2000, 3000] * 2
    assert data.part.tolist() == [TRAIN, VAL, TEST] * 2
    assert (data.user.dtype, data.item.dtype, data.timestamp_ms.dtype, data.part.dtype) == (
        np.int32,
        np.int32,
        np.int64,
        np.uint8,
    )


def test_load_prepared_returns_what_prepare_returned(tmp_path: Path) -> None:
    data = run_text(tmp_path, GOOD)

    loaded = load_prepared(tmp_path / "out")

    assert (loaded.users, loaded.items, loaded.report) == (data.users, data.items, data.report)
    assert all((getattr(loaded, n) == getattr(data, n)).all() for n in ("user", "item", "timestamp_ms", "part"))


def test_prepare_says_in_the_report_what_it_read_and_dropped(tmp_path: Path) -> None:
    text = (
        "user_id,item_id,timestamp,weight\n"
        ",x,1,1\n,,1,1\na,,1,1\na,x,1,0\na,x,1,-2\na,x,1,\na,x,1,1\na,x,1,2\na,y,2,1\na,z,3,1\n"
        f"b,x,1,1\nb,y,2,1\nb,x,3,1\nb,{'i' * 129},3,1\nb,a\tb,3,1\n{'u' * 129},x,1,1\n"
    )

    report = run_text(tmp_path, text).report

    assert report["rows_read"] == 16
    assert report["dropped"] == {
        "no_user": 2,
        "no_item": 1,
        "user_id_too_long": 1,
        "item_id_too_long": 1,
        "item_id_has_control_character": 1,
        "no_weight": 1,
        "weight_too_low": 2,
        "duplicate": 1,
    }
    assert report["malformed"] == {"count": 0, "examples": []}
    assert (report["n_users"], report["n_items"], report["n_events"]) == (2, 3, 6)
    assert report["parts"] == {"train": 2, "val": 2, "test": 2}
    assert report["targets"] == {"val": 2, "test": 2}
    assert report["span"] == ["1970-01-01T00:00:01+00:00", "1970-01-01T00:00:03+00:00"]
    assert report["density"] == 1.0
    assert report["repeat_share"] == pytest.approx(1 / 6, abs=1e-6)
    assert report["repeat_share_of_targets"] == {"val": 0.0, "test": 0.5}
    assert report["source"] == "log.csv"
    assert report["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_prepare_orders_ties_by_the_hash_of_user_and_item_and_never_by_the_file(tmp_path: Path) -> None:
    item_ids = ["n1", "é", "n2", "日本", "n3", "😀"]
    rows = "".join(f"{user},{item},5\n" for user in "ab" for item in item_ids)

    data = run_text(tmp_path, HEADER + rows)

    for user_id in "ab":
        expected = sorted(item_ids, key=lambda item_id: (tie_hash(user_id, item_id), item_id.encode()))
        assert [item for user, item, _ in events_of(data) if user == user_id] == expected
    assert data.report["tie_share"] == 1.0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_prepare_writes_the_same_bytes_whatever_the_order_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = random.Random(seed)
    rows = [f"u{rng.randrange(4)},i{rng.randrange(5)},{rng.randrange(6)},{rng.choice([1, 2])}\n" for _ in range(40)]
    results = []

    for _ in range(2):
        folder = tmp_path_factory.mktemp("order")
        run_text(folder, "user_id,item_id,timestamp,weight\n" + "".join(rows), max_history=7)
        report = json.loads((folder / "out" / "report.json").read_text())
        written = {path.name: path.read_bytes() for path in (folder / "out").iterdir() if path.name != "report.json"}
        results.append((written, {name: value for name, value in report.items() if name != "sha256"}))
        rng.shuffle(rows)

    assert results[0] == results[1]


def test_prepare_keeps_repeats_at_other_times_and_only_the_newest_of_a_long_history(tmp_path: Path) -> None:
    rows = "".join(f"a,x,{t}\n" for t in range(10)) + "b,x,1\nb,y,2\nb,x,3\n"

    data = run_text(tmp_path, HEADER + rows, max_history=4)

    assert [time for user, _, time in events_of(data) if user == "a"] == [6000, 7000, 8000, 9000]
    assert data.report["dropped"] == {"over_max_history": 6}


@pytest.mark.parametrize(("repeats", "expected"), [("yes", True), ("no", False), ("auto", True)])
def test_prepare_decides_on_repeats_by_the_setting_then_by_the_validation_targets(
    tmp_path: Path, repeats: str, expected: bool
) -> None:
    data = run_text(tmp_path, HEADER + "a,x,1\na,x,2\na,y,3\nb,x,1\nb,y,2\nb,z,3\n", repeats=repeats)

    assert data.report["repeat_share_of_targets"]["val"] == 0.5
    assert data.report["repeat_consumption"] is expected


def test_prepare_counts_only_the_wanted_events(tmp_path: Path) -> None:
    rows = "".join(f"{u},{i},{t},{e}\n" for u in "ab" for t, i in enumerate("xyz") for e in ("buy", "view"))

    data = run_text(tmp_path, "user_id,item_id,timestamp,event\n" + rows, events=["buy"])

    assert data.report["n_events"] == 6
    assert data.report["dropped"] == {"event_not_wanted": 6}


def test_prepare_takes_a_minimum_weight_as_liking(tmp_path: Path) -> None:
    rows = "".join(
        f"{u},{i},{t},{w}\n" for u in "ab" for t, (i, w) in enumerate(zip("vwxyz", (1, 3, 4, 5, 9), strict=True))
    )

    data = run_text(tmp_path, "user_id,item_id,timestamp,weight\n" + rows, min_weight=3)

    assert [item.item_id for item in data.items] == ["x", "y", "z"]
    assert data.report["dropped"] == {"weight_too_low": 4}


def test_prepare_writes_histories_that_import_reads_and_targets_apart_from_what_is_known(tmp_path: Path) -> None:
    data = run_text(tmp_path, HEADER + 'a"q,x,1.25\na"q,y,2\na"q,z,3\nb,x,1\nb,y,2\nb,z,-1.5\n')

    histories, known, heldout = (
        lines_of(tmp_path / "out" / f"{n}.jsonl.gz") for n in ("histories", "known", "heldout")
    )
    assert histories[:3] == [
        {"user_id": 'a"q', "item_id": "x", "timestamp": 1.25},
        {"user_id": 'a"q', "item_id": "y", "timestamp": 2},
        {"user_id": 'a"q', "item_id": "z", "timestamp": 3},
    ]
    assert isinstance(histories[1]["timestamp"], int)
    assert histories[3] == {"user_id": "b", "item_id": "z", "timestamp": -1.5}
    assert [line for line in histories if line not in heldout] == known
    assert heldout == [histories[2], histories[5]]
    assert len(histories) == len(data.user)


def test_prepare_reads_its_own_histories_back_to_the_same_fingerprint(tmp_path: Path) -> None:
    first = run_text(tmp_path, HEADER + "a,x,1.001\na,0y,1362062307.123\na,z,1362062307.999\nb,x,1\nb,0y,2\nb,z,3\n")
    (tmp_path / "again").mkdir()
    (tmp_path / "out" / "histories.jsonl.gz").rename(tmp_path / "again" / "histories.jsonl.gz")

    second = run(tmp_path / "again" / "histories.jsonl.gz")

    assert second.report["fingerprint"] == first.report["fingerprint"]


def test_prepare_gives_another_fingerprint_to_another_split(tmp_path: Path) -> None:
    first = run_text(tmp_path, GOOD).report["fingerprint"]

    assert run_text(tmp_path, GOOD, test="none").report["fingerprint"] != first


def test_prepare_replaces_earlier_prepared_data_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    run_text(tmp_path, GOOD)

    run_text(tmp_path, GOOD + "c,x,1\n")

    assert load_prepared(tmp_path / "out").users == ["a", "b", "c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "out"]
    assert "replaced" not in {path.name for path in (tmp_path / "out").iterdir()}


def test_prepare_clears_what_a_killed_run_left_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "half").write_text("written")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "events.parquet").write_bytes(b"PAR1")

    run_text(tmp_path, GOOD)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "out"]
    assert load_prepared(tmp_path / "out").users == ["a", "b"]


def test_prepare_refuses_to_replace_what_it_did_not_write(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")

    with pytest.raises(InputError, match=r"out: exists and is no prepared data.*--out"):
        run_text(tmp_path, GOOD)

    assert (tmp_path / "out" / "thesis.tex").read_text() == "precious"


WRONG = {
    "nobody": (HEADER + ",x,1\n,y,2\n", r"log\.csv: no row is left .*2 rows read.*no_user 2.*--columns"),
    "one user": (HEADER + "a,x,1\na,y,2\na,z,3\n", r"log\.csv: only one user is left, 'a'.*--columns user_id="),
    "one item": (HEADER + "a,x,1\nb,x,2\nb,x,3\n", r"log\.csv: only one item is left, 'x'.*--columns item_id="),
    "no second event": (HEADER + "a,x,1\nb,y,2\n", r"log\.csv: split\.val leaves no user.*--columns user_id=COLUMN"),
    "short users": (
        HEADER + "a,x,1\na,y,2\nb,y,2\nb,x,3\n",
        r"log\.csv: split\.\w+ leaves no user.*more events",
    ),
    "milliseconds": (
        GOOD + "a,x,1362062307000\n",
        r"(?s)1 of 7 .*log\.csv:8: timestamp 1362062307000 is not",
    ),
    "damaged": (GOOD + "a,x\n", r"(?s)1 of 7 rows \(14\.3%\).*log\.csv:8: 2 fields, the header has 3.*max_malformed"),
    "NaN time": (GOOD + "a,x,NaN\n", r"(?s)log\.csv:8: unreadable timestamp 'NaN'"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG.keys())
def test_prepare_names_file_row_and_way_out_and_leaves_nothing_when(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run_text(tmp_path, text)

    assert caught.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_prepare_goes_on_past_few_malformed_rows_and_shows_the_first_five(tmp_path: Path) -> None:
    bad = "a,x,soon\na,x\n" * 4

    data = run_text(tmp_path, GOOD + bad, max_malformed=0.6)

    assert data.report["malformed"]["count"] == 8
    assert len(data.report["malformed"]["examples"]) == 5
    assert data.report["malformed"]["examples"][0].endswith("log.csv:8: unreadable timestamp 'soon'")
    assert data.report["malformed"]["examples"][1].endswith("log.csv:9: 2 fields, the header has 3")
    assert data.report["rows_read"] == 14
    assert data.report["n_events"] == 6


@pytest.mark.parametrize("weight", ["NaN", "inf", "-inf", "many", "1,500", "1,2,3"])
def test_prepare_counts_a_weight_that_is_no_number_as_malformed(tmp_path: Path, weight: str) -> None:
    rows = GOOD.replace("timestamp\n", "timestamp,weight\n", 1).replace("1\n", "1,1\n").replace("2\n", "2,1\n")

    data = run_text(tmp_path, rows.replace("3\n", "3,1\n") + f'a,x,9,"{weight}"\n', max_malformed=0.5)

    assert data.report["malformed"]["count"] == 1
    assert data.report["malformed"]["examples"][0].endswith(f"log.csv:8: unreadable weight '{weight}'")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"repeats": "maybe"}, "prepare.repeats must be one of yes, no, auto, not 'maybe'"),
        ({"max_history": 0}, "prepare.max_history must be at least 1, not 0"),
        ({"events": ["buy"]}, "no column 'event'; the file has: user_id, item_id, timestamp"),
        ({"columns": "weight=Quantity"}, "no column 'Quantity'; the file has"),
        ({"columns": "user_id=Customer"}, "no column 'Customer'.*--columns user_id=user_id"),
        ({"test": "first"}, "split.test must be one of last, time, users, none, not 'first'"),
    ],
)
def test_prepare_refuses_a_setting_that_cannot_be_met(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_text(tmp_path, GOOD, **changed)

    assert not (tmp_path / "out").exists()


def test_prepare_takes_a_shop_export_with_other_names_cancellations_and_missing_customers(tmp_path: Path) -> None:
    pl.DataFrame(
        {
            "Invoice": ["1", "1", "2", "C3", "4", "5", "5", "6"],
            "Stock": ["085A", "71053", "85123", "71053", "085A", "085A", "71053", "9"],
            "Quantity": [6, 6, 8, -6, 1, 2, 3, 4],
            "When": [f"2010-12-0{day} 08:26:00" for day in (1, 1, 2, 3, 4, 1, 2, 3)],
            "Customer": [17850.0, 17850.0, 17850.0, 17850.0, None, 13047.0, 13047.0, 13047.0],
        }
    ).write_parquet(tmp_path / "raw.parquet")

    data = run(tmp_path / "raw.parquet", columns="user_id=Customer,item_id=Stock,timestamp=When,weight=Quantity")

    assert data.users == ["13047", "17850"]
    assert [item.item_id for item in data.items] == ["085A", "71053", "85123", "9"]
    assert data.report["dropped"] == {"no_user": 1, "weight_too_low": 1}
    assert data.report["span"] == ["2010-12-01T08:26:00+00:00", "2010-12-03T08:26:00+00:00"]
    assert data.report["tie_rule"].startswith("blake2b4")


@pytest.mark.parametrize("damage", ["missing", "truncated", "no events"])
def test_load_prepared_says_to_run_prepare_when_data_is(tmp_path: Path, damage: str) -> None:
    run_text(tmp_path, GOOD)
    out = tmp_path / "out"
    if damage == "missing":
        out = tmp_path / "elsewhere"
    elif damage == "truncated":
        (out / "events.parquet").write_bytes(b"PAR1")
    else:
        (out / "events.parquet").unlink()

    with pytest.raises(InputError, match=f"{out.name}: .*run prepare"):
        load_prepared(out)


def test_parse_columns_maps_our_names_to_theirs() -> None:
    assert parse_columns(" user_id = Customer ID , item_id=Stock=Code,") == {
        "user_id": "Customer ID",
        "item_id": "Stock=Code",
    }
    assert parse_columns("") == {}


@pytest.mark.parametrize("text", ["user_id", "=x", "user_id=", "user=x", "user_id=a,user_id=b", "a b"])
def test_parse_columns_refuses_nonsense_and_says_how_to_write_it(text: str) -> None:
    with pytest.raises(InputError, match="--columns"):
        parse_columns(text)


def test_prepare_writes_the_same_arrays_and_histories_as_ever(tmp_path: Path) -> None:
    data = run(write_chain_world(tmp_path / "log.csv", users=40))

    histories = gzip.decompress((tmp_path / "out" / "histories.jsonl.gz").read_bytes())
    assert data.report["fingerprint"] == "4cbc7b120a55228659b8ce4b826c2713764aafc8190caedb82eb0421b83e32bd"
    assert hashlib.sha256(histories).hexdigest() == "c0de088948f74a3181b000c8a2c03f2204ea419493932e53f718c1253bf56f21"


def test_prepare_keeps_a_weight_with_each_event_where_the_loss_is_to_have_it(tmp_path: Path) -> None:
    rows = "".join(
        f"{u},{i},{t},{w},{e}\n" for u in "ab" for t, (i, w, e) in enumerate(zip("xyz", (1, 2, 4), "bbv", strict=True))
    )
    changed = {"weights": "loss", "event_weights": {"v": 0.5}}

    data = run_text(tmp_path, "user_id,item_id,timestamp,weight,event\n" + rows, **changed)

    assert data.weight is not None
    assert data.weight.tolist() == [1, 2, 2, 1, 2, 2]
    assert run_text(tmp_path, GOOD).weight is None


@pytest.mark.parametrize(("weights", "kept"), [("ignore", 6), ("filter", 4), ("loss", 4)])
def test_prepare_ignores_weights_or_drops_rows_by_them(tmp_path: Path, weights: str, kept: int) -> None:
    rows = "".join(f"{u},{i},{t},{t}\n" for u in "ab" for t, i in enumerate("xyz"))

    data = run_text(tmp_path, "user_id,item_id,timestamp,weight\n" + rows, weights=weights, test="none")

    assert data.report["n_events"] == kept


def test_parse_weights_reads_events_and_refuses_nonsense() -> None:
    assert parse_weights("buy = 1, a=b=0.2,") == {"buy": 1.0, "a=b": 0.2}
    for text in ("buy", "=1", "buy=x", "buy=-1"):
        with pytest.raises(InputError, match=r"prepare\.event_weights"):
            parse_weights(text)
