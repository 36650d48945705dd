"""axe-core, which finds what keeps people from using a page: fetched once a machine by npm, known by its sum."""

import hashlib
import os
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.contract.build_context import ROOT
from tests.service.browser import Browser

PACKAGE, FILE = "axe-core@4.14.1", "axe.min.js"
SUM = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
_FIND = """
const { violations } = await axe.run(document, { resultTypes: ["violations"] });
return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map(({ html }) => html).join(" ")}`);
"""


def read_axe() -> str:
    """Return the program; skip, or fail where RETORT_REQUIRE_CHROMIUM=1, where it is not here and npm has it not."""
    base = os.environ.get("XDG_CACHE_HOME")
    kept = (Path(base) if base else Path.home() / ".cache") / "retort" / f"{PACKAGE.replace('@', '-')}.js"
    if not kept.is_file() or hashlib.sha256(kept.read_bytes()).hexdigest() != SUM:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(_fetch())
    return kept.read_text()


def _fetch() -> bytes:
    try:
        if shutil.which("npm") is None:
            raise OSError("npm is not here")
        found: bytes = runpy.run_path(str(ROOT / "docker" / "vendor.py"))["fetch"](PACKAGE, [FILE])[FILE]
    except (OSError, subprocess.SubprocessError) as exc:
        message = f"NOT CHECKED: {PACKAGE}: {exc}"
        if os.environ.get("RETORT_REQUIRE_CHROMIUM") == "1":
            pytest.fail(message)
        pytest.skip(message)
    assert hashlib.sha256(found).hexdigest() == SUM, f"npm gave another {FILE} than that of {PACKAGE}"
    return found


def find_barriers(browser: Browser, axe: str) -> list[str]:
    """Return what axe has to say about the page as it is."""
    found: Any = browser.run(f"{axe}\n{_FIND}")
    return found["value"]
