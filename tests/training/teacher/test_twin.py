"""The twin: the student, trained alone first, as one of its own teachers."""

import json

import pytest

from tests.training.world import tiny_settings, write_chain_world
from training.__main__ import main
from training.model.checkpoint import load_model
from training.stage import read_key
from training.teacher.mix import load_factors, load_trials


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("twin")
    world = write_chain_world(directory / "world.csv")
    where = ["--interactions", str(world), "--out", str(directory / "run")]
    settings = tiny_settings("teacher.members=transformer,linear,twin", "baselines.models=popularity")
    assert main(["run", *where, *settings]) == 0
    return directory / "run"


def test_twin_is_the_student_alone(run, finished_run):
    twin, alone = (run / "twin", run / "student")

    assert (twin / "model.safetensors").read_bytes() == (alone / "alone.safetensors").read_bytes()
    assert (twin / "ranking.npz").read_bytes() == (alone / "alone_ranking.npz").read_bytes()
    ours = load_model(alone / "alone.safetensors").state_dict()
    trained_beside = load_model(finished_run / "student" / "alone.safetensors").state_dict()
    assert all(ours[name].equal(values) for name, values in trained_beside.items())


def test_mix_is_at_least_as_good_as_each_member_on_validation(run):
    trials = load_trials(run / "mix")
    single = [trial["ndcg@10"] for trial in trials if 1.0 in (trial["transformer"], trial["linear"], trial["twin"])]

    assert len(single) == 3
    assert max(trial["ndcg@10"] for trial in trials) >= max(single)


def test_report_names_the_student_alone_once(run):
    models = json.loads((run / "metrics.json").read_text())["models"]

    assert "student_alone" in models and "twin" not in models


def test_distill_with_another_student_trains_its_twin_anew(run):
    before = read_key(run / "twin")

    assert main(["distill", "--out", str(run), "--set", "student.dim=24"]) == 0

    assert read_key(run / "twin") != before
    assert load_model(run / "twin" / "model.safetensors").size.dim == 24
    assert load_model(run / "student" / "alone.safetensors").size.dim == 24


def test_student_that_only_its_twin_teaches_is_refitted_too(tmp_path):
    world = write_chain_world(tmp_path / "world.csv")
    where = ["--interactions", str(world), "--out", str(tmp_path / "run")]
    settings = tiny_settings("teacher.members=twin", "baselines.models=popularity")

    assert main(["run", *where, "--refit", *settings]) == 0

    assert list(load_factors(tmp_path / "run" / "mix")) == ["twin"]
    assert (tmp_path / "run" / "refit" / "twin.safetensors").exists()


def test_term_that_needs_a_transformer_is_refused_where_there_is_a_twin_only(tmp_path, capsys):
    world = write_chain_world(tmp_path / "world.csv")
    settings = tiny_settings("teacher.members=twin", "distill.terms=kl,hint")

    assert main(["run", "--interactions", str(world), "--out", str(tmp_path / "run"), *settings]) == 2

    assert "the teacher is twin: add transformer" in capsys.readouterr().err
