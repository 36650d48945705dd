"""Several seeds as one table: against tables worked out by hand, and on copies of a finished run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from training.__main__ import main
from training.evaluation.judge import Ranking
from training.report.comparison import changed_settings


@pytest.fixture
def seeds(finished_run, tmp_path):
    """The finished run as three: copies whose bundle names other seeds and whose users are ranked in another order."""
    runs = []
    for seed in (1, 2, 3):
        run = tmp_path / f"seed{seed}"
        shutil.copytree(finished_run, run)
        edit_manifest(run, seeds={"teacher": seed, "student": seed})
        path = run / "student" / "alone_ranking.npz"
        ranking = Ranking.load(path)
        Ranking(np.roll(ranking.ranks, seed), ranking.top).save(path)
        runs.append(str(run))
    return runs


def edit_manifest(run, **lineage):
    path = run / "bundle" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["lineage"] |= lineage
    path.write_text(json.dumps(manifest))


def test_settings_differ_but_for_seeds_baselines_and_studies():
    ours = {"student": {"dim": 16, "seed": 1}, "baselines": {"models": "ease"}}
    theirs = {"student": {"dim": 24, "seed": 2}, "baselines": {"models": ""}, "search": {"trials": 3}, "distill": {}}
    theirs["distill"] = {"alpha": 1.0}

    assert changed_settings(ours, theirs) == ["distill.alpha", "student.dim"]


def test_compare_prints_a_table_and_json_and_writes_a_page(seeds, tmp_path, capsys):
    page = tmp_path / "seeds.html"

    assert main(["compare", *seeds, "--html", str(page)]) == 0

    lines = capsys.readouterr().out.splitlines()
    table = json.loads(lines[-1])
    assert lines[1].startswith("Teacher")
    assert [seed["teacher"] for seed in table["seeds"]] == [1, 2, 3]
    assert table["models"]["student"]["ndcg@10_spread"] is None  # copies of one model
    assert {"student / popularity", "student / ease"} <= set(table["ndcg@10_differences"])
    assert table["bar"]["model"] == "recent_popularity"
    assert table["by_request"]["start_of_basket"]["models"]["student"]["of_bar"]["low"] > 1
    assert {"compressed", "ease", "item_knn"} <= set(table["models"])
    assert len(table["ndcg@10_differences"]["student / student_alone"]["per_seed"]) == 3
    assert "3 seeds, one table" in page.read_text()


def test_compare_reports_the_means_that_the_runs_report(seeds, finished_run, capsys):
    assert main(["compare", *seeds]) == 0

    table = json.loads(capsys.readouterr().out.splitlines()[-1])
    own = json.loads((finished_run / "metrics.json").read_text())["models"]
    for name in ("teacher", "student", "popularity"):
        assert table["models"][name]["ndcg@10"] == pytest.approx(own[name]["ndcg@10"])


def test_compare_refuses_what_is_not_seeds_of_one_recipe(seeds, tmp_path, capsys):
    first, second, _ = seeds

    def refused(*runs):
        assert main(["compare", *runs]) == 2
        return capsys.readouterr().err

    assert "two finished runs or more" in refused(first)
    assert "same seeds" in refused(first, first)
    assert "run prepare first" in refused(first, str(tmp_path / "none"))
    edit_manifest(tmp_path / "seed2", config={"student": {"dim": 99}})
    assert "student.dim" in refused(first, second)
    (tmp_path / "seed2" / "student" / "alone_ranking.npz").unlink()
    assert "student_alone not ranked yet" in refused(first, second)


def test_compare_says_where_the_page_cannot_be_written(seeds, tmp_path, capsys):
    assert main(["compare", *seeds, "--html", str(tmp_path / "none" / "page.html")]) == 2
    assert "--html takes a file in a directory that exists" in capsys.readouterr().err


def as_fold(run, fold, folds=3):
    """Turn a copy of the finished run into one that judged a fold of the users."""
    report = run / "prepared" / "report.json"
    whole = json.loads(report.read_text())
    whole["split"] |= {"test": "users", "folds": folds, "fold": fold}
    report.write_text(json.dumps(whole))
    config = json.loads((run / "bundle" / "manifest.json").read_text())["lineage"]["config"]
    config["split"] |= {"test": "users", "folds": folds, "fold": fold}
    edit_manifest(run, config=config, seeds={"teacher": 1, "student": 1})


def test_folds_are_pooled_over_their_users(seeds, capsys):
    for number, run in enumerate(seeds):
        as_fold(Path(run), number + 1)

    assert main(["compare", *seeds]) == 0

    table = json.loads(capsys.readouterr().out.splitlines()[-1])
    each = len(Ranking.load(Path(seeds[0]) / "student" / "alone_ranking.npz").ranks)
    assert table["by"] == "fold" and table["requests"] == 3 * each
    student = table["models"]["student"]
    assert student["ndcg@10"] == pytest.approx(np.mean(student["ndcg@10_per_seed"]))


def test_a_fold_is_not_pooled_with_itself(seeds, capsys):
    for run, fold in zip(seeds, (1, 2, 2), strict=True):
        as_fold(Path(run), fold)

    assert main(["compare", *seeds]) == 2
    assert "both judge fold 2" in capsys.readouterr().err
