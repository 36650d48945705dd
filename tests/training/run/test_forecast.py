"""What a run is told that it will need."""

import time
from dataclasses import replace
from pathlib import Path

from training.__main__ import main
from training.data.prepared import load_prepared
from training.evaluation.baseline import MOST_NEIGHBOURS, most_neighbours
from training.machine import available_bytes
from training.run.config import Config, Teacher
from training.run.forecast import Need, forecast, forecast_lines, logits_a_second, scores_a_second
from training.teacher.linear_model import MAX_ITEMS, most_items

GB = 1_000_000_000


def test_a_short_run_that_fits_is_told_nothing() -> None:
    assert forecast_lines([Need("linear", GB, 10, 0), Need("student", GB, 100, 0)], 2 * GB) == []


def test_a_long_run_is_told_memory_minutes_and_disk_by_stage() -> None:
    (line,) = forecast_lines([Need("linear", 3 * GB, 60, GB), Need("student", GB, 600, GB)], 4 * GB)

    assert "at most 3.0 GB of memory, 2.0 GB of disk and 11 min" in line
    assert "linear 3.0 GB, 1 min; student 1.0 GB, 10 min" in line


def test_a_run_that_does_not_fit_is_told_what_to_do() -> None:
    lines = forecast_lines([Need("linear", 9 * GB, 1, 0)], 4 * GB)

    assert len(lines) == 2
    assert "more memory than the 4.0 GB that are free" in lines[1]


def test_needs_grow_with_the_settings_and_name_the_stages(chain_world: Path, tmp_path: Path) -> None:
    assert main(["prepare", "--interactions", str(chain_world), "--out", str(tmp_path / "run")]) == 0
    prepared, config = load_prepared(tmp_path / "run" / "prepared"), Config()
    wide = replace(config, teacher=replace(config.teacher, dim=2048))

    small, large = forecast(config, prepared), forecast(wide, prepared)

    assert [need.stage for need in small] == ["linear", "transformer", "twin", "mix", "student", "similar", "baselines"]
    assert large[1].memory_bytes > small[1].memory_bytes
    assert large[1].disk_bytes > 10 * small[1].disk_bytes
    alone = forecast(replace(config, teacher=Teacher(members="linear")), prepared)
    assert [need.stage for need in alone] == ["linear", "mix", "student", "similar", "baselines"]
    titled = replace(prepared, items=[replace(item, title="a lamp") for item in prepared.items])
    assert [need.stage for need in forecast(config, titled)][-3:] == ["item encoder", "similar", "baselines"]
    for stage in (3, 4):
        assert large[stage].memory_bytes > small[stage].memory_bytes > alone[stage - 2].memory_bytes, (
            "all teachers are in memory together"
        )


def test_neighbours_of_a_large_catalogue_are_as_many_as_item_knn_keeps() -> None:
    assert [most_neighbours(n_items) // n_items for n_items in (10, 10_000, 742_139, 9_000_000)] == [10, 500, 100, 20]
    assert most_neighbours(742_139) <= MOST_NEIGHBOURS


def test_the_linear_model_covers_what_memory_has_room_for() -> None:
    assert most_items(500, 100 * GB) == 500
    assert most_items(90_000, 100 * GB) == MAX_ITEMS
    assert most_items(90_000, None) == MAX_ITEMS
    assert 7_000 < most_items(90_000, GB) < 8_000
    assert most_items(90_000, 0) == 1_000


def test_memory_that_is_free_is_known_here() -> None:
    assert (available_bytes() or 0) > 100_000_000


def test_speed_is_measured_at_once() -> None:
    started = time.monotonic()

    assert logits_a_second(64, 100_000) > 1e5
    assert scores_a_second(64, 100_000) > 1e5
    assert scores_a_second(64, 5) > 1e2
    assert time.monotonic() - started < 60
