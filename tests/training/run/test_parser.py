"""The command line: every command that can be typed has work to do, and the other way round."""

import pytest

from training.command import COMMANDS
from training.run import parser


def test_every_command_has_its_options_and_its_work():
    assert list(parser.COMMANDS) == list(COMMANDS)


def test_the_name_of_the_command_is_read_with_its_options():
    arguments = parser.build_parser().parse_args(["teacher", "--out", "runs/a", "--set", "teacher.dim=96"])

    assert (arguments.command, arguments.set, arguments.refit) == ("teacher", ["teacher.dim=96"], False)


def test_without_a_command_the_usage_is_shown(capsys):
    with pytest.raises(SystemExit) as ended:
        parser.build_parser().parse_args([])

    assert ended.value.code == 2
    assert "the following arguments are required: COMMAND" in capsys.readouterr().err
