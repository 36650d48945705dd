"""The watch over an experiment, with a real store."""

from service.bundle import HistoryTypes
from service.experiment.assignment import Assignment
from service.experiment.attribution import Attribution
from service.experiment.guard import Bounds, Ending, Health
from service.experiment.record import Experiment
from service.experiment.report import Report
from service.experiment.shelf import ExperimentShelf
from service.experiment.watch import ExperimentWatch, Means
from service.store.client import Store
from tests.service.experiment.test_tally import LIVE, OTHER, World


class Process:
    """One process that watches. shown, ended: what it was told."""

    def __init__(self, world: World, namespace: str) -> None:
        self.shelf = ExperimentShelf(world.store, namespace)
        self.health = Health(0, 0, 0), Health(0, 0, 0)
        self.shown: list[Report | None] = []
        self.ended: list[tuple[Experiment, Ending]] = []

        def attribute(experiment: Experiment) -> Attribution:
            return Attribution(experiment, HistoryTypes().effect)

        means = Means(self.shelf, world.tally, attribute, lambda: self.health, Bounds())
        self.watch = ExperimentWatch(means, self.shown.append, lambda *end: self.ended.append(end))


async def test_version_that_fails_is_ended_once_with_the_reason(store: Store) -> None:
    world = World(store)
    one, two = Process(world, "watch-health"), Process(world, "watch-health")
    begun = await one.shelf.begin("canary", OTHER, LIVE, 50)
    for process in (one, two):
        await process.watch.look()
        process.health = Health(100, 90, 0), Health(100, 0, 0)

    for process in (one, two, one):
        await process.watch.look()
    found = await one.shelf.read()

    assert found is not None and not found.is_running
    assert found.reason == "failed: 90.0% of the other version's answers, 0.0% of the live one's"
    assert [(experiment.id, ending.cause) for experiment, ending in one.ended] == [(begun.id, "errors")]
    assert two.ended == []
    assert one.shown[-1] is None


async def test_version_with_which_users_do_worse_is_ended(store: Store) -> None:
    world = World(store)
    process = Process(world, "watch-users")
    begun = await process.shelf.begin("experiment", OTHER, LIVE, 50)
    takes = Assignment(begun.salt, 50).takes
    await world.send([f"u{number}" for number in range(400) if not takes(f"u{number}")])

    await process.watch.look()
    found = await process.shelf.read()

    assert found is not None and found.reason.startswith("conversions: at most -")
    assert [ending.cause for _, ending in process.ended] == ["quality"]
    assert process.shown[0] is not None and process.shown[0].other.users == 0


async def test_shadow_and_what_has_ended_are_left_alone(store: Store) -> None:
    process = Process(World(store), "watch-shadow")

    await process.watch.look()
    await process.shelf.begin("shadow", OTHER, LIVE, 50)
    process.health = Health(100, 90, 0), Health(100, 0, 0)
    await process.watch.look()

    assert process.shown == []
    assert process.ended == []
