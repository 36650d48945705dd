"""The command replay: make an answer again that was kept, with the version that gave it or with another one.

It prints whether the bytes are the same, and else what differs: items that came, went or moved, their scores and the
parts of these. It returns 0 where the version that gave the answer gives the same bytes again, or another version could
be asked; 1 where it gives other ones. Raises StartError where the answer is not kept, or a version is not at hand.
"""

import argparse
import asyncio
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from service import __version__
from service.app import fetched_of
from service.bundle import BundleError, read_manifest
from service.composition.loading import codes_of
from service.composition.storage import items_of, reach_store, replays_of
from service.errors import RefusedError, RequestError, StartError, StoreError
from service.logs import Log, printable
from service.metrics import Metrics
from service.release.published import PublishedVersions
from service.release.record import Live, check_version
from service.replay.difference import Difference, Line, compare
from service.replay.live import LiveThen, read_live
from service.replay.player import Player, Replayed
from service.replay.record import KeptAnswer, Surroundings
from service.settings import Settings, read_settings
from service.store.client import Store

_CALL_S = 5.0
_ID = re.compile(r"[0-9a-f]{32}")
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class _Scene:
    """What was kept of an answer."""

    kept: KeptAnswer
    around: Surroundings
    live: LiveThen


def replay(arguments: argparse.Namespace) -> int:
    """Make a kept answer again."""
    settings = read_settings(data_dir=arguments.data_dir, bundle=arguments.bundle)
    answer_id = arguments.recommendation_id
    if not _ID.fullmatch(answer_id):
        raise StartError(f"{answer_id!r:.100} is no recommendation_id: give the 32 hexadecimal digits of an answer")

    async def run() -> int:
        async with reach_store(settings) as store:
            try:
                if arguments.version is not None:
                    check_version(arguments.version)
                return await _replay(arguments, settings, store)
            except (RefusedError, RequestError) as exc:
                raise StartError(str(exc)) from exc
            except StoreError as exc:
                raise StartError(f"the store: {exc}") from exc

    return asyncio.run(run())


async def _replay(arguments: argparse.Namespace, settings: Settings, store: Store) -> int:
    scene = await _read(settings, store, arguments.recommendation_id)
    kept, other = scene.kept, arguments.version
    is_other = other not in (None, kept.version)
    try:
        own = await _load(settings, store, kept.version)
    except (StartError, RefusedError):
        if not is_other:
            raise
        own = None
    notes = _notes_of(scene.live)
    again = None if own is None else await _play(own, scene, None)
    if not is_other:
        assert again is not None  # noqa: S101  # loaded, or raised
        found = compare(kept.answer, again.body, again.parts, again.parts)
        _say(arguments, scene, kept.version, found, [*notes, *again.notes])
        return 0 if found.is_same else 1
    if own is None:
        notes.append(
            f"version {kept.version}, which gave the answer, is not at hand: the parts of its scores are not known"
        )
    played = await _play(await _load(settings, store, other), scene, own)
    found = compare(kept.answer, played.body, again.parts if again and _is_as_kept(kept, again) else (), played.parts)
    _say(arguments, scene, other, found, [*notes, *played.notes])
    return 0


def _is_as_kept(kept: KeptAnswer, again: Replayed) -> bool:
    """Whether an answer has the items that were kept, so that its parts are theirs."""
    found = compare(kept.answer, again.body, (), ())
    return found.is_same or found.is_close


async def _play(player: Player, scene: _Scene, own: Player | None) -> Replayed:
    """Return the answer of a version. own: that of the kept answer, where the version is another one."""
    counts = None if own is None else own.counts_by_id(scene.around)
    notes = player.surround(scene.kept, scene.around, scene.live.records, counts)
    played = await player.answer(scene.kept)
    return Replayed(played.body, played.parts, [*notes, *played.notes])


async def _read(settings: Settings, store: Store, answer_id: str) -> _Scene:
    """Return what was kept of an answer. Raises StartError where nothing was."""
    shelf = replays_of(settings, store)
    packed = await shelf.read(answer_id, _CALL_S)
    if packed is None:
        raise StartError(
            f"nothing is kept of the answer {answer_id} in the namespace {settings.namespace}: it was not sampled "
            "(RETORT_REPLAY_SHARE, which begins with 0), has gone (RETORT_REPLAY_HOURS, RETORT_REPLAY_MB), or its user "
            "was erased; raise them, ask for the list again, and replay that answer"
        )
    try:
        kept = KeptAnswer.unpack(packed)
        around = await shelf.read(kept.surroundings, _CALL_S)
        if around is None:
            raise StartError(f"the surroundings of the answer {answer_id} have gone meanwhile: replay a newer one")
        found = Surroundings.unpack(around)
    except ValueError as exc:
        raise StartError(f"what is kept of the answer {answer_id} cannot be read: {exc}") from exc
    return _Scene(kept, found, await read_live(items_of(settings, store), found, _CALL_S))


async def _load(settings: Settings, store: Store, version: str) -> Player:
    """Return a version, of --bundle if that is it, else of the store. Raises StartError, RefusedError."""
    path = settings.bundle if settings.bundle and _version_of(settings.bundle) == version else None
    if path is None:
        published = PublishedVersions(store, settings.namespace)
        if await published.manifest(version) is None:
            raise StartError(f"version {version} is not in the store: give --bundle DIR, the directory that has it")
        log = Log("error", io.StringIO())
        try:
            path = await fetched_of(settings, published, log).bring(Live(version, 0, None, 0.0))
        finally:
            log.close()
    return Player(path, kind=settings.index, codes=codes_of(settings), metrics=Metrics(__version__))


def _version_of(path: Path) -> str:
    try:
        return read_manifest(path).version
    except BundleError as exc:
        raise StartError(str(exc)) from exc


def _notes_of(live: LiveThen) -> list[str]:
    named = (
        (live.changed, "have changed since, and are taken as they are now"),
        (live.gone, "were there then, and are no more"),
        (live.came, "have come since, and are left out"),
    )
    return [f"live items {text}: {_name(item_ids)}" for item_ids, text in named if item_ids]


def _name(item_ids: Sequence[str]) -> str:
    more = len(item_ids) - _MOST_NAMED
    return ", ".join(item_ids[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _say(arguments: argparse.Namespace, scene: _Scene, version: str, found: Difference, notes: Sequence[str]) -> None:
    """Print what came out: text, or JSON."""
    kept = scene.kept
    if arguments.json:
        lines = [{**asdict(line), "what": line.what} for line in found.lines]
        print(orjson.dumps({
            "recommendation_id": kept.recommendation_id, "path": kept.path, "at": kept.at,
            "request": orjson.loads(kept.asked), "version": kept.version, "replayed_by": version,
            "same": found.is_same, "close": found.is_close, "items": lines, "fields": found.fields, "notes": notes,
        }).decode())  # fmt: skip
        return
    for text in (*_head(scene, version), *_verdict(kept, version, found), *(f"note: {note}" for note in notes)):
        print(printable(text))


def _head(scene: _Scene, version: str) -> list[str]:
    kept = scene.kept
    when = datetime.fromtimestamp(kept.at, UTC).isoformat(sep=" ", timespec="milliseconds")
    history = f"{len(kept.seen)} items of history" if kept.seen else "no stored history"
    return [
        f"answer {kept.recommendation_id} of version {kept.version}, {when}",
        f"POST {kept.path} {kept.asked}; {history}",
        f"replayed by version {version}",
    ]


def _verdict(kept: KeptAnswer, version: str, found: Difference) -> list[str]:
    if found.is_same:
        return [f"the same bytes: {len(found.lines)} items"]
    if found.is_close and version == kept.version:
        return ["the same items in the same order; scores differ in their last digits, as on another processor"]
    differing = [line for line in found.lines if line.what != "same"]
    counts = {what: sum(line.what == what for line in found.lines) for what in ("came", "went", "moved", "scored")}
    said = ", ".join(f"{n} {what}" for what, n in counts.items() if n) or "the same items"
    fields = [f"{name}: {_show(one)} -> {_show(other)}" for name, (one, other) in found.fields.items()]
    return [f"differs: {said}", *map(_line, differing), *fields]


def _line(line: Line) -> str:
    places = f"{line.before or '-'} -> {line.after or '-'}"
    scores = f"{_number(line.score_before)} -> {_number(line.score_after)}"
    parts = _parts(line.parts_before, line.parts_after)
    return f"  {line.what:<6}  {places:<10}  {line.item_id:<16}  {scores}{parts}"


def _parts(before: Mapping[str, float] | None, after: Mapping[str, float] | None) -> str:
    names = dict.fromkeys([*(before or ()), *(after or ())])
    said = [
        f"{name} {_number((before or {}).get(name))} -> {_number((after or {}).get(name))}"
        for name in names
        if (before or {}).get(name) != (after or {}).get(name)
    ]
    return f"  ({', '.join(said)})" if said else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _show(value: Any) -> str:
    return orjson.dumps(value).decode()[:200]
