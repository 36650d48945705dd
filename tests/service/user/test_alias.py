"""The aliases of users in the log: stable with a key, unlike without it, and one key for all processes of a machine."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from service.user.alias import Aliases, kept_key


@given(st.text(min_size=1, max_size=128).filter(lambda text: text.isprintable()), st.binary(max_size=80))
def test_an_alias_depends_on_user_and_key_alone(user_id: str, key: bytes) -> None:
    alias = Aliases(key).of(user_id)

    assert alias == Aliases(key).of(user_id)
    assert alias != Aliases(key + b"x").of(user_id)
    assert alias != Aliases(key).of(user_id + "x")
    assert len(alias) == 16


def test_the_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(kept_key, [tmp_path] * 40))

    assert keys == {kept_key(tmp_path)}
    assert [path.name for path in tmp_path.iterdir()] == ["log.key"]
    assert stat.S_IMODE((tmp_path / "log.key").stat().st_mode) == 0o600


def test_a_key_that_was_cut_short_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "log.key").write_bytes(b"short")

    assert len(kept_key(tmp_path)) == 32
    assert kept_key(tmp_path) == kept_key(tmp_path)


def test_no_link_is_followed_and_no_directory_needed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"k" * 32)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "log.key").symlink_to(tmp_path / "theirs")

    assert kept_key(tmp_path / "data") != b"k" * 32
    assert kept_key(tmp_path / "data") != kept_key(tmp_path / "data")
    assert kept_key(tmp_path / "missing") != kept_key(tmp_path / "missing")
