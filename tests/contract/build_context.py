"""What a build of the package may see, the files that .dockerignore lets through; and what it is held to, the locks."""

import re
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
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copy(source, target / name)


def read_lock(name: str) -> list[tuple[str, str, str]]:
    """Return the name, the version and the condition (or an empty text) of each package in docker/NAME.lock."""
    text = (ROOT / "docker" / f"{name}.lock").read_text()
    return re.findall(r"^([\w.-]+)==([\w.+!-]+)(?: ; ([^\\\n]+?))? \\$", text, re.MULTILINE)
