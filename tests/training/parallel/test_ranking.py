"""What several processes share is what one does: rankings, weights of a score, validation and soft labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from service.bundle import NeighbourRule, Parts, ScoreRule, TrendRule
from tests.training.together import together_on
from training import ranks
from training.data.prepared import load_prepared, training_events
from training.data.split import TEST
from training.evaluation import given_weights, question
from training.evaluation.given import Given, to_neighbours
from training.evaluation.judge import best_rows, judge, model_scorer, rank, validation_score
from training.evaluation.metric import rank_targets, worst_rank
from training.evaluation.with_given import judge_given, learn_rule, validation_score_given
from training.model.checkpoint import whole_model
from training.model.encoder import Size, make_model
from training.parallel import evidence
from training.parallel.ranking import best_in_shards, rank_in_shards
from training.parallel.shard import Shard
from training.parallel.table import divide
from training.progress import Progress
from training.teacher.kind import RANKING, Member
from training.teacher.mix import MIX, mix_teachers
from training.teacher.soft_labels import MixedLabels, StateLabels, TrendLabels, labels_of

SIZE = Size(16, ("pool", "attention"), 2, 0.0, 12, has_trend=True)
N_REQUESTS, N_ITEMS = 50, 31
SMALL = {
    (question, "AT_ONCE"): 9,  # requests scored together
    (evidence, "AT_ONCE"): 1024,  # scores that are worked on together, in the fit
    (given_weights, "FIRST"): 4,
}
"""Sizes of which a small world has several, and a number of them that the processes cannot share evenly."""


def ranked():
    """Scores with ties, targets of which some are seen or not in the catalogue, and what was seen."""
    rng = np.random.default_rng(1)
    scores = rng.integers(-3, 4, (N_REQUESTS, N_ITEMS)).astype(np.float32)
    target = rng.integers(0, N_ITEMS, N_REQUESTS)
    target[7] = -1
    return scores, target, [rng.integers(0, N_ITEMS, n % 7) for n in range(N_REQUESTS)]


def teach(directory):
    """The prepared data, a model of them, what it is given, and labels."""
    prepared = load_prepared(directory / "prepared")
    n_items, n_events = len(prepared.items), len(training_events(prepared).item)
    rng = np.random.default_rng(2)
    near = to_neighbours(rng.integers(-1, n_items, (n_items, 5)).astype(np.int32), rng.random((n_items, 5)))
    rule = ScoreRule(None, neighbours=NeighbourRule(2.0, 0.5, 3), trend=TrendRule(5000.0, 0.1, 1.0))
    given = Given(prepared, Parts(rule, near))
    states = rng.standard_normal((n_events, 16)).astype(np.float16)
    own = StateLabels(states, torch.from_numpy(rng.standard_normal((n_items, 16)).astype(np.float32)))
    return prepared, make_model(n_items, SIZE, 3), given, MixedLabels([own, TrendLabels(given, 0.3)])


def measured(prepared, model, given):
    """NDCG@10 of validation by histories alone, with what is given, and with seen items too."""
    again = replace(prepared, report=prepared.report | {"repeat_consumption": True})
    own = replace(given, prepared=again)
    return [
        validation_score(prepared)(model),
        validation_score_given(prepared, given)(model),
        validation_score_given(again, own)(model),
    ]


def mixed(out, prepared, model, given):
    """The mix of a model with a trend of its own and of one whose trend is fitted, and its ranking, as written."""
    ranks.alone(out.mkdir)
    own = replace(given, parts=Parts(replace(given.parts.rule, neighbours=None)))
    other = make_model(model.n_items, replace(SIZE, has_trend=False), 4)
    members = {
        name: Member(model_scorer(each), 12, 0, 0.0, float, weight)
        for name, each, weight in (("one", model, 0.5), ("other", other, None))
    }
    mix_teachers(out, prepared, lambda: members, Progress(is_quiet=True), own)
    return {f"mix, {path.name}": torch.tensor(list(path.read_bytes())) for path in (out / MIX, out / RANKING)}


def found_in(directory, prepared, model, given):
    """The weights of a score, as they are written, and the rankings of both rules, over all items and over some."""
    quiet, name = Progress(is_quiet=True), f"{ranks.count()}-{model.shard is None}"
    found, whole = {}, whole_model(model)
    for looked_at in (5_000, 20):  # items of a request: all, or some of them
        given_weights.COLUMNS = looked_at
        path = directory / f"{name}-{looked_at}.json"
        rule = learn_rule(whole, given, path, quiet, by_first=model.shard is not None)
        found[f"weights, {looked_at}"] = torch.tensor(list(path.read_bytes()))
    rankings = {"given": judge_given(prepared, model, given, rule), "histories": judge(prepared, model)}
    if model.shard is None:  # then fewer requests than processes, and a mix
        found |= mixed(directory / f"mix-of-{ranks.count()}", prepared, model, given)
        rankings["one"] = rank(question.ask(prepared, TEST, limit=1), model_scorer(model), 12, both_rules=True)
    for label, ranking in rankings.items():
        for kind, own in {"": ranking, " under the other rule": ranking.other}.items():
            found[f"{label}{kind}: ranks"], found[f"{label}{kind}: top"] = map(torch.from_numpy, (own.ranks, own.top))
        if label != "one":
            found[f"{label}: start"] = torch.from_numpy(ranking.start)
    return found


def work(directory):
    for (module, name), value in SMALL.items():
        setattr(module, name, value)
    scores, target, seen = ranked()
    shard = Shard.of(N_ITEMS)
    own = scores[:, shard.columns]
    found = {
        "ranks": torch.from_numpy(rank_in_shards(own.copy(), target, shard, worst_rank(N_ITEMS))),
        "unseen": torch.from_numpy(rank_in_shards(own.copy(), target, shard, worst_rank(N_ITEMS), seen)),
        "best": torch.from_numpy(best_in_shards(own, 20, shard)),
    }
    if ranks.number() == ranks.count() - 1:
        own[3, 2] = np.nan
    try:
        rank_in_shards(own, target, shard, worst_rank(N_ITEMS))
    except ValueError:
        found["refused"] = torch.tensor(True)
    prepared, model, given, labels = teach(directory)
    found["replicas"] = found_in(directory, prepared, model, given)
    found["alone"] = ranks.alone(lambda: judge(prepared, model).ranks.tolist() if ranks.is_first() else None)
    found["replicas' ndcg"] = torch.tensor(measured(prepared, model, given), dtype=torch.float64)
    divide(model)
    found["shards"] = found_in(directory, prepared, model, given)
    found["held"] = torch.tensor(model.items.weight.shape)
    found["ndcg"] = torch.tensor(measured(prepared, model, given), dtype=torch.float64)
    some = labels_of(labels, model.shard.columns)
    found["table"] = torch.tensor(some.members[0].items.untyped_storage().nbytes())
    found["labels"] = some.logits(torch.arange(40))
    return found


@pytest.fixture(scope="module", params=[2, 3])
def several(request, chain_world, tmp_path_factory):
    directory = tmp_path_factory.mktemp("together")
    return request.param, directory, together_on(chain_world, request.param, work, directory)


def test_ranks_are_those_of_one_process(several):
    scores, target, seen = ranked()

    plain, unseen = rank_targets(scores.copy(), target), rank_targets(scores.copy(), target, seen)

    assert len(set(plain.tolist())) > 10 and worst_rank(N_ITEMS) in plain
    assert all(each["ranks"].tolist() == plain.tolist() for each in several[2])
    assert all(each["unseen"].tolist() == unseen.tolist() for each in several[2])


def test_lists_are_those_of_one_process_and_the_lower_row_is_first_where_scores_are_equal(several):
    scores, _, _ = ranked()

    best = best_rows(scores, 20).tolist()

    assert best == [np.lexsort((np.arange(N_ITEMS), -row))[:20].tolist() for row in scores]
    assert all(each["best"].tolist() == best for each in several[2])


def test_rankings_and_weights_are_to_the_bit_those_of_one_process(several, monkeypatch):
    _, directory, found = several
    for (module, name), value in SMALL.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(given_weights, "COLUMNS", 0)  # found_in sets it
    prepared, model, given, _ = teach(directory)

    alone = found_in(directory, prepared, model, given)

    assert b"trials" in bytes(alone["weights, 20"].tolist())
    assert not torch.equal(alone["given: ranks"], alone["histories: ranks"])
    for each in found:
        for table in ("replicas", "shards"):
            assert {name for name, value in each[table].items() if not torch.equal(value, alone[name])} == set()
        assert set(each["replicas"]) == set(alone)
        assert each["alone"] == alone["histories: ranks"].tolist()


def test_a_score_that_is_not_finite_is_refused_by_all(several):
    assert all(each["refused"] for each in several[2])


def test_validation_is_that_of_one_process_though_none_holds_the_whole_table(several):
    count, directory, found = several
    prepared, model, given, _ = teach(directory)

    alone = measured(prepared, model, given)

    assert len({round(value, 6) for value in alone}) == 3
    assert all(each["ndcg"].tolist() == each["replicas' ndcg"].tolist() == alone for each in found)
    assert sum(each["held"][0] for each in found) == len(prepared.items)
    assert max(each["held"][0] for each in found) <= -(-len(prepared.items) // count)


def test_soft_labels_are_those_of_one_process_and_hold_the_own_items_alone(several):
    count, directory, found = several
    prepared, _, _, labels = teach(directory)

    whole = labels.logits(torch.arange(40))

    torch.testing.assert_close(torch.cat([each["labels"] for each in found], dim=1), whole, atol=1e-6, rtol=0)
    assert max(each["table"] for each in found) <= 4 * 16 * -(-len(prepared.items) // count)
