"""Write a made-up shop for the demo, tests and runs at scale: interactions.csv.gz and items.csv.

The shop has categories. Each category holds series of numbered items, a series has one style, and each category has two
others that complement it. A user has a few interests that drift, comes in sessions, and follows two threads at a time:
mostly the user takes what follows the last item (the next of its series, or its complement), sometimes what follows the
older thread, and sometimes something popular nearby. Popularity is a power law. Titles and descriptions name style,
category, series and complement, so that an item's text says what it is.

The same seed writes the same bytes. No claim about quality may rest on this world: models are judged on real data. How
hard it is for simple models stands in tests/bench/README.md, under "The simulated world".
"""
# ruff: noqa: SIM905  (word lists read better as text)

import csv
import gzip
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.errors import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

END = 1_793_491_200  # 2026-11-01, in Unix seconds: the last day of every world
DAY_S = 86_400
INTERESTS = 3  # categories that a user follows at a time
SERIES_LENGTH = 6
SKEW = 0.8  # of the power law: the r-th most popular series draws 1 / (r + 2) ** SKEW
NEW_SESSION, DRIFT = 0.15, 0.25  # chance per event; per session
RETAKE = 0.05  # chance that a seen item is taken again
OLDER_THREAD = 0.35  # chance that the older of the two threads goes on
FOLLOW, COMPLEMENT, NEARBY = 0.5, 0.2, 0.2  # what comes next; the rest is anything popular

STYLES = (
    "Oak Walnut Linen Copper Marble Velvet Bamboo Slate Ivory Indigo Amber Rattan Cobalt Sage Terracotta Onyx".split()
)
PLACES = (
    "Harbour Meadow Canyon Willow Aurora Lagoon Summit Orchard Tundra Prairie Fjord Dune Cedar Glacier Island Valley "
    "Delta Forest Moor Coast Garden River Bay Hill"
).split()
THINGS = (
    "Light Song Stone Wind Story Path Bloom Echo Tide Morning Shadow Feather Ember Rain Star Dream Bridge Mirror Nest "
    "Voyage Whisper Letter Crown Thread"
).split()
DEPARTMENTS = "Kitchen Bedroom Office Garden Bathroom Nursery Travel Sport Music Craft Party Camping".split()
KINDS = (
    "lamp|basket|mug|clock|cushion|shelf|notebook|candle|blanket|tray|vase|box|frame|bag|chair|bottle|rug|stool|mat|"
    "puzzle"
).split("|")


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each item stands. Items of a category have successive numbers, and so have those of a series."""

    category: Ints  # [items]
    series: Ints  # [items], of its category, from 0
    number: Ints  # [items], place in its series, from 1
    style: Ints  # [items], the same throughout a series
    first: Ints  # [categories], the first item of each
    size: Ints  # [categories], the number of items of each

    @property
    def place(self) -> Ints:
        """The place of each item in its category [items], from 0."""
        return np.arange(len(self.category)) - self.first[self.category]


@dataclass(frozen=True, eq=False)
class World:
    """A catalogue: its layout, which items lead to which, and how popular they are."""

    layout: Layout
    complements: Ints  # [categories, 2]
    follower: Ints  # [items], the next of its series, or the first of the next series
    partner: Ints  # [items], an item of a complementary category, of the same style where there is one
    bounds: Floats  # [categories + 1], where each category starts in the cumulated popularity
    cumulated: Floats  # [items]


def simulate(out: Path, *, users: int, items: int, days: int, seed: int, events_per_user: int = 40) -> None:
    """Write out/interactions.csv.gz and out/items.csv.

    days: length of the recorded time; events_per_user: the mean. Raises InputError where a number is too small.
    """
    least = {"users": (users, 2), "items": (items, 20), "days": (days, 1), "events_per_user": (events_per_user, 4)}
    for name, (value, minimum) in least.items():
        if value < minimum:
            raise InputError(f"simulate: {name} must be at least {minimum}, not {value}")
    rng = np.random.default_rng(seed)
    world = make_world(rng, items)
    length = np.clip(rng.gamma(2.0, events_per_user / 2.0, users).round().astype(np.int64), 4, 5 * events_per_user)
    history, is_start = _walk(rng, world, length)
    times = _times(rng, is_start, length, days)
    item_ids = _item_ids(rng, items)
    out.mkdir(parents=True, exist_ok=True)
    _write_items(out / "items.csv", world, item_ids)
    _write_interactions(out / "interactions.csv.gz", history, times, length, item_ids)


def make_world(rng: np.random.Generator, items: int) -> World:
    """Return a catalogue of so many items."""
    layout = _lay_out(rng, items)
    category, first, size = layout.category, layout.first, layout.size
    n_categories = len(size)
    follower = first[category] + (layout.place + 1) % size[category]
    complements = (np.arange(n_categories)[:, None] + rng.integers(1, n_categories, (n_categories, 2))) % n_categories
    partner = _partners(rng, layout, complements)
    series_of = np.unique(first[category] + layout.series, return_inverse=True)[1]
    rank = rng.permutation(series_of.max() + 1)[series_of]
    cumulated = (1.0 / (rank + 2.0) ** SKEW / layout.number).cumsum()
    bounds = np.append(0.0, cumulated[first + size - 1])
    return World(layout, complements, follower, partner, bounds, cumulated)


def _lay_out(rng: np.random.Generator, items: int) -> Layout:
    """Divide the items into categories of unequal size and these into series, and give each series a style."""
    n_categories = int(np.clip(round(items**0.5 * 1.2), 4, len(DEPARTMENTS) * len(KINDS)))
    shares = rng.permutation(1.0 / (np.arange(n_categories) + 5.0) ** 0.5)
    sizes = np.maximum(1, np.diff(np.round(np.append(0, shares.cumsum()) / shares.sum() * items))).astype(np.int64)
    category = np.repeat(np.arange(n_categories), sizes)[:items]
    category = np.append(category, np.full(items - len(category), n_categories - 1))
    first = np.searchsorted(category, np.arange(n_categories))
    size = np.bincount(category, minlength=n_categories)
    place = np.arange(items) - first[category]
    series, number = place // SERIES_LENGTH, place % SERIES_LENGTH + 1
    style = (rng.integers(len(STYLES), size=n_categories)[category] + series) % len(STYLES)
    return Layout(category, series, number, style, first, size)


def _partners(rng: np.random.Generator, layout: Layout, complements: Ints) -> Ints:
    """Return for each item one of a complementary category [items], with its style and number where there is one."""
    other = complements[layout.category, rng.integers(0, 2, len(layout.category))]
    shift = (layout.style - layout.style[layout.first[other]]) % len(STYLES)
    place = shift * SERIES_LENGTH + layout.number - 1
    return layout.first[other] + place % layout.size[other]


def _walk(rng: np.random.Generator, world: World, length: Ints) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return each user's items [users, longest], -1 beyond the length, and where sessions start, in the same shape."""
    n_users, longest = len(length), int(length.max())
    n_categories = len(world.complements)
    history = np.full((n_users, longest), -1, dtype=np.int32)
    is_start = np.zeros((n_users, longest), dtype=bool)
    interests = rng.integers(n_categories, size=(n_users, INTERESTS))
    threads = np.stack([_draw(rng, world, interests[:, i]) for i in range(2)], axis=1)  # newer, older
    for step in range(longest):
        going = np.flatnonzero(length > step)
        starts = (rng.random(len(going)) < NEW_SESSION) | (step == 0)
        interests[going] = _drift(rng, world, interests[going], starts)
        chosen, from_older = _next_items(rng, world, threads[going], interests[going], starts)
        chosen = _skip_seen(rng, world, chosen, history[going, :step])
        older = np.where(from_older | starts, threads[going, 0], threads[going, 1])
        threads[going] = np.stack([chosen, older], axis=1)
        history[going, step] = chosen
        is_start[going, step] = starts
    return history, is_start


def _drift(rng: np.random.Generator, world: World, interests: Ints, starts: NDArray[np.bool_]) -> Ints:
    """Return the interests [users, INTERESTS], where at some session starts one is now a complement of another."""
    drifting = np.flatnonzero(starts & (rng.random(len(interests)) < DRIFT))
    slot = rng.integers(INTERESTS, size=len(drifting))
    source = interests[drifting, (slot + 1) % INTERESTS]
    changed = interests.copy()
    changed[drifting, slot] = world.complements[source, rng.integers(0, 2, len(drifting))]
    return changed


def _next_items(
    rng: np.random.Generator, world: World, threads: Ints, interests: Ints, starts: NDArray[np.bool_]
) -> tuple[Ints, NDArray[np.bool_]]:
    """Return what each user takes next [users], and whether it follows from the older thread [users]."""
    n = len(threads)
    from_older = rng.random(n) < OLDER_THREAD
    source = np.where(from_older, threads[:, 1], threads[:, 0])
    interest = interests[np.arange(n), rng.integers(INTERESTS, size=n)]
    kind = rng.random(n)
    anywhere = np.searchsorted(world.cumulated, rng.random(n) * world.cumulated[-1], side="right")
    chosen = np.where(kind < FOLLOW + COMPLEMENT + NEARBY, _draw(rng, world, world.layout.category[source]), anywhere)
    chosen = np.where(kind < FOLLOW + COMPLEMENT, world.partner[source], chosen)
    chosen = np.where(kind < FOLLOW, world.follower[source], chosen)
    return np.where(starts, _draw(rng, world, interest), chosen), from_older & ~starts


def _draw(rng: np.random.Generator, world: World, category: Ints) -> Ints:
    """Draw one item of each category, the popular ones more often."""
    low, high = world.bounds[category], world.bounds[category + 1]
    found = np.searchsorted(world.cumulated, low + rng.random(len(category)) * (high - low), side="right")
    return np.minimum(found, len(world.cumulated) - 1)


def _skip_seen(rng: np.random.Generator, world: World, chosen: Ints, seen: NDArray[np.int32]) -> Ints:
    """Replace an item that the user has had by its follower, else its partner, else any; leave a share of RETAKE."""
    anywhere = rng.integers(len(world.layout.category), size=len(chosen))
    is_free = rng.random(len(chosen)) < RETAKE
    for way_out in (world.follower[chosen], world.partner[chosen], anywhere):
        is_seen = (seen == chosen[:, None]).any(axis=1) & ~is_free
        chosen = np.where(is_seen, way_out, chosen)
    return chosen


def _times(rng: np.random.Generator, is_start: NDArray[np.bool_], length: Ints, days: int) -> Ints:
    """Return Unix seconds [users, longest], increasing: minutes within sessions, days between, all before END."""
    within = rng.exponential(90.0, is_start.shape) + 5.0
    between = np.where(is_start, rng.exponential(1.0, is_start.shape) + 0.05, 0.0)
    exists = np.arange(is_start.shape[1]) < length[:, None]
    within, between = np.where(exists & ~is_start, within, 0.0), np.where(exists, between, 0.0)
    span = days * DAY_S * rng.uniform(0.3, 0.95, len(length))
    spare = np.maximum(span - within.sum(axis=1), 0.0)
    between *= (spare / between.sum(axis=1))[:, None]
    elapsed = (within + between).cumsum(axis=1)
    latest = END - days * DAY_S * rng.uniform(0.0, 0.05, len(length))
    return (latest[:, None] - elapsed[:, -1:] + elapsed).astype(np.int64)


def _item_ids(rng: np.random.Generator, items: int) -> list[str]:
    """Return ids that say nothing of the layout. They start with zeros, which a reader must keep."""
    width = max(5, len(str(items)) + 1)
    return [f"{number:0{width}d}" for number in rng.permutation(items).tolist()]


def _write_items(path: Path, world: World, item_ids: list[str]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["item_id", "title", "description", "category"])
    layout = world.layout
    columns = (layout.category, layout.series, layout.number, layout.style)
    for item, (category, series, number, style) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        department, kind = _category_name(category)
        name = f"{PLACES[(series + 5 * category) % 24]} {THINGS[(series // 24 + series + category) % 24]}"
        if series >= len(PLACES) * len(THINGS):
            name += f" {series // (len(PLACES) * len(THINGS)) + 1}"
        other = " ".join(_category_name(int(layout.category[world.partner[item]])))
        title = f"{STYLES[style]} {department.lower()} {kind}, {name} No. {number}"
        description = (
            f"Number {number} of the {name} series for the {department.lower()}. Goes well with a {other.lower()}."
        )
        writer.writerow([item_ids[item], title, description, f"{department}|{kind.capitalize()}"])
    _write(path, text.getvalue().encode())


def _category_name(category: int) -> tuple[str, str]:
    """Return department and kind of a category. Neighbouring categories differ in both."""
    return DEPARTMENTS[category % len(DEPARTMENTS)], KINDS[(category + category // len(DEPARTMENTS)) % len(KINDS)]


def _write_interactions(path: Path, history: NDArray[np.int32], times: Ints, length: Ints, item_ids: list[str]) -> None:
    """Write the log of all users, oldest first."""
    user, step = np.nonzero(np.arange(history.shape[1]) < length[:, None])
    width = max(5, len(str(len(length))))
    user_ids = pl.Series([f"u{number:0{width}d}" for number in range(len(length))])
    frame = pl.DataFrame({"user": user, "step": step, "item": history[user, step], "timestamp": times[user, step]})
    frame = frame.sort("timestamp", "user", "step")
    log = pl.DataFrame(
        {
            "user_id": user_ids.gather(frame["user"]),
            "item_id": pl.Series(item_ids).gather(frame["item"]),
            "timestamp": frame["timestamp"],
        }
    )
    _write(path, gzip.compress(log.write_csv().encode(), compresslevel=3, mtime=0))


def _write(path: Path, content: bytes) -> None:
    """Write a file under another name and rename it, so that it is complete or absent."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_bytes(content)
    aside.replace(path)
