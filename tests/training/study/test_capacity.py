"""The study of where distillation pays: a row a width and teacher, a picture, and it goes on from what is there."""

import json
import shutil

import pytest

from tests.training.world import tiny_settings
from training.__main__ import main

FEW = ("capacity.dims=4,8", "capacity.positions=3000")


def test_a_study_of_capacity_leaves_its_table_its_picture_and_goes_on(finished_run, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    command = ["capacity", "--out", str(run), *tiny_settings(*FEW)]

    assert main(command) == 0

    table = json.loads((run / "capacity" / "capacity.json").read_text())
    factors = json.loads((run / "mix" / "mix.json").read_text())["factors"]
    teachers = [*factors, "mix"] if len(factors) > 1 else ["mix"]
    assert list(table["teachers"]) == teachers
    assert [(row["dim"], row["teacher"]) for row in table["rows"]] == [
        (dim, teacher) for dim in (4, 8) for teacher in ("alone", *teachers)
    ]
    assert all(("gain" in row) == (row["teacher"] != "alone") for row in table["rows"])
    assert {row["item_bytes"] for row in table["rows"] if row["dim"] == 8} == {8 + 4}, "a row of int8 and its scale"
    page = (run / "report.html").read_text()
    assert "What the parts of the score are worth" not in page, "the score of this run has but one part"
    assert "Where distillation pays" in page and "Quality and gain by the student" in page
    assert "taught by" in capfd.readouterr().out

    (run / "bundle").rename(tmp_path / "bundle")  # no report this time
    assert main(command) == 0
    assert "\n  epoch 1:" not in capfd.readouterr().err
    assert json.loads((run / "capacity" / "capacity.json").read_text()) == table


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("capacity.dims=0", "capacity.dims must be a list of numbers from 1"),
        ("capacity.dims=a", "capacity.dims must be a list of numbers"),
        ("capacity.positions=0", "capacity.positions must be at least 1"),
    ],
)
def test_a_wrong_setting_of_it_is_refused(setting, says, tmp_path, capsys):
    assert main(["capacity", "--out", str(tmp_path / "run"), "--set", setting]) == 2
    assert says in capsys.readouterr().err
