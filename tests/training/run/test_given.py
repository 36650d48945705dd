"""A run whose score is a sum: its parts on the way, and a bundle that reproduces its figures alone."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from service.bundle import open_bundle
from tests.training.world import tiny_settings
from training.__main__ import main
from training.evaluation.given_weights import FLOORS
from training.evaluation.judge import Ranking
from training.export.evaluate_bundle import evaluate_bundle
from training.stage import read_key

PARTS = ("student.parts=taste,neighbours,trend", "teacher.members=transformer,linear,twin")


@pytest.fixture(scope="module")
def run(chain_world, tmp_path_factory):
    out = tmp_path_factory.mktemp("sum") / "run"
    assert main(["run", "--interactions", str(chain_world), "--out", str(out), *tiny_settings(*PARTS)]) == 0
    return out


def test_trend_and_table_are_stages_of_their_own(run):
    assert read_key(run / "trend") and read_key(run / "neighbours")
    assert json.loads((run / "trend" / "about.json").read_text())["half_life_s"] > 0


def test_half_lives_that_are_given_are_those_tried_and_the_trend_alone_is_made_anew(run, tmp_path):
    out = shutil.copytree(run, tmp_path / "run")
    before = read_key(out / "trend")

    assert main(["teacher", "--out", str(out), "--set", "student.half_lives=0.25,0.5"]) == 0

    about = json.loads((out / "trend" / "about.json").read_text())
    assert [trial["half_life_h"] for trial in about["trials"]] == [0.25, 0.5]
    assert about["half_life_s"] in (900, 1800)
    assert read_key(out / "trend") != before


def test_the_bundle_holds_the_parts_that_bring_something_and_answers_as_the_student(run):
    bundle = open_bundle(run / "bundle")
    kept = json.loads((run / "student" / "student_score.json").read_text())["score"]

    assert bundle.manifest.score == kept
    assert "neighbours" in kept["parts"]
    models = json.loads((run / "metrics.json").read_text())["models"]
    assert models["bundle"]["ndcg@10"] == pytest.approx(models["student"]["ndcg@10"], abs=1e-6)
    assert models["student"]["ndcg@10"] > 0.6


def test_the_student_alone_has_the_same_parts_to_choose_from(run):
    alone = json.loads((run / "student" / "alone_score.json").read_text())

    assert {trial["parts"] for trial in alone["fit"]["trials"]} >= {"taste,neighbours,trend", "taste,trend"}
    assert (Ranking.load(run / "student" / "alone_ranking.npz").ranks > 0).all()


def test_the_floor_of_the_likelihood_is_the_one_that_ranks_best_on_validation(run):
    found = json.loads((run / "student" / "student_score.json").read_text())["fit"]
    of_floor = {floor: [trial for trial in found["trials"] if trial["floor"] == floor] for floor in FLOORS}
    gains = {floor: min(trials, key=lambda trial: trial["surprise"])["ndcg@10"] for floor, trials in of_floor.items()}

    assert gains[found["floor"]] == max(gains.values())


def test_evaluate_reproduces_the_figures_from_the_bundle_and_two_files(run):
    prepared, bundle = run / "prepared", run / "bundle"

    found = evaluate_bundle(
        bundle, prepared / "known.jsonl.gz", prepared / "heldout.jsonl.gz", columns={}, exclude_seen=None
    )

    models = json.loads((run / "metrics.json").read_text())["models"]
    assert found["ndcg@10"] == pytest.approx(models["bundle"]["ndcg@10"], abs=1e-6)


def test_a_mix_without_a_linear_model_gives_a_table_too(run, tmp_path):
    subprocess.run(["cp", "-r", run, tmp_path / "run"], check=True)
    settings = tiny_settings(PARTS[0], "teacher.members=transformer")

    assert main(["teacher", "--out", str(tmp_path / "run"), *settings]) == 0
    assert main(["distill", "--out", str(tmp_path / "run"), *settings]) == 0

    rows = np.load(tmp_path / "run" / "neighbours" / "neighbours.npy")
    assert rows.shape[0] == 60 and (rows >= 0).any()


def test_refit_and_capacity_know_the_parts(run, tmp_path):
    subprocess.run(["cp", "-r", run, tmp_path / "run"], check=True)
    out = str(tmp_path / "run")

    assert main(["export", "--out", out, "--refit"]) == 0
    assert main(["capacity", "--out", out, "--set", "capacity.dims=8", "--set", "capacity.positions=500"]) == 0

    assert open_bundle(tmp_path / "run" / "bundle").manifest.refit
    rows = {row["teacher"]: row for row in json.loads((tmp_path / "run/capacity/capacity.json").read_text())["rows"]}
    assert list(rows)[:2] == ["taste", "alone"]
    assert rows["taste"]["item_bytes"] == 8 + 4, "a row of int8 and its scale"
    assert rows["alone"]["item_bytes"] > rows["taste"]["item_bytes"] and rows["alone"]["score_us"] > 0
    rule = json.loads((tmp_path / "run" / "capacity" / "alone-8_score.json").read_text())
    assert "taste" in rule["score"]["parts"], "the weights are fitted, as those of the run's own student"
    assert "What the parts of the score are worth" in (tmp_path / "run" / "report.html").read_text()


def test_a_table_that_ranks_worse_than_the_student_without_it_is_left_out(run, tmp_path, chain_world):
    out = tmp_path / "run"
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("student", "neighbours", "bundle", "compressed", "*.html"))
    curve = json.loads((out / "twin" / "curve.json").read_text())
    (out / "twin" / "curve.json").write_text(json.dumps([row | {"validation": 1.0} for row in curve]))

    assert main(["run", "--interactions", str(chain_world), "--out", str(out), *tiny_settings(*PARTS)]) == 0

    assert json.loads((out / "neighbours" / "about.json").read_text())["is_left_out"]
    assert not (out / "bundle" / "neighbours.npy").exists()
    ours, theirs = (out / place for place in ("student/alone.safetensors", "twin/model.safetensors"))
    assert ours.read_bytes() == theirs.read_bytes()
