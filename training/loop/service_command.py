"""The service's own commands, run as child processes: which version is live, what users did, and publishing.

So training needs no client of the store, and whatever reaches the store is what an operator would type. A child ends
with this process, however that ends.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.child import python_module, tie_to_parent
from training.errors import InputError

NONE = "none"  # stands for no live version in publish --if-live


@dataclass(frozen=True)
class Exported:
    """What an export wrote: how many events, up to which position, and how many the stream had lost before.

    is_anew: the stream is another one than that of the position before, so that all of it was exported.
    """

    events: int
    position: str
    gone: int
    is_anew: bool = False


class ServiceCommand:
    """The commands of the service, with the store that they reach. Every method raises InputError where one fails."""

    def __init__(self, store: str | None) -> None:
        """store: a URL, the data directory of an embedded server, or None for what the environment says.

        Raises InputError where there is no such directory: a server in a new one would have no event, for ever.
        """
        self._environment = dict(os.environ)
        if store is not None and "://" in store:
            self._environment["RETORT_REDIS_URL"] = store
        elif store is not None:
            if not Path(store).is_dir():
                raise InputError(
                    f"--store {store}: no such directory; give what the service has as RETORT_DATA_DIR, or its URL as "
                    "in RETORT_REDIS_URL, such as redis://localhost:6379"
                )
            self._environment.pop("RETORT_REDIS_URL", None)
            self._environment["RETORT_DATA_DIR"] = str(Path(store).absolute())

    def live_version(self) -> str | None:
        """Return the version that the store calls live; None where it names none."""
        live = self._last_line("status")["live"]
        return live["version"] if live else None

    def tried(self) -> str | None:
        """Return in words what answers a share of the users beside the live version; None where nothing does."""
        status = self._last_line("status")
        found, live = status["experiment"], status["live"]
        if not found or found["ended"] is not None or found["kind"] == "shadow":
            return None
        is_over = live is None or found["live"] != live["version"]  # though nobody has said so yet
        return None if is_over else f"version {found['version']} runs as {found['kind']} beside the live one"

    def wanted(self) -> list[str]:
        """Return the versions that may become live by a word: the one before the live one, and what is tried beside."""
        status = self._last_line("status")
        live, found = status["live"], status["experiment"]
        tried = found["version"] if found and found["ended"] is None else None
        return [version for version in (live and live["previous"], tried) if version]

    def export(self, path: Path, after: str | None) -> Exported:
        """Write the events that came after a position into a file of JSON lines; None: all of them."""
        found = self._last_line("export", str(path), *(["--after", after] if after else []))
        return Exported(found["events"], found["position"], found["gone"], found["anew"])

    def publish(self, bundle: Path, live: str | None) -> None:
        """Make a bundle the live version in the place of another; where that is not live any more, it fails."""
        self._run("publish", str(bundle), "--if-live", live or NONE)

    def note_agreement(self, live: float, offline: float, least: float) -> None:
        """Tell the service how well the live model and its teacher agree, each from 0 to 1; it is a metric there."""
        self._run("agreement", *(f"{share:.6f}" for share in (live, offline, least)))

    def _last_line(self, *arguments: str) -> dict[str, Any]:
        text = self._run(*arguments)
        found: dict[str, Any] = json.loads(text.splitlines()[-1])
        return found

    def _run(self, *arguments: str) -> str:
        """Return what a command printed on stdout. Raises InputError with the line that it ended with."""
        command = tie_to_parent(python_module("service", *arguments))
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            reason = said[-1].removeprefix("retort: ") if said else f"exit code {done.returncode}"
            raise InputError(f"service {arguments[0]}: {reason}")
        return done.stdout
