"""What a build of the package may see: the files that .dockerignore lets through, copied aside."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]


def copy_context(target: Path) -> None:
    """Copy what .dockerignore lets into a build into the directory target, which exists."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    for name in (line[1:] for line in lines if line.startswith("!")):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(source, target / name)
