"""The closed loop: a model trained on what users clicked of what earlier models had shown them, for 20 refreshes.

    nice -n 15 python tests/bench/feedback.py --out DIR [--arm found|plain|explored|weighed|full|slow|slow found]
        [--refreshes 20] [--seed 5] [--begun 12]

The world is that of `python -m training simulate`, with users whose taste is known: with which probability each takes
each item next. Two thirds of the items are there when the first model is trained, on what users found by themselves;
of the others some come with every refresh, as live items. After each refresh every user is shown four lists of ten by
the real student, catalogue, ranking and exploration. A place p is looked at with probability 1 / p, and what is looked
at is clicked by taste alone; of those who click nothing some find an item by themselves. All that goes to a log that
stands in for the store, and the real refresh takes it; its gate is open, so that what is measured is the training.

A row a refresh: true quality (the clicks that a list is to be expected to get, by the known taste, against the ideal
list and a random one), the same for people who are not in the log and find everything by themselves (aside; they are
the same in every arm, so that it tells of the model alone), coverage and the Gini coefficient of what was shown, the
share of items that the bundle does not have, how much less the last place was clicked than the first, and the slope
that explored clicks tell. The bar: quality at the end is no worse than in the first third, and coverage no less than
two thirds. JSON on the last line.
"""

import argparse
import csv
import gzip
import json
import math
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from service.bundle import read_manifest
from service.catalogue.live_item import LiveItem
from service.experiment.answer_id import new_answer_id
from service.model.model import load_model
from service.model.student import BUCKETS
from service.recommendation.budget import Budget
from service.recommendation.exploration import Explored
from service.recommendation.job import Found, Query, Taste, make_job
from service.recommendation.observer import Unwatched
from service.recommendation.ranker import Ranker
from training.__main__ import main as train
from training.data import simulate
from training.data.simulate import World, make_world
from training.evaluation.variety import coverage, gini
from training.loop.event_file import read_event_files
from training.loop.propensity import count_places, estimate
from training.loop.refresh import Refresher, Wishes
from training.loop.service_command import Exported
from training.model import fit
from training.progress import Progress
from training.run.directory import Run

K, LISTS = 10, 4
SEEK = 2.0  # an item that is looked at is clicked with so many times the probability that it is taken next


@dataclass(frozen=True)
class Arm:
    """A way to close the loop. explored: which share of the lists. propensity: see refresh.propensity.

    finds: users click nothing, and find as much by themselves: the loop is open, to compare with. full: each refresh
    trains from nothing. slow: the rate of a refresh warms up for as many steps as that of a whole training.
    """

    explored: float
    propensity: str
    finds: bool = False
    full: bool = False
    slow: bool = False


SETTINGS = (
    "prepare.weights=loss", "prepare.repeats=yes", "teacher.members=transformer", "teacher.dim=32",
    "teacher.blocks=pool", "teacher.heads=2", "teacher.dropout=0.1", "teacher.epochs=25", "teacher.max_history=20",
    "teacher.learning_rate=0.01", "teacher.batch_positions=256", "distill.smoothing=0", "student.parts=taste",
    "student.dim=32", "student.epochs=25", "student.max_history=20", "student.learning_rate=0.01",
    "student.batch_positions=256", "newcomers.epochs=0", "baselines.models=popularity", "refresh.judged_least=20",
    "refresh.margin=0.99", "refresh.drift=1.0",
)  # fmt: skip
ARMS = {
    "found": Arm(0.0, "none", finds=True), "plain": Arm(0.0, "none"), "explored": Arm(0.5, "none"),
    "weighed": Arm(0.5, "1.0"), "full": Arm(0.0, "none", full=True), "slow": Arm(0.0, "none", slow=True),
    "slow found": Arm(0.0, "none", finds=True, slow=True),
}  # fmt: skip
WARM_SHARE = {False: fit.WARM_SHARE, True: 1e6}  # of its steps, by whether a refresh is slow
ASIDE = 600  # people
ELSEWHERE = 0.3  # of the users who click nothing in a list, find something by themselves
RECENT = 12  # so many items that a user had last are neither shown nor wanted
START = 1_760_000_000
DAY_S = 86_400


def taste(world: World, threads: np.ndarray, interests: np.ndarray) -> np.ndarray:
    """Return with which probability each user takes each item next [users, items], whatever was taken before.

    threads: [users, 2], the last items of the newer and the older thread. interests: categories [users, INTERESTS].
    """
    weight = np.diff(world.cumulated, prepend=0.0)
    category = world.layout.category
    within = weight / np.bincount(category, weights=weight)[category]

    def of(categories: np.ndarray) -> np.ndarray:
        return np.where(category == categories[:, None], within, 0.0)

    users, found = np.arange(len(threads)), np.zeros((len(threads), len(category)))
    for number, share in enumerate((1 - simulate.OLDER_THREAD, simulate.OLDER_THREAD)):
        source = threads[:, number]
        np.add.at(found, (users, world.follower[source]), share * simulate.FOLLOW)
        np.add.at(found, (users, world.partner[source]), share * simulate.COMPLEMENT)
        found += share * simulate.NEARBY * of(category[source])
    found += (1 - simulate.FOLLOW - simulate.COMPLEMENT - simulate.NEARBY) * weight / weight.sum()
    fresh = sum(of(interests[:, slot]) for slot in range(interests.shape[1])) / interests.shape[1]
    return (1 - simulate.NEW_SESSION) * found + simulate.NEW_SESSION * fresh


class Users:
    """The users of a world: what they like now, and what they have had. history: item rows of each, oldest first."""

    def __init__(self, world: World, n_users: int, rng: np.random.Generator) -> None:
        n_items = len(world.follower)
        self._world, self._rng = world, rng
        self._interests = rng.integers(len(world.complements), size=(n_users, simulate.INTERESTS))
        self._threads = rng.integers(n_items, size=(n_users, 2))
        self._recent = np.full((n_users, RECENT), -1)
        self.history: list[list[int]] = [[] for _ in range(n_users)]

    def attraction(self, is_there: np.ndarray) -> np.ndarray:
        """Return with which probability each user clicks each item that is looked at [users, items].

        is_there: which items exist now [items]. What a user had lately is not clicked again so soon.
        """
        liked = np.minimum(1.0, SEEK * taste(self._world, self._threads, self._interests))
        users, slots = np.nonzero(self._recent >= 0)
        liked[users, self._recent[users, slots]] = 0.0
        return liked * is_there

    def find(self, is_there: np.ndarray, users: np.ndarray) -> list[tuple[int, int]]:
        """Let each of some users find an item without a list; return who found which."""
        likes = self.attraction(is_there)[users].cumsum(axis=1)
        found = (likes > self._rng.random((len(users), 1)) * likes[:, -1:]).argmax(axis=1)
        pairs = list(zip(users.tolist(), found.tolist(), strict=True))
        for user, item in pairs:
            self.take(user, item)
        return pairs

    def take(self, user: int, item: int) -> None:
        """Let a user have an item, which goes on from there; now and then an interest becomes another one."""
        self.history[user].append(item)
        self._recent[user] = [item, *self._recent[user, :-1]]
        self._threads[user] = item, self._threads[user, 0]
        if self._rng.random() < simulate.NEW_SESSION * simulate.DRIFT:
            slot = self._rng.integers(simulate.INTERESTS)
            self._interests[user, slot] = self._rng.integers(len(self._world.complements))


class Caller:
    """Stands for a caller that waits."""

    is_gone = False


class Served:
    """The live bundle, as the service answers with it."""

    def __init__(self, bundle: Path, ids: Sequence[str], items: Sequence[dict[str, Any]], share: float) -> None:
        """ids: of the world's items, by their number. items: those that are there, as live items. share: explored."""
        model = load_model(bundle, kind="exact", codes=bundle.parent, warn=lambda *_, **__: None)
        self.catalogue, self._explored, self._ids = model.catalogue, Explored(share), ids
        records = {item["item_id"]: LiveItem(time.time(), "put", item) for item in items}
        self.catalogue.take_live(
            {key: value for key, value in records.items() if self.catalogue.find_row(key) is None}, time.time()
        )
        self._ranker = Ranker(model.student, self.catalogue, Unwatched(), max_history=model.manifest.max_history)
        self.version = model.manifest.version
        self._number = {item_id: number for number, item_id in enumerate(ids)}

    def lists(self, histories: Sequence[Sequence[int]]) -> Iterator[tuple[str, list[int], int | None]]:
        """Yield the answer to each: its id, its items' numbers, and the place that is explored, from 0."""
        for first in range(0, len(histories), BUCKETS[-1]):
            found = [self._found(history) for history in histories[first : first + BUCKETS[-1]]]
            for each, ranking in zip(found, self._ranker.rank(found), strict=True):
                items = [self._number[self.catalogue.item_ids[row]] for row in ranking.answer.ranked[0]]
                yield each.job.query.recommendation_id, items, ranking.answer.explored

    def _found(self, history: Sequence[int]) -> Found:
        listed = [self._ids[item] for item in history[-100:]]
        query = Query(
            None, K, listed, listed[-RECENT:], False, None, Caller(),
            Budget(0.0, math.inf, math.inf), recommendation_id=new_answer_id(self.version),
        )  # fmt: skip
        self._explored.mark(query, self.catalogue)
        job = make_job(query, self.catalogue, None)  # type: ignore[arg-type]
        return Found(job, job.taste or Taste())


@dataclass
class Log:
    """Stands in for the store: what was accepted, and which version is live."""

    live: str | None = None
    lines: list[bytes] = field(default_factory=list)

    def live_version(self) -> str | None:
        """Return the live version."""
        return self.live

    def tried(self) -> str | None:
        """Return what is tried beside the live version: nothing."""
        return None

    def wanted(self) -> list[str]:
        """Return the versions that may become live by a word: none."""
        return []

    def export(self, path: Path, after: str | None) -> Exported:
        """Write the events that came after a position."""
        first = int(after.partition("@")[2]) if after else 0
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.writelines(self.lines[first:])
        return Exported(len(self.lines) - first, f"1-{len(self.lines)}@{len(self.lines)}", 0)

    def note_agreement(self, live: float, offline: float, least: float) -> None:
        """Tell nobody: there is no service."""

    def publish(self, bundle: Path, live: str | None) -> None:
        """Make a bundle live."""
        assert live == self.live
        self.live = read_manifest(bundle).version


class Unreported(Refresher):
    """A refresh without its page, which takes as long as the training of so small a model."""

    def _report(self, run: Run) -> None:
        """Write no page."""


class Loop:
    """A world, its users, and the models that follow each other."""

    def __init__(self, out: Path, arm: Arm, *, n_users: int = 400, n_items: int = 300, seed: int = 5) -> None:
        self.out, self._arm = out, arm
        self._rng = np.random.default_rng(seed)
        self._world = make_world(self._rng, n_items)
        self.ids = [f"{number:05d}" for number in range(n_items)]
        self._arrival = self._rng.permutation(n_items)
        self.is_there = np.zeros(n_items, dtype=bool)
        self.users, self.log = Users(self._world, n_users, self._rng), Log()
        self._looked_at = 1 / np.arange(1, K + 1)
        self._aside = Users(self._world, ASIDE, np.random.default_rng(seed + 1000))
        random.seed(7)

    def begin(self, begun: int = 12) -> None:
        """Train the first model, on what users found among two thirds of the items. begun: so much each of them."""
        self._let_come(2 * len(self.ids) // 3)
        rows: list[tuple[str, str, int]] = []
        for step in range(begun):
            self._aside.find(self.is_there, np.arange(ASIDE))
            chosen = self.users.find(self.is_there, np.arange(len(self.users.history)))
            rows += [(f"u{user}", self.ids[item], START + 3600 * step + user) for user, item in chosen]
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        with (self.out / "first.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("user_id", "item_id", "timestamp"), *rows])
        with (self.out / "items.csv").open("w", newline="") as file:
            listed = [(item["item_id"], item["title"], *item["attributes"]["category"]) for item in self._items()]
            csv.writer(file).writerows([("item_id", "title", "category"), *listed])
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        files = ["--interactions", str(self.out / "first.csv"), "--items", str(self.out / "items.csv")]
        assert train(["run", *files, "--out", str(self.out / "run"), *settings]) == 0
        self.log.live = read_manifest(self.out / "run" / "bundle").version
        self._let_come(len(self.ids) // 30)

    def refresh(self) -> str:
        """Train on what users did since, and let some items come; return what became of it."""
        propensity, arm = f"refresh.propensity={self._arm.propensity}", self._arm
        wishes = Wishes((propensity,), items=self.out / "items.csv", full_every=int(arm.full))
        fit.WARM_SHARE = WARM_SHARE[arm.slow]
        said = Unreported(self.out / "run", self.log, wishes, Progress()).refresh()  # type: ignore[arg-type]
        self._let_come(max(1, len(self.ids) // 60))
        return said

    def show(self, number: int) -> dict[str, float]:
        """Show lists to all users, write down what they do, and return what was measured. number: of the model."""
        items = [item for item, there in zip(self._items(), self.is_there, strict=True) if there]
        served = Served(self._bundle(), self.ids, items, self._arm.explored)
        is_new = np.array([not served.catalogue.is_made(item_id) for item_id in self.ids])
        shown: list[np.ndarray] = []
        clicked, of_each = np.zeros(K), []
        for visit in range(LISTS):
            likes = self.users.attraction(self.is_there)
            answers = list(served.lists(self.users.history))
            rows = np.array([listed for _, listed, _ in answers])
            liked = np.take_along_axis(likes, rows, axis=1)
            of_each.append([
                (liked @ self._looked_at).mean(),
                (np.sort(likes, axis=1)[:, : -K - 1 : -1] @ self._looked_at).mean(),
                likes.mean() * len(self.ids) / self.is_there.sum() * self._looked_at.sum(),
            ])  # fmt: skip
            clicks = self._rng.random(liked.shape) < liked * self._looked_at
            at = START + DAY_S * (number + 1) + 4000 * visit
            if self._arm.finds:
                n_found = int((clicks.sum() + ELSEWHERE * (~clicks.any(axis=1)).sum()).clip(0, len(clicks)))
                self._find(at, self._rng.choice(len(clicks), n_found, replace=False))
            else:
                self._note(at, answers, clicks)
                self._find(at, np.flatnonzero(~clicks.any(axis=1) & (self._rng.random(len(clicks)) < ELSEWHERE)))
            clicked += clicks.sum(axis=0)
            shown.append(rows)
        quality, ideal, chance = np.mean(of_each, axis=0)
        aside = self._ask_aside(items)
        everything = np.concatenate(shown)
        n_there = int(self.is_there.sum())
        return {
            "clicks": quality, "of ideal": quality / ideal, "aside": aside, "times random": quality / chance,
            "coverage": coverage(everything, n_there), "gini": gini(everything, len(self.ids)),
            "new": float(is_new[everything].mean()), "last / first": clicked[-1] / clicked[0],
        }  # fmt: skip

    def _ask_aside(self, items: Sequence[dict[str, Any]]) -> float:
        """Return the quality of the lists of the people aside, against their ideal; let each of them find two items.

        items: those that are there. Nothing is explored.
        """
        served = Served(self._bundle(), self.ids, items, 0.0)
        likes = self._aside.attraction(self.is_there)
        rows = np.array([listed for _, listed, _ in served.lists(self._aside.history)])
        quality = np.take_along_axis(likes, rows, axis=1) @ self._looked_at
        ideal = np.sort(likes, axis=1)[:, : -K - 1 : -1] @ self._looked_at
        for _ in range(2):
            self._aside.find(self.is_there, np.arange(ASIDE))
        return float(quality.sum() / ideal.sum())

    def slope(self) -> tuple[float | None, float | None]:
        """Return the slope that all explored clicks tell, and its standard error; None where they tell too little."""
        files = read_event_files(self.out / "run" / "refresh" / "events")
        found = estimate(count_places(files, None, explored=True))
        return found.slope, found.error

    def _note(self, at: int, answers: Sequence[tuple[str, list[int], int | None]], clicks: np.ndarray) -> None:
        for user, (answer_id, items, explored) in enumerate(answers):
            for place, item in enumerate(items):
                event = {
                    "user_id": f"u{user}", "item_id": self.ids[item], "timestamp": at + 2 * user + place / 10,
                    "recommendation_id": answer_id, "position": place + 1,
                } | ({"explored": True} if place == explored else {})  # fmt: skip
                self.log.lines.append(json.dumps(event | {"event": "impression"}).encode() + b"\n")
                if clicks[user, place]:
                    self.log.lines.append(json.dumps(event | {"event": "click"}).encode() + b"\n")
                    self.users.take(user, item)

    def _find(self, at: int, users: np.ndarray) -> None:
        """Let some users find an item by themselves."""
        for user, item in self.users.find(self.is_there, users):
            event = {"user_id": f"u{user}", "item_id": self.ids[item], "timestamp": at + 2 * user + 1, "event": "click"}
            self.log.lines.append(json.dumps(event).encode() + b"\n")

    def _let_come(self, count: int) -> None:
        """Let so many more items be there."""
        self.is_there[self._arrival[int(self.is_there.sum()) :][:count]] = True

    def _items(self) -> list[dict[str, Any]]:
        layout = self._world.layout
        return [
            {
                "item_id": item_id,
                "title": f"{simulate.STYLES[layout.style[item]]} {layout.series[item]} {layout.number[item]}",
                "attributes": {"category": [f"c{layout.category[item]}"]},
            }
            for item, item_id in enumerate(self.ids)
        ]

    def _bundle(self) -> Path:
        run = self.out / "run"
        bundles = [run / "bundle", *sorted((run / "refresh").glob("*/bundle"))]
        return next(each for each in bundles if read_manifest(each).version == self.log.live)


def run_arm(arguments: argparse.Namespace, arm: str) -> list[dict[str, Any]]:
    """Run the loop of one arm; return a row for each model."""
    loop, rows = Loop(arguments.out / arm, ARMS[arm], seed=arguments.seed), []
    loop.begin(arguments.begun)
    for number in range(arguments.refreshes + 1):
        began = time.monotonic()
        said = loop.refresh() if number else "the first model"
        slope, error = loop.slope()
        row = {"refresh": number, **loop.show(number), "slope": slope, "error": error}
        rows.append({name: value if value is None else round(float(value), 4) for name, value in row.items()})
        print(json.dumps({"arm": arm, **rows[-1], "seconds": round(time.monotonic() - began, 1)}), flush=True)
        print(said, file=sys.stderr, flush=True)
    return rows


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of the first third of the refreshes and of the last, and whether both bars are kept."""
    third = max(1, len(rows) // 3)
    names = [name for name in rows[0] if name not in ("refresh", "slope", "error")]
    first, last = (
        {name: round(float(np.mean([row[name] for row in part])), 4) for name in names}
        for part in (rows[1 : third + 1], rows[-third:])
    )
    is_kept = last["of ideal"] >= first["of ideal"] and last["coverage"] >= 2 / 3 * first["coverage"]
    return {"first third": first, "last third": last, "slope": rows[-1]["slope"], "error": rows[-1]["error"]} | {
        "bars": is_kept
    }


def main() -> None:
    """Run the arms one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arm", choices=ARMS, action="append")
    parser.add_argument("--refreshes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument(
        "--begun", type=int, choices=range(2, 25), default=12, help="items that each user found before the first model"
    )
    arguments = parser.parse_args()
    found = {arm: summarise(run_arm(arguments, arm)) for arm in arguments.arm or ARMS}
    print(json.dumps(found))
    sys.exit(not all(each["bars"] for each in found.values()))


if __name__ == "__main__":
    main()
