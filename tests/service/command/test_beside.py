import pytest

from service.__main__ import _parser
from service.command.beside import check_kind
from service.errors import StartError


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--share", "5"), "--share goes with --as shadow, --as canary, --as experiment: add one"),
        (("--as", "canary", "--share", "0"), "percent from 0.01 to 100, not 0"),
        (("--as", "canary", "--share", "nan"), "percent from 0.01 to 100, not nan"),
        (("--as", "shadow", "--share", "-5"), "percent"),
        (("--as", "shadow", "--share", "1e9"), "percent"),
        (("--as", "canary", "--no-activate"), "--no-activate is about the live version"),
        (("--as", "canary", "--if-live", "none"), "--if-live is about the live version"),
    ],
)
def test_publish_refuses_what_contradicts_itself(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(StartError, match=words):
        check_kind(_parser().parse_args(["publish", "bundle", *arguments]))


@pytest.mark.parametrize(
    "arguments", [(), ("--as", "canary"), ("--as", "shadow", "--share", "0.5"), ("--no-activate",)]
)
def test_publish_takes_the_rest(arguments: tuple[str, ...]) -> None:
    check_kind(_parser().parse_args(["publish", "bundle", *arguments]))


@pytest.mark.parametrize("arguments", [("--as", "canari"), ("--as", "canary", "--share", "many")])
def test_words_that_are_none_are_refused_by_the_parser(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(["publish", "bundle", *arguments])

    assert arguments[-1] in capsys.readouterr().err
