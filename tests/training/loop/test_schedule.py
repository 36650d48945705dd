"""Durations, wrong directories, and a refresh that fails among others."""

import pytest

from training.__main__ import main
from training.errors import InputError
from training.loop.schedule import check_finished, parse_duration


def test_a_duration_is_a_number_and_a_unit():
    assert [parse_duration(text) for text in ("45s", "30m", "6h", " 1d ")] == [45, 1800, 21_600, 86_400]
    for text in ("6", "h", "0h", "-1h", "1.5h", "6 hours", "1w", ""):
        with pytest.raises(InputError, match="write a number and s, m, h or d"):
            parse_duration(text)


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
