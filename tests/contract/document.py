"""The documentation, read as a reader would: its tables, code blocks, commands, examples and links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATHS = (
    "README.md", "service/README.md", "training/README.md", "CONTRIBUTING.md", "tests/bench/README.md",
    "docker/RUNBOOK.md",
)  # fmt: skip
_INDENT = "    "


@dataclass(frozen=True)
class Document:
    """One Markdown file."""

    path: Path
    text: str

    def blocks(self) -> Iterator[str]:
        """Yield every indented code block, without its indentation."""
        block: list[str] = []
        before = ""
        for line in [*self.text.splitlines(), ""]:
            if line.startswith(_INDENT) and (block or not before.strip()):
                block.append(line.removeprefix(_INDENT))
            elif block:
                yield "\n".join(block)
                block = []
            before = line

    def commands(self) -> Iterator[list[str]]:
        """Yield the words of every command `python -m ...` of the code blocks, variables before it and comments off."""
        for block in self.blocks():
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"(\w+=\S+ +)*python -m ", line):
                    words = shlex.split(line, comments=True)
                    yield words[words.index("python") :]

    def examples(self) -> Iterator[tuple[list[str], str]]:
        """Yield the words of every curl command of the code blocks, and the text of the answer below it."""
        for block in self.blocks():
            for example in re.split(r"^(?=curl )", block, flags=re.MULTILINE):
                if not example.startswith("curl "):
                    continue
                lines = example.splitlines()
                n_lines = next(n for n in range(1, len(lines) + 1) if _is_whole("\n".join(lines[:n])))
                yield _words("\n".join(lines[:n_lines])), "\n".join(lines[n_lines:])

    def rows(self, heading: str) -> dict[str, list[str]]:
        """Return the rows of the first table whose first column has the heading: first cell, without ticks -> rest."""
        return {row[0].strip("`"): row[1:] for row in self._table(heading)}

    def pairs(self, heading: str) -> dict[tuple[str, str], list[str]]:
        """As rows, of the second table of the heading, whose first two cells tell its rows apart."""
        return {(row[0].strip("`"), row[1]): row[2:] for row in self._table(heading, place=1)}

    def spans(self) -> list[str]:
        """Return what stands in backticks."""
        return re.findall(r"`([^`\n]+)`", self.text)

    def links(self) -> list[tuple[str, str]]:
        """Return (path, anchor) of every link that leads to a file of the repository; each may be empty."""
        targets = re.findall(r"\]\(([^)\s]+)\)", self.text)
        return [target.partition("#")[::2] for target in targets if "://" not in target]

    def anchors(self) -> set[str]:
        """Return what links to its headings may name."""
        headings = re.findall(r"^#+ (.+)$", self.text, flags=re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def _table(self, heading: str, place: int = 0) -> list[list[str]]:
        tables = re.findall(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", self.text, flags=re.MULTILINE)
        lines = tables[place].splitlines()
        return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def _is_whole(command: str) -> bool:
    if command.endswith("\\"):
        return False
    try:
        return bool(_words(command))
    except ValueError:  # a quotation goes on
        return False


def _words(command: str) -> list[str]:
    return shlex.split(command.replace("\\\n", " "))


DOCUMENTS = {name: Document(ROOT / name, (ROOT / name).read_text()) for name in PATHS}
"""The documents by their paths."""
