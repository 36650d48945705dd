"""How well student and teacher agree on later events: the teacher ranks them as its own run has ranked its own."""

import numpy as np

from service.bundle import open_bundle
from training.evaluation.judge import Ranking
from training.evaluation.question import ask, judged_part
from training.loop.agreement import describe_agreement, measure_agreement, rank_by_teacher
from training.loop.judge import judge_bundle
from training.progress import Progress
from training.run.config_file import load_config
from training.run.directory import Run


def test_what_the_run_held_out_gives_the_offline_agreement_again(lasting):
    run = Run(lasting.run, load_config(lasting.run / "config.toml"), Progress())
    prepared, bundle = run.prepared(), open_bundle(lasting.run / "bundle")
    question = ask(prepared, judged_part(prepared))

    teacher = rank_by_teacher(run, bundle, question, prepared)
    found = measure_agreement(run, bundle, judge_bundle(bundle, question, prepared), question, prepared)

    assert np.array_equal(teacher.top, Ranking.load(run.out / "mix" / "ranking.npz").top)
    assert abs(found["live"] - found["offline"]) < 0.05  # the bundle is rounded
    assert not found["has_drifted"]


def test_what_lies_far_below_is_called_a_drift():
    assert "drifted" in describe_agreement({"live": 0.5, "offline": 0.7, "has_drifted": True})
    assert "drifted" not in describe_agreement({"live": 0.65, "offline": 0.7, "has_drifted": False})
