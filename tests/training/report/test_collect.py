"""What is read of a finished run, and of what it is compared with."""

import json

import numpy as np
import pytest

from tests.training.evaluation.shop import make_shop
from training.data.split import TEST
from training.errors import InputError
from training.evaluation.judge import Ranking
from training.evaluation.question import ask
from training.progress import Progress
from training.report.collect import (
    learning_curves,
    lineage_of,
    other_rankings,
    own_rankings,
    read_table,
    read_trials,
    titles_of,
)


def save_other(directory, name, ranks, note=None):
    """A ranking of somebody else's, and what is said of it."""
    directory.mkdir(exist_ok=True)
    Ranking(np.array(ranks), np.zeros((len(ranks), 6), dtype=np.int32)).save(directory / f"{name}.npz")
    if note is not None:
        (directory / f"{name}.json").write_text(note)


def read_others(run):
    shop = make_shop()
    shop.report["fingerprint"] = "shop"
    return other_rankings(run, shop, ask(shop, TEST), Progress())


def test_others_are_ordered_by_strength_and_bring_what_is_said_of_them(tmp_path):
    save_other(tmp_path / "peers", "weak", [5, 6])
    save_other(tmp_path / "baselines", "strong", [1, 2], json.dumps({"title": "Strong", "seconds": 3, "secret": 1}))

    rankings, about = read_others(tmp_path)

    assert list(rankings) == ["strong", "weak"]
    assert about == {"strong": {"title": "Strong", "seconds": 3}, "weak": {}}


def test_rankings_of_other_data_or_of_other_users_are_left_out_and_named(tmp_path, capsys):
    save_other(tmp_path / "peers", "stranger", [1, 1], json.dumps({"data": "elsewhere"}))
    save_other(tmp_path / "peers", "longer", [1, 1, 1])

    assert read_others(tmp_path) == ({}, {})
    said = capsys.readouterr().err
    assert "stranger.npz: of other data" in said and "longer.npz: of other data" in said


def test_a_damaged_note_is_an_error_that_names_the_file(tmp_path):
    save_other(tmp_path / "peers", "odd", [1, 1], "{")

    with pytest.raises(InputError, match=r"odd\.json: not JSON"):
        read_others(tmp_path)


def test_a_finished_run_has_the_rankings_and_curves_of_its_models(finished_run):
    assert set(own_rankings(finished_run)) == {"teacher", "student", "student_alone"}, "one teacher: not twice"
    assert set(learning_curves(finished_run)) == {"transformer", "student", "student_alone"}
    assert {"seeds", "config", "data", "packages"} <= set(lineage_of(finished_run))


def test_what_was_not_made_is_not_there(tmp_path):
    assert read_table(tmp_path, "ablation") is None
    assert read_trials(tmp_path) == []
    with pytest.raises(InputError, match="export the run first"):
        lineage_of(tmp_path)


def test_a_model_is_called_by_our_title_its_own_or_its_name():
    titles = titles_of({"student": {"title": "ignored"}, "sasrec": {"title": "SASRec"}, "some_peer": {}})

    assert (titles["student"], titles["sasrec"], titles["some_peer"]) == ("Student, distilled", "SASRec", "some peer")
    assert "linear" in titles, "every kind of teacher has one"
