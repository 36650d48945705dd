"""The search of the student: what is chosen, what fits, what is kept; on a chain world in seconds."""

import json

import pytest

from tests.training.world import tiny_settings, write_chain_world
from training.__main__ import main
from training.errors import InputError
from training.study.search import Budget, Candidate, _best

SMALL = (
    "search.dims=8,16",
    "search.blocks=pool",
    "search.alphas=0.5",
    "search.temperatures=1",
    "search.positions=3000",
)


def trial(ndcg, ms, megabytes, dim=16):
    made = {"dim": dim, "blocks": ["pool"], "alpha": 0.5, "temperature": 1.0}
    return made | {"ndcg@10": ndcg, "model_ms": ms, "bytes": megabytes * 1e6}


def test_the_best_that_fits_is_chosen():
    trials = [trial(0.3, 2.0, 1, dim=64), trial(0.2, 0.5, 1, dim=32), trial(0.1, 0.1, 0.1, dim=8)]

    assert _best(trials, Budget()).dim == 64
    assert _best(trials, Budget(ms=1)).dim == 32
    assert _best(trials, Budget(mb=0.5)).dim == 8


def test_a_budget_that_nothing_fits_names_the_cheapest():
    with pytest.raises(InputError, match=r"no student fits 0.01 ms.*takes 0.1 ms and 0.1 MB"):
        _best([trial(0.1, 0.1, 0.1)], Budget(ms=0.01))


def test_two_candidates_never_share_a_name():
    names = {
        Candidate(dim, blocks, alpha, temperature).name()
        for dim in (8, 81)
        for blocks in (("pool",), ("pool", "gru"))
        for alpha in (0.5, 0.55)
        for temperature in (1.0, 1.5)
    }

    assert len(names) == 16


def test_a_run_under_a_budget_searches_trains_the_choice_and_goes_on_from_its_trials(tmp_path, capfd):
    world, out = write_chain_world(tmp_path / "world.csv"), tmp_path / "run"
    command = ["run", "--interactions", str(world), "--out", str(out), "--budget-mb", "0.5", *tiny_settings(*SMALL)]

    assert main(command) == 0

    trials = json.loads((out / "search" / "trials.json").read_text())
    chosen = next(row for row in trials if row["chosen"])
    assert [row["dim"] for row in trials][:2] == [8, 16]
    assert json.loads((out / "bundle" / "manifest.json").read_text())["dim"] == chosen["dim"]
    assert "NDCG@10 of the candidates against their cost" in (out / "report.html").read_text()
    assert "report:" in capfd.readouterr().out

    wider = ["search", "--out", str(out), "--set", "search.dims=8,16,24"]
    assert main(wider) == 0
    again = capfd.readouterr().err
    kept = f"trial {chosen['dim']}-pool-a{chosen['alpha']:g}-t1"
    assert f"\n  {kept}: validation" in again and f"\n  {kept}\n" not in again
    assert "\n  trial 24-pool-" in again


def test_runtime_takes_its_share_of_the_megabytes():
    trial = {"model_ms": 1.0, "bytes": 600_000}

    assert Budget(mb=15.0).allows(trial)
    assert Budget(mb=15.0, runtime_mb=14.4).allows(trial)
    assert not Budget(mb=14.9, runtime_mb=14.4).allows(trial)
    assert Budget(runtime_mb=14.4).allows(trial)  # there is no limit
    with pytest.raises(InputError, match=r"0 ms and 14\.9 MB, of which 14\.4 MB are the runtime's"):
        _best([trial], Budget(mb=14.9, runtime_mb=14.4))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("search.dims=8,x", "search.dims must be a list of numbers"),
        ("search.dims=", "search.dims must be a list of numbers"),
        ("search.blocks=pool;conv", "search.blocks must list some of attention, pool, gru"),
        ("search.budget_ms=-1", "search.budget_ms must be at least 0"),
        ("search.alphas=2", "search.alphas must lie between 0 and 1"),
        ("search.temperatures=0", "search.temperatures must be above 0"),
    ],
)
def test_a_wrong_search_setting_is_refused(tmp_path, capfd, setting, says):
    assert main(["search", "--out", str(tmp_path / "run"), "--set", setting]) == 2
    assert says in capfd.readouterr().err
