"""The closed loop of tests/bench/feedback.py in a tiny world: models that follow each other on what users clicked."""

from pathlib import Path

from tests.bench.feedback import Arm, Loop


def test_the_loop_goes_on_over_refreshes_and_lists_stay_better_than_chance(tmp_path: Path) -> None:
    loop = Loop(tmp_path / "loop", Arm(0.5, "position"), n_users=150, n_items=90)
    loop.begin()
    rows = [loop.show(0)]
    for number in (1, 2):
        assert loop.refresh().startswith("published")
        rows.append(loop.show(number))

    assert all(row["times random"] > 3 and 0 < row["of ideal"] < 1 for row in rows)
    assert all(0.3 < row["coverage"] <= 1 and 0 < row["new"] < 0.5 for row in rows)
    explored = [line for line in loop.log.lines if b'"explored": true' in line]
    assert len(explored) > 100
