"""Whatever engine prepares the data, the bytes are the same: clean files, dirty ones, shards of any size."""

import hashlib
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.training.data.test_files_of_people import CASES, write
from training.__main__ import main
from training.data.interaction_file import Cleaned, Cleaning, Engine, Found, read_interactions
from training.data.prepare import prepare
from training.data.simulate import simulate
from training.data.split import SplitRule
from training.engine.choice import EngineWish, choose_engine
from training.engine.cluster import zip_package
from training.engine.disk import Disk
from training.engine.parts import read_parts
from training.engine.piece import PartRead, Piece, Settled, Told, clean_pieces, cut, read_one, told_by
from training.errors import InputError
from training.file.account import Account
from training.file.source import Source, find_source

T = TypeVar("T")
RULES = [SplitRule(), SplitRule("time", "time"), SplitRule("users")]
EFFECTS = """user_id,item_id,timestamp,event,weight
a,x,1600000000,view,1
a,x,1600000000,view,3
a,x,1600000100,undo,
b,y,1600000000,skip,1
b,y,1600000050,view,nan
 ,y,1600000050,view,1
b,z,16000000500000,view,1
b,z,1600000050,buy,2
c,y,1600000050,buy,2
c,z,1600000050,view,2
c,x,1600000050,view,2
"""


def read(place: Any, cleaning: Cleaning) -> tuple[Any, ...] | str:
    """Return all that reading a table finds, or how it is refused."""
    try:
        found = read_interactions(place, cleaning)
    except InputError as error:
        return str(error)
    assert {found.users.n_chunks(), found.items.n_chunks(), found.events.n_chunks()} == {
        1
    }  # the bytes of Parquet differ
    events = [(name, found.events[name].to_list()) for name in found.events.columns]
    ids = found.users.to_list(), found.items.to_list()
    return (*ids, *events, vars(found.account), list(found.dropped.items()), found.times, found.event_values)


def hashes(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    simulate(out, users=300, items=120, days=60, seed=3)
    return out


@dataclass
class Apart:
    """Parts that are read one by one and sent as a cluster sends them."""

    source: Source
    cleaning: Cleaning

    def told(self) -> list[Told | InputError]:
        self.parts = [sent(read_one(self.source, at, self.cleaning)) for at in range(len(self.source.parts))]
        return [told_by(part) for part in self.parts]

    def shards(self, settled: Settled) -> Iterator[Cleaned]:
        pieces: list[list[Piece]] = [[] for _ in range(len(settled.bounds) + 1)]
        for part in reversed(self.parts):
            assert isinstance(part, PartRead)
            for shard, piece in cut(part, sent(settled)):
                pieces[shard].append(sent(piece))
        return (sent(clean_pieces(found, settled)) for found in pieces if found)


def apart(most: int) -> Engine:
    def engine(source: Source, cleaning: Cleaning, account: Account) -> Found:
        bare = replace(cleaning, engine=None)
        return read_parts(Apart(replace(source, watch=int, kept=None), bare), source, bare, account, most)

    return engine


def sent(value: T) -> T:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("name", CASES)
def test_a_dirty_file_is_read_or_refused_by_every_engine_as_in_memory(tmp_path: Path, name: str) -> None:
    place = write(tmp_path, CASES[name])

    expected = read(place, Cleaning())

    assert read(place, Cleaning(engine=apart(50))) == expected
    assert read(place, Cleaning(engine=Disk(tmp_path / "room", 128, shard=50))) == expected
    assert not (tmp_path / "room").exists()


@pytest.mark.parametrize("weights", ["ignore", "filter", "loss"])
@pytest.mark.parametrize("shard", [1, 3, 1000])
def test_effects_weights_and_ties_are_the_same_in_shards_of_any_size(tmp_path: Path, shard: int, weights: str) -> None:
    (tmp_path / "log.csv").write_text(EFFECTS)
    cleaning = Cleaning(weights=weights, event_effects={"undo": "undo", "skip": "hide"}, event_weights={"buy": 2.5})

    expected = read(tmp_path / "log.csv", cleaning)

    for engine in (Disk(tmp_path / "room", 128, shard=shard), apart(shard)):
        assert read(tmp_path / "log.csv", replace(cleaning, engine=engine)) == expected


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.test)
def test_prepared_data_have_the_same_bytes(tmp_path: Path, world: Path, rule: SplitRule) -> None:
    files = world / "interactions.csv.gz", world / "items.csv"
    for name, engine in (("memory", None), ("disk", Disk(tmp_path / "room", 128, shard=500))):
        prepare(*files, tmp_path / name, Cleaning(engine=engine), rule)

    assert hashes(tmp_path / "disk") == hashes(tmp_path / "memory")


def test_the_command_writes_the_same_bytes_with_every_engine(
    tmp_path: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("polars", "duckdb", "auto"):
        files = ["--interactions", str(world / "interactions.csv.gz"), "--items", str(world / "items.csv")]
        assert main(["prepare", *files, "--out", str(tmp_path / name), "--engine", name]) == 0

    said = capsys.readouterr().err
    assert hashes(tmp_path / "duckdb" / "prepared") == hashes(tmp_path / "polars" / "prepared")
    assert hashes(tmp_path / "auto" / "prepared") == hashes(tmp_path / "polars" / "prepared")
    assert said.count("engine: duckdb, 512 MB of memory") == 1


def test_auto_takes_the_disk_where_the_rows_do_not_fit_in_memory_and_says_why(tmp_path: Path, world: Path) -> None:
    source = find_source(world / "interactions.csv.gz")

    assert choose_engine(EngineWish(), source, tmp_path, 8 << 30) == (None, "")
    assert choose_engine(EngineWish(), source, tmp_path, None) == (None, "")
    engine, said = choose_engine(EngineWish(), source, tmp_path, 100 << 20)
    assert engine == Disk(tmp_path, 512)
    assert said.startswith("engine: duckdb, because about ")


def test_a_missing_engine_is_refused_with_the_extra_to_install(
    tmp_path: Path, world: Path, hide_package: Callable[[str], None]
) -> None:
    hide_package("duckdb")
    source = find_source(world / "interactions.csv.gz")

    with pytest.raises(InputError, match=r"pip install 'retort\[duckdb\]'"):
        choose_engine(EngineWish("duckdb"), source, tmp_path, None)
    engine, said = choose_engine(EngineWish(), source, tmp_path, 100 << 20)
    assert engine is None
    assert "pip install 'retort[duckdb]'" in said


@pytest.fixture
def hide_package(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def hide(name: str) -> None:
        monkeypatch.setitem(sys.modules, name, None)

    return hide


def test_what_is_sent_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(zip_package(tmp_path / "retort.zip")) as file:
        names = file.namelist()

    assert "training/engine/piece.py" in names
    assert all(name.endswith(".py") and name.startswith(("service/", "training/")) for name in names)


def test_parts_of_different_columns_are_refused_with_an_engine_that_takes_them(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.csv").write_text("user_id,item_id,timestamp\nu,i,1600000000\n")
    (tmp_path / "parts" / "b.csv").write_text("user_id,item_id,timestamp,event\nu,i,1600000000,view\n")

    assert "--engine duckdb" in read(tmp_path / "parts", Cleaning(engine=apart(50)))
