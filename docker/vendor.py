"""Renew the libraries that the page in the browser brings along: python docker/vendor.py

They are fetched by `npm pack`, which honours npm's own settings, and put into service/page/vendor/ with their licences;
sums.json there says the version of each and the sum of every file, both as it came and as it is served. A file is
served as it came, but for what no browser resolves without a build step: a module named by its package, and the map of
its source.
"""

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "service" / "page" / "vendor"
PACKAGES = {
    "preact@11.2.0": {"preact.js": "dist/preact.mjs", "hooks.js": "hooks/dist/hooks.mjs"},
    "htm@3.1.1": {"htm.js": "dist/htm.mjs"},
    "uplot@1.6.32": {"uplot.js": "dist/uPlot.esm.js", "uplot.css": "dist/uPlot.min.css"},
}
"""Of each package and version: the names that its files get here, and those that they have there."""
_TIMEOUT_S = 300


def vendor(folder: Path) -> None:
    """Write the files, licences and sums of all packages into a folder. Raises CalledProcessError, KeyError."""
    sums: dict[str, dict[str, dict[str, str]]] = {}
    for package, names in PACKAGES.items():
        files = fetch(package, [*names.values(), "LICENSE"])
        sums[package] = {}
        for name, path in names.items():
            served = serve(files[path])
            (folder / name).write_bytes(served)
            sums[package][name] = {"from": path, "came": _sum(files[path]), "served": _sum(served)}
        (folder / f"{package.partition('@')[0]}.LICENSE.txt").write_bytes(files["LICENSE"])
    (folder / "sums.json").write_text(json.dumps(sums, indent=1) + "\n")


def fetch(package: str, paths: list[str]) -> dict[str, bytes]:
    """Let npm fetch a package, name@version, and return some of its files by their paths in it."""
    with tempfile.TemporaryDirectory(prefix="retort-") as folder:
        command = ["npm", "pack", package, "--silent", "--ignore-scripts", "--pack-destination", folder]
        subprocess.run(command, check=True, timeout=_TIMEOUT_S, cwd=folder, stdout=subprocess.DEVNULL)
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            found = {path: archive.extractfile(f"package/{path}") for path in paths}
            return {path: file.read() for path, file in found.items() if file is not None}


def serve(text: bytes) -> bytes:
    """Return a module as it is served: what it imports is named by its file, and no map of its source is named."""
    text = re.sub(rb'from\s*"([a-z]+)"', rb'from"./\1.js"', text)
    return re.sub(rb"//# sourceMappingURL=.*\n?", b"", text)


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    try:
        vendor(FOLDER)
    except (OSError, subprocess.SubprocessError, KeyError) as exc:
        sys.exit(f"not renewed: {exc}")
