"""The gate: what passes, what does not, and how often a model passes that is worse by the margin."""

import numpy as np

from training.loop.gate import decide

USERS = np.arange(4000)


def values(rng, n=4000, at=0.1):
    return np.where(rng.random(n) < at, 1.0, 0.0)


def test_a_better_model_and_an_equal_one_pass_and_a_worse_one_does_not():
    rng = np.random.default_rng(0)
    live = values(rng)
    better, worse = np.maximum(live, values(rng, at=0.03)), np.where(rng.random(4000) < 0.1, 0.0, live)

    assert decide(live, better, USERS, margin=0.02, least=100).passes
    assert decide(live, live, USERS, margin=0.02, least=100).sentence.startswith("published: NDCG@10 0.")
    verdict = decide(live, worse, USERS, margin=0.02, least=100)
    assert not verdict.passes and verdict.high < 0
    assert "not published" in verdict.sentence and "may be worse by 2.0% or more" in verdict.sentence


def test_a_model_that_is_worse_by_the_margin_passes_about_once_in_forty_times():
    rng, margin, passed = np.random.default_rng(1), 0.05, 0
    for _ in range(120):
        live, new = values(rng, at=0.2), values(rng, at=0.2 * (1 - margin))
        passed += decide(live, new, USERS, margin=margin, least=100).passes

    assert passed <= 9  # 3 are expected


def test_too_few_requests_and_models_that_find_nothing_are_not_published():
    few = decide(np.ones(99), np.ones(99), USERS[:99], margin=0.5, least=100)
    nothing = decide(np.zeros(200), np.zeros(200), USERS[:200], margin=0.5, least=100)
    first = decide(np.zeros(200), np.ones(200), USERS[:200], margin=0.02, least=100)

    assert not few.passes and few.sentence == "not published: 99 requests that neither model saw; 100 are needed"
    assert not nothing.passes and "neither model finds any" in nothing.sentence
    assert first.passes and first.difference == 1.0
    assert not decide(np.zeros(0), np.zeros(0), USERS[:0], margin=0.5, least=1).passes
