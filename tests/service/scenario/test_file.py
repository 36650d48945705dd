"""The file of scenarios: JSON and TOML say the same, and what is wrong is named."""

from pathlib import Path

import orjson
import pytest

from service.errors import StartError
from service.scenario.file import read_scenarios


def test_both_forms_say_the_same(tmp_path: Path) -> None:
    json, toml = tmp_path / "s.json", tmp_path / "s.toml"
    json.write_text(
        '{"home": {"k": 3, "filter": {"brand": ["A"]}, "boost": [{"if": {"tag": "x"}, "by": 2}]}, "é/": {}}'
    )
    toml.write_text('[home]\nk = 3\nfilter = { brand = ["A"] }\n[[home.boost]]\nby = 2\nif = { tag = "x" }\n["é/"]\n')

    found = read_scenarios(json)

    assert {name: orjson.loads(body) for name, body in found.items()} == {
        "home": {"k": 3, "filter": {"brand": ["A"]}, "boost": [{"if": {"tag": "x"}, "by": 2.0}]}, "é/": {},
    }  # fmt: skip
    assert {name: orjson.loads(body) for name, body in read_scenarios(toml).items()} == {
        name: orjson.loads(body) for name, body in found.items()
    }
    assert read_scenarios(None) == {}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.json", b'{"home": {"k": 0}}', "scenario 'home': k: "),
        ("s.json", b'{"home": {"histroy": []}}', "histroy"),
        ("s.json", b'{"home": 5}', "scenario 'home'"),
        ("s.json", b'{"": {}}', "scenario ''"),
        ("s.json", b'{"%b": {}}' % (b"x" * 65), "1 to 64 characters"),
        ("s.json", b"[1]", "by name"),
        ("s.json", b"{", "s.json"),
        ("s.json", b"\xff", "s.json"),
        ("s.json", b"", "s.json"),
        ("s.json", b" " * ((4 << 20) + 1), "larger than"),
        ("s.toml", b"home = 5", "scenario 'home'"),
        ("s.toml", b"[home]\nk = 1979-05-27", "scenario 'home'"),
        ("s.toml", b"[home]\ndiversity = nan", "scenario 'home'"),
        ("s.toml", b"home", "s.toml"),
        ("s.toml", b"\xff", "s.toml"),
        ("gone.json", None, "gone.json"),
    ],
)
def test_file_that_is_wrong_is_refused_by_name(tmp_path: Path, name: str, text: bytes | None, message: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text)

    with pytest.raises(StartError) as caught:
        read_scenarios(path)

    assert message in str(caught.value)
    assert str(path) in str(caught.value)
