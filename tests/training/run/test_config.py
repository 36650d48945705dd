"""Settings: defaults, file, --set; and each mistake with its way out."""

import json
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from training.errors import InputError
from training.run.config import (
    Config,
    build_config,
    check_refit,
    differing_settings,
    dump_config,
    load_config,
    parse_candidates,
    parse_names,
    parse_numbers,
)

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


def test_lists_are_read_as_their_words_and_numbers():
    config = load_config(None, ["teacher.members=twin, linear", "search.dims=16,,32", "search.blocks=pool; pool , gru"])

    assert parse_names(config, "teacher.members") == ("twin", "linear")
    assert parse_numbers(config, "search.dims") == [16, 32]
    assert parse_numbers(config, "ablation.scales") == [1.0]
    assert parse_candidates(config) == [("pool",), ("pool", "gru")]


def test_refit_refuses_what_learns_from_validation():
    with pytest.raises(InputError, match=r"distill.terms: meta learns from validation, and --refit holds none out"):
        check_refit(load_config(None, ["distill.terms=meta"]))


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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.dims=3", r"unknown setting teacher.dims; known in \[teacher\]: dim, blocks"),
        ("tutor.dim=3", r"unknown section \[tutor\]; known: prepare, split, teacher"),
        ("teacher.dim=big", "teacher.dim must be of type int, not 'big'"),
        ("teacher.dim=true", "teacher.dim must be of type int"),
        ("teacher.dim=6.5", "teacher.dim must be of type int"),
        ("teacher.dim", "write section.key=value"),
        ("dim=3", "write section.key=value"),
        ("teacher.dim=0", "teacher.dim must be at least 1, not 0"),
        ("teacher.heads=3", "teacher.dim 128 must be a multiple of teacher.heads 3"),
        ("student.dropout=1.0", "student.dropout must be at least 0 and below 1"),
        ("distill.alpha=1.5", "distill.alpha must be between 0 and 1"),
        ("distill.temperature=0", "distill.temperature must be above 0"),
        ("teacher.learning_rate=-1", "teacher.learning_rate must be above 0"),
        ("compress.items=int4", "compress.items must be one of float32, float16, int8"),
        ("split.test=random", "split.test must be one of last, time, users, none"),
        ("prepare.repeats=maybe", "prepare.repeats must be one of auto, yes, no"),
        ("split.time_share=1", "split.time_share must be above 0 and below 1"),
        ("distill.temperature=nan", "distill.temperature must be"),
        ("distill.alpha=2", "distill.alpha must be between 0 and 1, not 2.0"),
        ("distill.alpha=true", "distill.alpha must be of type float, not True"),
        ("distill.teacher_temperature=-1", "must be above 0, or 0 for the student's own, not -1.0"),
        ("student.unit=1", "student.unit must be of type bool, not 1"),
        ("student.blocks=['pool']", r"student.blocks must be of type str, not \['pool'\]"),
        ("student.blocks=conv", "student.blocks must list some of attention, pool, gru, not 'conv'"),
        ("teacher.members=", "teacher.members must list some of transformer, linear, text, twin, not ''"),
        ("teacher.members=text", "teacher.members has text: set teacher.text"),
        ("teacher.seed=4294967296", "teacher.seed must be at least 0, not 4294967296"),
        ("teacher.dim=1979-05-27", r"teacher.dim must be of type int, not datetime.date\(1979, 5, 27\)"),
        ("search.blocks=pool;;gru", "search.blocks must list some of attention, pool, gru, not 'pool;;gru'"),
        ("search.dims=5000", "search.dims must be a list of numbers from 1 to 4096, each of them, not '5000'"),
        ("search.dims=wide", "search.dims must be a list of numbers such as 32,64,128,256,384"),
        ("search.alphas=0.5,2", "search.alphas must lie between 0 and 1, each of them, not '0.5,2'"),
        ("search.temperatures=0", "search.temperatures must be above 0, each of them, not '0'"),
        ("search.dims=9", "search.dims: 9 is no multiple of student.heads 2"),
        ("split.folds=1", "split.folds must be at least 2, not 1"),
        ("split.fold=6", "split.fold must be from 1 to split.folds=5, not 6"),
        ("prepare.max_malformed=1.1", "prepare.max_malformed must be between 0 and 1, not 1.1"),
        ("search.minutes=-1", "search.minutes must be at least 0, not -1.0"),
        ("ablation.terms=hard", "ablation.terms: unknown term 'hard'"),
        ("distill.terms=hint:0", "distill.terms: the weight of hint must be a number above 0, not '0'"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_way_out(override, message):
    with pytest.raises(InputError, match=message):
        load_config(None, [override])


def test_a_missing_or_broken_file_is_named(tmp_path):
    (tmp_path / "broken.toml").write_text("[teacher\n")

    with pytest.raises(InputError, match=r"none.toml: no such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(InputError, match=r"broken.toml: not TOML"):
        load_config(tmp_path / "broken.toml")


def test_a_value_where_a_section_belongs_is_refused():
    with pytest.raises(InputError, match=r"teacher must be a section"):
        build_config({"teacher": 3})
