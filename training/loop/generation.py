"""The run directories of a model and of what it was refreshed to: DIR itself, then DIR/refresh/0001, 0002 and so on.

Each is a whole run directory. A refresh also has plan.json, which says before anything is made what it will be, so that
one that was stopped goes on as it began; and judged.json, what the gate said.
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from service.bundle import MANIFEST, BundleError, open_bundle, read_manifest
from training.data.prepared import ITEMS
from training.errors import InputError
from training.loop.gate import Verdict
from training.loop.history import read_history
from training.run.config import Config
from training.run.config_file import load_config
from training.run.fault import write_whole

PLACE, PLAN, JUDGED, FULL_ITEMS, EVENTS = "refresh", "plan.json", "judged.json", "full_items.parquet", "events"
_NAME = re.compile(r"\d{4,}")
KEPT = 3  # of the newest run directories, beside the first, the live one and the one before it


@dataclass(frozen=True)
class Plan:
    """What a refresh is. base: the number of the run that it goes on from, 0 the first. live: the version to replace.

    taken: the number of the last file of events in it. events: new ones. kind: warm or full, and why. since_full:
    refreshes since the last full training, this one included; 0 where it is one itself. started: ISO time.
    """

    number: int
    base: int
    live: str | None
    taken: int
    events: int
    kind: str
    why: str
    since_full: int
    started: str


@dataclass(frozen=True)
class Generation:
    """One run directory. plan: None of the first."""

    number: int
    path: Path
    plan: Plan | None

    @property
    def version(self) -> str | None:
        """The version of its bundle; None where there is none yet."""
        try:
            return read_manifest(self.path / "bundle").version
        except BundleError:
            return None

    @property
    def taken(self) -> int:
        """The number of the last file of events that it was made from, 0 where there is none."""
        return self.plan.taken if self.plan else 0

    @property
    def since_full(self) -> int:
        """How many refreshes ago everything was trained anew."""
        return self.plan.since_full if self.plan else 0

    def full_items(self) -> set[str]:
        """Return the ids of the items that the last full training knew."""
        kept = self.path / FULL_ITEMS
        frame = pl.read_parquet(kept if kept.exists() else self.path / "prepared" / ITEMS, columns=["item_id"])
        return set(frame["item_id"].to_list())


def read_generations(out: Path) -> list[Generation]:
    """Return the run directories of DIR, the first one first; those without a plan were never begun."""
    found = [Generation(0, out, None)]
    for path in sorted((out / PLACE).glob("*"), key=lambda each: (len(each.name), each.name)):
        if _NAME.fullmatch(path.name) and (path / PLAN).exists():
            plan = read_json(path / PLAN)
            found.append(Generation(plan["number"], path, Plan(**plan)))
    return found


def begin(out: Path, plan: Plan) -> Generation:
    """Make the directory of a refresh, with its plan."""
    path = out / PLACE / f"{plan.number:04d}"
    path.mkdir(parents=True, exist_ok=True)
    write_whole(path / PLAN, json.dumps(asdict(plan), indent=1) + "\n")
    return Generation(plan.number, path, plan)


def check_base(base: Generation) -> Generation:
    """Return a run directory from which a refresh goes on. Raises InputError where a part of it is gone."""
    gone = [name for name in ("prepared", "config.toml", "bundle") if not (base.path / name).exists()]
    if gone:
        raise InputError(
            f"{base.path}: {', '.join(gone)} is gone, from which a refresh goes on: put it back, or make another "
            "version live: python -m service rollback"
        )
    return base


def base_of(generations: Sequence[Generation], live: str | None, out: Path) -> Generation:
    """Return the run directory whose bundle is live. Raises InputError.

    Where the store names none, as after it was emptied, it is what was published last, which the service serves on; or
    the first run.
    """
    if live is None:
        passed = {row["version"] for row in read_history(out) if row["passes"]}
        return next((each for each in reversed(generations) if each.version in passed), generations[0])
    for generation in reversed(generations):
        if generation.version == live:
            return generation
    way_out = f"publish this one first: python -m service publish {out / 'bundle'}"
    if generations[0].version is None:
        way_out = f"make the bundle of this one again, where none lies now: python -m training export --out {out}"
    raise InputError(
        f"the live version {live} is none of those in {out}, so that no model can be compared with it: give the --out "
        f"that it was made in, or {way_out}"
    )


def judged_before(newest: Generation, base: Generation, taken: int, kind: str, config: Config) -> str | None:
    """Return what the gate said against a refresh that had the same events, base, kind and settings; else None."""
    plan, judged = newest.plan, newest.path / JUDGED
    if plan is None or (plan.base, plan.taken, plan.kind) != (base.number, taken, kind) or not judged.exists():
        return None
    verdict = read_json(judged)["verdict"]
    return str(verdict["sentence"]) if is_same_config(newest, config) and not verdict["passes"] else None


def is_same_config(generation: Generation, config: Config) -> bool:
    """Whether a refresh was begun with these settings, or with none yet. What it holds out is its own."""
    path = generation.path / "config.toml"
    return not path.exists() or replace(load_config(path), split=config.split) == config


def keep_full_items(generation: Generation, base: Generation, plan: Plan) -> None:
    """Write down which items the last full training knew."""
    path = generation.path / FULL_ITEMS
    if plan.kind == "warm" and not path.exists():
        aside = path.with_name(f".{path.name}.part")
        pl.DataFrame({"item_id": sorted(base.full_items())}).write_parquet(aside)
        aside.rename(path)


def made_at(first: Generation) -> str:
    """Return when the bundle of the first run was made."""
    return str(open_bundle(first.path / "bundle").manifest.created_at)


def note_verdict(bundle: Path, verdict: Verdict) -> None:
    """Let a bundle carry what the gate said of it, in its lineage; its version stays, which is that of its files."""
    manifest = read_json(bundle / MANIFEST)
    manifest["lineage"]["gate"] = asdict(verdict)
    write_whole(bundle / MANIFEST, json.dumps(manifest, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def prune(generations: Sequence[Generation], needed: Sequence[str | None]) -> None:
    """Remove the run directories that nobody can want back. needed: the live version and those that may become it."""
    for left in (generations[0].path / PLACE).glob(".*.old"):
        shutil.rmtree(left)  # by a process that was stopped here
    for generation in generations[1:-KEPT]:
        if generation.version not in needed:
            aside = generation.path.with_name(f".{generation.path.name}.old")
            generation.path.rename(aside)
            shutil.rmtree(aside)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file of JSON. Raises InputError where it is damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise InputError(f"{path}: damaged ({exc}); remove {path.parent} and refresh again") from exc
    return found
