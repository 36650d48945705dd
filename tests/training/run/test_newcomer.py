"""New items in a whole run: the bundle has an encoder where items say something, and the report judges one."""

import csv
import json
import shutil

import numpy as np
import pytest

from service.bundle import ItemText, open_bundle
from service.model.item_encoder import ItemEncoder
from tests.training.world import N_ITEMS, tiny_settings, write_chain_world
from training.__main__ import main
from training.stage import read_key

FEW = ("baselines.models=popularity", "newcomers.epochs=1")


@pytest.fixture(scope="module")
def titled_run(tmp_path_factory):
    """A run of the chain world whose items have titles that say where in the ring they stand."""
    place = tmp_path_factory.mktemp("titled")
    world = write_chain_world(place / "world.csv")
    with (place / "items.csv").open("w", newline="") as file:
        rows = [[f"{item:04d}", f"thing of part {item // 6}", f"{item // 6}th|all"] for item in range(N_ITEMS)]
        csv.writer(file).writerows([["item_id", "title", "part"], *rows])
    files = ["--interactions", str(world), "--items", str(place / "items.csv"), "--out", str(place / "run")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.newcomer.teaching.LEAST_STEPS", 5)
        assert main(["run", *files, *tiny_settings(*FEW, "newcomers.held_out=0.2")]) == 0
    return place / "run"


@pytest.fixture
def run(titled_run, tmp_path):
    shutil.copytree(titled_run, tmp_path / "run")
    return tmp_path / "run"


def test_bundle_makes_vectors_of_new_items(titled_run):
    bundle = open_bundle(titled_run / "bundle")

    vectors, confidences = ItemEncoder(bundle).encode(
        [ItemText("thing of part 3", None, {"part": ["3th"]}), ItemText()]
    )

    assert bundle.manifest.format == 2
    assert vectors.shape == (2, bundle.manifest.dim) and np.isfinite(vectors).all()
    assert confidences[0] > confidences[1] == 0


def test_report_has_the_table(titled_run):
    found = json.loads((titled_run / "metrics.json").read_text())["newcomers"]
    page = (titled_run / "report.html").read_text()

    assert found["encoder"]["items"] == N_ITEMS and found["encoder"]["without_text"] == 0
    assert found["judged"]["held_out"] == 12
    assert set(found["judged"]["models"]) == {"encoder", "text_neighbour", "popular_in_category", "random"}
    for row in found["judged"]["models"].values():
        low, high = row["ndcg@10_interval"]
        assert low <= row["ndcg@10"] <= high
    assert "New items" in page and "Mean of the nearest texts" in page


def test_what_is_unchanged_is_skipped(run):
    before = {name: read_key(run / name) for name in ("item_encoder", "newcomers")}
    version = open_bundle(run / "bundle").manifest.created_at

    for command in ("export", "newcomers", "report"):
        assert main([command, "--out", str(run)]) == 0

    assert before == {name: read_key(run / name) for name in before}
    assert open_bundle(run / "bundle").manifest.created_at == version


def test_bundle_has_no_encoder_when_none_is_asked_for(run):
    assert main(["export", "--out", str(run), "--set", "newcomers.epochs=0"]) == 0
    assert main(["report", "--out", str(run)]) == 0

    assert open_bundle(run / "bundle").table.encoding is None
    assert "no encoder of new items: newcomers.epochs is 0" in (run / "report.html").read_text()


def test_report_refuses_another_share_than_was_judged(run, capsys):
    assert main(["report", "--out", str(run), "--set", "newcomers.held_out=0.3"]) == 2

    assert "newcomers.held_out" in capsys.readouterr().err


def test_judgement_of_other_data_is_left_out(run):
    path = run / "newcomers" / "newcomers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": "others"}))

    assert main(["report", "--out", str(run)]) == 0

    assert json.loads((run / "metrics.json").read_text())["newcomers"]["judged"] == {}
    assert "was not judged" in (run / "report.html").read_text()


def test_bundle_has_no_encoder_when_nothing_is_said_of_the_items(finished_run):
    about = json.loads((finished_run / "item_encoder" / "about.json").read_text())

    assert "of fewer than 20 items anything is said" in about["left_out"]
    assert open_bundle(finished_run / "bundle").table.encoding is None
    assert "of fewer than 20 items anything is said" in (finished_run / "report.html").read_text()
