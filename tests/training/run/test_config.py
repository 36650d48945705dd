"""Settings: defaults, file, --set; and each mistake with its way out."""

import pytest

from training.errors import InputError
from training.run.config import Config, build_config, dump_config, load_config


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
