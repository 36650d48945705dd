"""Directories of one user: made so, closed to others, and refused where others could have planted something."""

import os
import stat
from pathlib import Path

import pytest

from service.errors import StartError
from service.private_directory import make_private, open_private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_made_is_private(tmp_path: Path) -> None:
    made = make_private(tmp_path / "a" / "b")

    assert mode(made) == 0o700


@pytest.mark.parametrize("before", [0o755, 0o750, 0o701])
def test_what_others_could_read_is_closed(tmp_path: Path, before: int) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(before)

    assert mode(make_private(tmp_path / "data")) == 0o700


@pytest.mark.parametrize("before", [0o777, 0o1777, 0o770, 0o720, 0o702])
def test_what_others_could_write_is_refused(tmp_path: Path, before: int) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(before)

    with pytest.raises(StartError, match="others may write there"):
        make_private(tmp_path / "data")


@pytest.mark.skipif(os.getuid() != 0, reason="NOT CHECKED: only root can give a directory to another user")
def test_what_belongs_to_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    os.chown(tmp_path / "link", 12345, 12345, follow_symlinks=False)

    for path in (tmp_path / "theirs", tmp_path / "link"):
        with pytest.raises(StartError, match="another user"):
            make_private(path)


def test_a_link_of_ones_own_to_a_directory_is_followed_but_none_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "lock").symlink_to(tmp_path / "victim")

    make_private(tmp_path / "link")
    with pytest.raises(OSError, match="symbolic links"):
        open_private(tmp_path / "link" / "lock", os.O_RDWR | os.O_CREAT)

    assert not (tmp_path / "victim").exists()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "data").touch()

    with pytest.raises(OSError, match="exists"):
        make_private(tmp_path / "data")
