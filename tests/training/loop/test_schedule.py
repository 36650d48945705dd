"""Durations, wrong directories, and a refresh that fails among others."""

import errno

import pytest

from training.__main__ import main
from training.errors import InputError
from training.loop.schedule import check_finished, parse_duration, refresh_every


def test_a_duration_is_a_number_and_a_unit():
    assert [parse_duration(text) for text in ("45s", "30m", "6h", " 1d ")] == [45, 1800, 21_600, 86_400]
    for text in ("6", "h", "0h", "-1h", "1.5h", "6 hours", "1w", ""):
        with pytest.raises(InputError, match="write a number and s, m, h or d"):
            parse_duration(text)
    with pytest.raises(InputError, match="at most 366d"):  # time.sleep would not take it
        parse_duration("999999d")


def test_a_directory_without_a_finished_run_is_refused_with_the_way_out(tmp_path, finished_run):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("")

    for name, words in (("none", "no run there"), ("other", "no finished run"), ("file", "no run there")):
        with pytest.raises(InputError, match=f"{words}.*python -m training run --interactions FILE --out"):
            check_finished(tmp_path / name)
    check_finished(finished_run)


def test_an_items_file_that_is_not_there_is_refused_at_once(tmp_path, finished_run, capsys):
    words = ["refresh", "--out", str(finished_run), "--items", str(tmp_path / "items.csv"), "--every", "6h"]

    assert main(words) == 2
    assert f"--items {tmp_path / 'items.csv'}: no such file" in capsys.readouterr().err


def test_a_fault_of_the_machine_is_tried_again_in_time_and_a_bug_is_not():
    class Failing:
        def __init__(self, *errors):
            self.errors = list(errors)

        def refresh(self):
            raise self.errors.pop(0)

    full, said = OSError(errno.ENOSPC, "No space left on device"), []

    with pytest.raises(KeyError):
        refresh_every(Failing(full, InputError("the store is away"), KeyError("bug")), 0, said.append)
    with pytest.raises(OSError, match="No space"):
        refresh_every(Failing(full), None, said.append)

    assert len(said) == 2 and "the disk is full" in said[0] and "the store is away; tried again in time" in said[1]
