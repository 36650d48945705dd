"""Which run a refresh goes on from, and which are kept, by bundles that differ in nothing but their numbers."""

from dataclasses import asdict
from pathlib import Path

import pytest

from tests.service.toy import write_toy
from training.loop.gate import Verdict
from training.loop.generation import Generation, Plan, base_of, begin, prune, read_generations
from training.loop.history import add_to_history


@pytest.fixture
def generations(tmp_path: Path) -> list[Generation]:
    """Six refreshes of a run, of which the first two were published."""
    write_toy(tmp_path / "bundle")
    for number in range(1, 7):
        plan = Plan(number, number - 1, None, number, 10, "warm", "", number, "2026-01-01")
        made = begin(tmp_path, plan)
        write_toy(made.path / "bundle", seed=number)
        row = asdict(plan) | {"version": made.version} | asdict(Verdict(number <= 2, "", 0))
        add_to_history(tmp_path, row)
    return read_generations(tmp_path)


def test_where_the_store_names_no_version_the_last_published_one_is_gone_on_from(
    generations: list[Generation], tmp_path: Path
) -> None:
    assert base_of(generations, generations[1].version, tmp_path).number == 1
    assert base_of(generations, None, tmp_path).number == 2
    assert base_of(generations[:1], None, tmp_path).number == 0


def test_versions_that_may_become_live_keep_their_runs(generations: list[Generation], tmp_path: Path) -> None:
    (tmp_path / "refresh" / ".0003.old").mkdir()  # left by a process that was killed

    prune(generations, [generations[6].version, generations[2].version, generations[1].version])

    assert [each.number for each in read_generations(tmp_path)] == [0, 1, 2, 4, 5, 6]
    assert not list((tmp_path / "refresh").glob(".*"))
