"""Places of files: no part is lost because it could not be reached, and none is counted twice."""

import gzip
import os
from pathlib import Path

import pytest

from training.data.interaction_file import Cleaning, read_interactions
from training.errors import InputError
from training.file.source import find_source

HEADER = "user_id,item_id,timestamp\n"


def write(path: Path, text: str = HEADER + "a,x,1600000000\nb,y,1600000001\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(place: Path | str) -> list[str]:
    return [part.path.name for part in find_source(place).parts]


def test_a_directory_is_followed_through_links_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "b.csv")
    write(tmp_path / "parts" / "a.csv")
    (tmp_path / "parts" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "parts" / "self").symlink_to(tmp_path / "parts")

    assert names(tmp_path / "parts") == ["a.csv", "b.csv"]


def test_a_glob_of_directories_is_one_of_the_parts_in_them(tmp_path: Path) -> None:
    write(tmp_path / "day=1" / "part-0.csv")
    write(tmp_path / "day=2" / "part-1.csv")

    assert names(tmp_path / "day=*") == ["part-0.csv", "part-1.csv"]
    assert names(tmp_path / "**" / "*") == ["part-0.csv", "part-1.csv"]


@pytest.mark.parametrize("pattern", ["", "*"])
def test_a_link_to_nothing_is_a_part_that_is_missing(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "parts" / "a.csv")
    (tmp_path / "parts" / "b.csv").symlink_to("gone.csv")

    with pytest.raises(InputError, match=r"b\.csv: a link to gone\.csv, which is not there"):
        find_source(tmp_path / "parts" / pattern)


@pytest.mark.skipif(os.geteuid() == 0, reason="NOT CHECKED: root may read every directory")
def test_a_directory_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    write(tmp_path / "parts" / "a.csv")
    (closed := tmp_path / "parts" / "closed").mkdir(mode=0)

    with pytest.raises(InputError, match=f"{closed}: Permission denied; make it readable"):
        find_source(tmp_path / "parts")


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv~", "a.parquet"])
def test_a_part_beside_its_copy_in_another_form_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.csv")
    (tmp_path / name).write_bytes(gzip.compress(HEADER.encode()))

    with pytest.raises(InputError, match=rf"{name}: seems to be a\.csv once more.*glob of one: '{tmp_path}/\*\.csv'"):
        find_source(tmp_path)

    assert names(tmp_path / "*.csv") == ["a.csv"]


def test_a_part_beside_a_link_to_it_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    (tmp_path / "latest.csv").symlink_to("a.csv")

    with pytest.raises(InputError, match=r"latest\.csv: seems to be a\.csv once more.*move one away$"):
        find_source(tmp_path)


def test_parts_of_the_same_bytes_are_said(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a (1).csv"), write(tmp_path / "a.csv")

    account = read_interactions(tmp_path, Cleaning()).account

    assert account.counts == {"parts_copied": 1}
    assert account.firsts == {"parts_copied": f"{second} is like {first}"}


def test_a_part_that_is_written_to_while_it_is_read_is_refused(tmp_path: Path) -> None:
    source = find_source(path := write(tmp_path / "a.csv"))
    with path.open("a") as file:
        file.write("c,z,16000")

    with pytest.raises(InputError, match=r"a\.csv: was written to while it was read"):
        read_interactions(source, Cleaning())


def test_a_home_that_no_shell_has_put_in_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.csv")

    assert names("~/a.csv") == ["a.csv"]
    with pytest.raises(InputError, match="the path of the file is empty"):
        find_source("")


def test_folders_give_the_rows_of_their_parts_columns(tmp_path: Path) -> None:
    write(tmp_path / "event=view" / "timestamp=2020-09-16 18%3A43%3A01" / "0.csv", "user_id,item_id\na,x\n")
    write(tmp_path / "event=__HIVE_DEFAULT_PARTITION__" / "timestamp=2020-09-17" / "0.csv", "user_id,item_id\nb,y\n")

    found = read_interactions(tmp_path, Cleaning())

    assert found.frame["timestamp_ms"].to_list() == [1600281781000, 1600300800000]
    assert found.event_values == ["view"]


def test_a_column_of_the_rows_is_taken_before_one_of_the_folders(tmp_path: Path) -> None:
    write(tmp_path / "timestamp=2020-09-16" / "0.csv")

    assert read_interactions(tmp_path, Cleaning()).frame["timestamp_ms"].to_list() == [1600000000000, 1600000001000]


def test_a_time_that_only_the_folders_have_is_asked_about(tmp_path: Path) -> None:
    write(tmp_path / "day=2020-09-16" / "0.csv", "user_id,item_id\na,x\nb,y\n")

    with pytest.raises(InputError, match=r"no column 'timestamp'.*--columns timestamp=day"):
        read_interactions(tmp_path, Cleaning())
    found = read_interactions(tmp_path, Cleaning({"timestamp": "day"}))

    assert found.frame["timestamp_ms"].to_list() == [1600214400000] * 2
