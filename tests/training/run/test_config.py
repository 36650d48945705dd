"""What each setting may be: every kind of mistake with its way out, and lists taken apart."""

import pytest

from training.errors import InputError
from training.run.config import check_refit, parse_candidates, parse_names, parse_numbers
from training.run.config_file import load_config


def test_lists_are_read_as_their_words_and_numbers():
    config = load_config(None, ["teacher.members=twin, linear", "search.dims=16,,32", "search.blocks=pool; pool , gru"])

    assert parse_names(config, "teacher.members") == ("twin", "linear")
    assert parse_numbers(config, "search.dims") == [16, 32]
    assert parse_numbers(config, "ablation.scales") == [1.0]
    assert parse_candidates(config) == [("pool",), ("pool", "gru")]


def test_refit_refuses_what_learns_from_validation():
    with pytest.raises(InputError, match=r"distill.terms: meta learns from validation, and --refit holds none out"):
        check_refit(load_config(None, ["distill.terms=meta"]))


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
        ("search.dims=wide", "search.dims must be a list of numbers from 1 to 4096, each of them, not 'wide'"),
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
