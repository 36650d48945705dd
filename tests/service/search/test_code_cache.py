"""Codes are made once for a version, and anew where they are damaged."""

import shutil
from pathlib import Path

import pytest

from service.bundle import Bundle, open_bundle
from service.search.approximate import Approximate
from tests.service.search.conftest import open_approximate


def test_codes_are_kept_for_the_version_and_not_in_the_bundle(
    large_bundle: Bundle, directory: Path, search: Approximate
) -> None:
    files = {path: path.stat().st_ino for path in directory.rglob("*.*") if path.is_file()}

    again = open_approximate(large_bundle, directory)

    assert {path: path.stat().st_ino for path in directory.rglob("*.*") if path.is_file()} == files
    assert any(large_bundle.manifest.version in str(path) for path in files)
    assert again.describe() == search.describe()
    open_bundle(large_bundle.path)  # would refuse a file that its manifest does not list


@pytest.mark.parametrize("name", ["codes.faiss", "user_map.npy", "plan.json"])
def test_kept_codes_that_are_damaged_are_made_anew(
    large_bundle: Bundle, directory: Path, search: Approximate, tmp_path: Path, name: str
) -> None:
    kept = shutil.copytree(directory, tmp_path / "kept")
    (file,) = kept.rglob(name)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])

    again = open_approximate(large_bundle, kept)

    assert again.describe() == search.describe()
    assert file.read_bytes() == whole


def test_codes_of_versions_not_used_for_long_are_deleted(
    large_bundle: Bundle, directory: Path, search: Approximate, tmp_path: Path
) -> None:
    kept = shutil.copytree(directory, tmp_path / "kept")
    (place,) = (path for path in kept.iterdir() if path.is_dir())
    for number in range(3):
        shutil.copytree(place, kept / f"old-{number}")
    shutil.rmtree(place)

    open_approximate(large_bundle, kept)

    assert place.is_dir()
    assert len([path for path in kept.iterdir() if path.is_dir()]) == 3
