"""The page: what it must say, and that it survives what a run may lack."""

import json
import re
import shutil

import numpy as np
import pytest

from training.__main__ import main
from training.evaluation.judge import Ranking
from training.report.page import stronger_baselines


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of the finished run to change."""
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def report(run):
    assert main(["report", "--out", str(run)]) == 0
    return json.loads((run / "metrics.json").read_text()), (run / "report.html").read_text()


def trial(dim, quality, cost, **more):
    row = {"dim": dim, "layers": 1, "kind": "attention", "items": "int8", "ndcg@10": quality, "encode_us": cost}
    return row | {"bytes": 1000 * cost, "chosen": False} | more


def test_every_model_of_metrics_has_every_detail_and_a_row_on_the_page(finished_run):
    metrics = json.loads((finished_run / "metrics.json").read_text())
    page = (finished_run / "report.html").read_text()

    assert {
        "teacher",
        "student",
        "student_alone",
        "bundle",
        "popularity",
        "recent_popularity",
        "item_knn",
        "ease",
    } == set(metrics["models"])
    for name, row in metrics["models"].items():
        assert {"accuracy@1", "gini@10", "novelty@10", "diversity@10", "by_popularity", "by_history"} <= set(row), name
        assert row["repeats"]["seen_ranked"]["users"] == row["users"], name
        assert sum(group["users"] for group in row["by_history"]) == row["users"], name
    assert metrics["overlap"]["bundle / student"]["overlap@10"] == pytest.approx(1, abs=0.01)
    assert page.count("Item-kNN") >= 3 and "Took next" in page
    assert not re.search(r"<(script|link)|src=\"http", page)


def test_the_page_says_how_what_is_served_stands_beside_the_bar(run):
    metrics = json.loads((run / "metrics.json").read_text())
    page = (run / "report.html").read_text()
    assert metrics["bar"]["standing"] == "above"
    assert f'<p class="verdict paid">{metrics["bar"]["verdict"]}</p>' in page
    assert set(metrics["by_request"]) >= {"all", "start_of_basket"}, "every fifth user's events tie"
    assert set(metrics["by_request"]["start_of_basket"]["models"]) == set(metrics["models"])

    perfect = Ranking.load(run / "baselines" / "recent_popularity.npz")
    Ranking(np.ones_like(perfect.ranks), perfect.top, perfect.other).save(run / "baselines" / "recent_popularity.npz")

    metrics, page = report(run)

    assert metrics["bar"]["standing"] == "below"
    assert f'<p class="verdict failed">{metrics["bar"]["verdict"]}</p>' in page
    assert 'class="below"' in page


def test_rankings_of_other_requests_than_are_asked_now_are_an_error(run, capsys):
    old = Ranking.load(run / "mix" / "ranking.npz")
    Ranking(old.ranks[1:], old.top[1:]).save(run / "mix" / "ranking.npz")

    assert main(["report", "--out", str(run)]) == 2
    assert "teacher was ranked on" in capsys.readouterr().err


def test_a_baseline_ahead_of_the_student_is_named_under_the_verdict(run):
    perfect = Ranking.load(run / "baselines" / "ease.npz")
    Ranking(np.ones_like(perfect.ranks), perfect.top, perfect.other).save(run / "baselines" / "ease.npz")

    metrics, page = report(run)

    assert stronger_baselines(metrics)[0] == "ease"
    assert page.index("EASE is ahead of the student") < page.index("<table>")


def test_a_peer_is_a_row_under_its_own_title_and_one_of_other_data_is_left_out(run, capsys):
    peers = run / "peers"
    peers.mkdir()
    data = json.loads((run / "prepared" / "report.json").read_text())["fingerprint"]
    for name, fingerprint in (("good", data), ("stranger", "other")):
        shutil.copy(run / "baselines" / "ease.npz", peers / f"{name}.npz")
        about = {"title": f"A {name} model", "data": fingerprint, "parameters": 1234}
        (peers / f"{name}.json").write_text(json.dumps(about))

    metrics, page = report(run)

    assert metrics["models"]["good"]["parameters"] == 1234 and "A good model" in page
    assert "stranger" not in metrics["models"]
    assert "stranger.npz: of other data than this run" in capsys.readouterr().err


def test_a_search_is_drawn_with_its_front(run):
    assert "What a smaller model costs" not in (run / "report.html").read_text()
    (run / "search").mkdir()
    trials = [trial(8, 0.1, 10), trial(16, 0.3, 20, chosen=True)]
    (run / "search" / "trials.json").write_text(json.dumps(trials))

    assert report(run)[1].count("NDCG@10 of the candidates against their cost") == 2


def test_a_run_without_baselines_or_with_rankings_of_an_older_version_is_still_reported(run):
    shutil.rmtree(run / "baselines")
    old = Ranking.load(run / "mix" / "ranking.npz")
    Ranking(old.ranks, old.top).save(run / "mix" / "ranking.npz")

    metrics, page = report(run)

    assert "popularity" in metrics["models"] and metrics["models"]["teacher"]["repeats"] is None
    assert metrics["bar"] is None and "times the bar" not in page
    assert "With and without repeats" in page
