"""The ablation: what is tried, what gets more seeds, what is kept, and the table; on a chain world in seconds."""

import json
import shutil

import pytest

from tests.training.world import tiny_settings
from training.__main__ import main
from training.study.ablation import ON_HARD, ON_KL, Plan, Trial, stand_outs, verdict

FEW = (
    "ablation.terms=hint,attention",
    "ablation.positions=3000",
    "ablation.seeds=2",
    "ablation.best=1",
    "distill.smoothing=0.1",
)


def test_a_plan_compares_each_term_with_a_student_of_the_same_blocks():
    plan = Plan({"hint": (1.0, ("pool",)), "attention": (2.0, ("pool", "attention"))}, (1.0, 0.5), (1, 2), 1, 1)

    trials = plan.trials()

    assert len(trials) == len(set(trials)) == 12  # 2 bases x (2 references + 2 terms x 2 scales)
    for trial in trials:
        assert trials.index(trial.reference()) <= trials.index(trial)
        assert trial.reference().blocks == trial.blocks
    assert len({trial.name(1) for trial in trials}) == 12


def test_smoothed_labels_are_one_more_row_on_top_of_the_hard_loss():
    plan = Plan({"hint": (1.0, ("pool",))}, (1.0,), (1,), 1, 1, smoothing=0.1)

    assert [trial for trial in plan.trials() if trial.term == "smoothing"] == [
        Trial(ON_HARD, "smoothing", 0.1, ("pool",))
    ]


def test_the_best_and_the_worst_on_each_base_and_their_references_get_more_seeds():
    base, other = Trial(ON_HARD, None, 0, ("pool",)), Trial(ON_KL, None, 0, ("pool",))
    names = ("a", "b", "c")
    hard, soft = (
        (Trial(ON_HARD, name, 1, ("pool",)) for name in names),
        (Trial(ON_KL, name, 1, ("pool",)) for name in names),
    )
    validation = {base: 0.1, other: 0.2}
    validation |= dict(zip(hard, (0.11, 0.09, 0.1), strict=True)) | dict(zip(soft, (0.21, 0.2, 0.1), strict=True))

    chosen = stand_outs(validation, best=1, worst=1)

    assert set(chosen[:2]) == {base, other}
    assert [(trial.base, trial.term) for trial in chosen[2:]] == [
        (ON_HARD, "a"),
        (ON_HARD, "b"),
        (ON_KL, "a"),
        (ON_KL, "c"),
    ]


@pytest.mark.parametrize(
    ("low", "high", "per_seed", "says"),
    [
        (-0.1, 0.1, [0.01, 0.0], "no difference"),
        (0.1, 0.2, [0.1, 0.2], "helps"),
        (0.1, 0.2, [0.1], "perhaps helps"),
        (0.01, 0.2, [0.2, -0.01], "perhaps helps"),
        (-0.2, -0.1, [-0.1, -0.2, -0.1], "hurts"),
    ],
)
def test_a_verdict_needs_the_interval_and_every_seed(low, high, per_seed, says):
    assert verdict({"low": low, "high": high, "per_seed": per_seed}, len(per_seed)) == says


def test_an_ablation_leaves_its_table_its_section_and_goes_on_from_its_trials(finished_run, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    command = ["ablation", "--out", str(run), *tiny_settings(*FEW)]

    assert main(command) == 0

    table = json.loads((run / "ablation" / "ablation.json").read_text())
    rows = {(row["base"], row["term"], tuple(row["blocks"])): row for row in table["rows"]}
    assert len(rows) == 9
    assert all(row["extra_block"] == (row["blocks"] == ["pool", "attention"]) for row in table["rows"])
    assert set(table["models"]) == {"teacher", "student"}
    assert all(len(row["recall_by_popularity"]) == 5 for row in table["rows"])
    assert len(rows[ON_HARD, None, ("pool",)]["seeds"]) == 2
    again = [key for key, row in rows.items() if len(row["seeds"]) == 2]
    assert sum(term is not None for _, term, _ in again) == 2 * (1 + 1)
    assert {(base, None, blocks) for base, _, blocks in again} <= set(again)
    assert rows[ON_HARD, "smoothing", ("pool",)]["term"] == "smoothing"
    assert not (run / "ablation" / "logits.npy").exists()
    page = (run / "report.html").read_text()
    assert "Which way to transfer is worth using" in page and "soft labels + hint x 1" in page
    assert "On the soft labels: " in page
    assert f"{table['trials']} students" in capfd.readouterr().out

    (run / "bundle").rename(tmp_path / "bundle")  # no report this time
    assert main(command) == 0
    assert "\n  epoch 1:" not in capfd.readouterr().err
    assert json.loads((run / "ablation" / "ablation.json").read_text()) == table


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("ablation.terms=hints", "ablation.terms: unknown term 'hints'"),
        ("ablation.scales=0", "ablation.scales must be above 0"),
        ("ablation.seeds=0", "ablation.seeds must be at least 1"),
    ],
)
def test_a_wrong_ablation_setting_is_refused(setting, says, tmp_path, capsys):
    assert main(["ablation", "--out", str(tmp_path / "run"), "--set", setting]) == 2
    assert says in capsys.readouterr().err
