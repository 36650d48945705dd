"""Settings as a file: defaults, file, --set; written back as they were, and damaged files named."""

import json
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from training.errors import InputError
from training.run.config import Config
from training.run.config_file import build_config, differing_settings, dump_config, load_config

DEFAULTS = Path(__file__).with_name("default_config.toml").read_text()


def test_the_defaults_are_written_byte_for_byte_as_finished_runs_hold_them():
    assert dump_config(Config()) == DEFAULTS


def test_the_settings_that_stage_keys_are_made_of_are_those_of_the_file():
    assert json.dumps(asdict(Config())) == json.dumps(tomllib.loads(DEFAULTS))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("teacher.dim=96", "dim = 96"),
        (" teacher.dim = 96 ", "dim = 96"),
        ("distill.alpha=1", "alpha = 1.0"),
        ("prepare.min_weight=3", "min_weight = 3.0"),
        ("search.dims=64", 'dims = "64"'),
        ("search.alphas=0.5", 'alphas = "0.5"'),
        ("search.blocks=pool; attention,pool", 'blocks = "pool; attention,pool"'),
        ("student.unit=true", "unit = true"),
        ("prepare.events=7", 'events = "7"'),
        ("prepare.events= kauf ", 'events = "kauf"'),
        ("prepare.columns=user_id=Käufer,item_id=Stück=1", 'columns = "user_id=K\\u00e4ufer,item_id=St\\u00fcck=1"'),
        ("teacher.learning_rate=1e-3", "learning_rate = 0.001"),
        ("teacher.positions=1_000", "positions = 1000"),
    ],
)
def test_a_setting_changes_its_own_line_and_no_other(override, line):
    config = load_config(None, [override])

    ours, theirs = dump_config(config).splitlines(), DEFAULTS.splitlines()
    assert [new for new, old in zip(ours, theirs, strict=True) if new != old] == [line]
    assert differing_settings(Config(), config) == [override.partition("=")[0].strip()]


def test_set_wins_over_file_wins_over_defaults(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[teacher]\ndim = 64\nheads = 8\n")

    config = load_config(path, ["teacher.dim=96", "compress.items=int8", "distill.alpha=1"])

    assert (config.teacher.dim, config.teacher.heads, config.teacher.blocks) == (96, 8, Config().teacher.blocks)
    assert config.compress.items == "int8"
    assert config.distill.alpha == 1.0


def test_dumped_config_reads_back_the_same(tmp_path):
    config = load_config(None, ["prepare.columns=user_id=CustomerID,item_id=StockCode", "student.dim=24"])
    path = tmp_path / "config.toml"

    path.write_text(dump_config(config))

    assert load_config(path) == config


def test_a_missing_or_broken_file_is_named(tmp_path):
    (tmp_path / "broken.toml").write_text("[teacher\n")

    with pytest.raises(InputError, match=r"none.toml: no such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(InputError, match=r"broken.toml: not TOML"):
        load_config(tmp_path / "broken.toml")


def test_a_value_where_a_section_belongs_is_refused():
    with pytest.raises(InputError, match=r"teacher must be a section"):
        build_config({"teacher": 3})
