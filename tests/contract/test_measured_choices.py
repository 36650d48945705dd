"""A docstring that points to a measurement points to one that is there, and the measurement names the file it is of."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "tests" / "bench" / "README.md").read_text()
MEASURED = README.partition("## Why it is built so: measured choices")[2]
HEADINGS = set(re.findall(r"^## (.+)$", README, flags=re.MULTILINE))
ENTRIES = dict(re.findall(r"^- \*\*([^*]+)\*\*[^(]*\(`([\w/]+\.py)`", MEASURED, flags=re.MULTILINE))


def pointers_of(path: Path) -> list[str]:
    """Return the titles that a file names after the path of the README, whichever way its lines are broken."""
    text = " ".join(path.read_text().split())
    return [
        title
        for named in re.findall(r'tests/bench/README\.md, ("[^"]+"(?:(?:,| and) "[^"]+")*)', text)
        for title in re.findall(r'"([^"]+)"', named)
    ]


def test_every_pointer_has_its_entry_and_every_entry_its_pointer() -> None:
    found = {
        title: str(path.relative_to(ROOT))
        for package in ("service", "training")
        for path in sorted((ROOT / package).rglob("*.py"))
        for title in pointers_of(path)
    }

    assert not set(found) - HEADINGS - set(ENTRIES)
    assert {title: found.get(title) for title in ENTRIES} == ENTRIES
