"""The command experiment, with a service, its store, and two published versions."""

import asyncio
import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import main
from service.bundle import read_manifest
from service.command import experiment as command
from service.errors import StartError
from service.experiment.assignment import Assignment
from service.experiment.record import Experiment, Kind
from service.experiment.shelf import ExperimentShelf
from service.release.published import KEPT_VERSIONS, PublishedVersions
from service.store.client import Store
from tests.service.running import Running, run_command
from tests.service.store.test_client import open_store
from tests.service.toy import write_toy


@pytest.fixture(scope="module")
def service(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(toy_bundle, tmp_path_factory.mktemp("experiment"), "--pin") as running:
        yield running


@pytest.fixture(scope="module")
def versions(service: Running, toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two published versions."""
    paths = [toy_bundle, write_toy(tmp_path_factory.mktemp("b") / "b", seed=11).path]

    async def publish(store: Store) -> None:
        for path in paths:
            await PublishedVersions(store, "retort").upload(path)

    ask(service, publish)
    return [read_manifest(path).version for path in paths]


def ask(service: Running, work: Callable[[Store], Any]) -> Any:
    """Do something with the service's store."""

    async def run() -> Any:
        store = open_store(service)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def begin(service: Running, kind: Kind, version: str, live: str, share: float) -> Experiment:
    """Make a version live, end what runs, and begin an experiment."""

    async def work(store: Store) -> Experiment:
        shelf = ExperimentShelf(store, "retort")
        await PublishedVersions(store, "retort").activate(live)
        if (running := await shelf.read()) is not None:
            await shelf.end(running, "over")
        return await shelf.begin(kind, version, live, share)

    begun: Experiment = ask(service, work)
    return begun


def arguments(service: Running, **more: Any) -> Namespace:
    return Namespace(data_dir=service.data_dir, json=True, lift=5.0, wait=0.0, **more)


def look(service: Running, capsys: pytest.CaptureFixture[str]) -> Any:
    """What the status is, as JSON."""
    capsys.readouterr()
    assert command.show_experiment(arguments(service)) == 0
    return json.loads(capsys.readouterr().out)


def test_experiment_is_looked_at_and_promoted_once(
    service: Running, versions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    live, other = versions
    nothing = look(service, capsys)
    begun = begin(service, "experiment", other, live, 50)
    takes = Assignment(begun.salt, 50).takes
    users = [f"e{number}" for number in range(200)]
    n_other = sum(map(takes, users))

    service.send(*({"user_id": user, "item_id": "i1", "type": "impression", "position": 1} for user in users))
    service.send(*({"user_id": user, "item_id": "i1", "position": 1} for user in users if takes(user)))
    found = look(service, capsys)
    table = run_command("experiment", "status", "--data-dir", str(service.data_dir)).stdout
    erased = next(filter(takes, users))
    service.client.delete(f"/users/{erased}").raise_for_status()
    after = look(service, capsys)

    assert nothing is None
    assert (found["other"]["users"], found["live"]["users"]) == (n_other, 200 - n_other)
    assert (found["other"]["converted"], found["live"]["converted"]) == (n_other, 0)
    assert found["other"]["positions"]["1"] == [n_other, n_other]
    assert found["comparison"]["decision"] == "better"
    assert not found["sample_ratio"]["is_wrong"]
    assert "salt" not in found["experiment"]
    assert f"experiment of {other} beside {live}: 50 % of users" in table
    assert "the other version is better" in table
    assert (after["other"]["users"], after["other"]["converted"]) == (n_other - 1, n_other - 1)
    assert command.promote(arguments(service)) == 0
    assert f"live: {other}" in capsys.readouterr().err
    with pytest.raises(StartError, match="has ended: promoted"):
        command.promote(arguments(service))
    assert look(service, capsys)["experiment"]["reason"] == f"promoted: version {other} is live"


def test_experiment_beside_a_version_that_is_live_no_more_is_not_promoted(
    service: Running, versions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    live, other = versions
    begin(service, "canary", "f" * 16, live, 5)
    ask(service, lambda store: PublishedVersions(store, "retort").activate(other))

    with pytest.raises(StartError, match=f"live is {other}"):
        command.promote(arguments(service))
    assert command.stop(arguments(service)) == 0
    assert f"ended: canary of {'f' * 16}; {other} answers everybody" in capsys.readouterr().err
    with pytest.raises(StartError, match="has ended: stopped by hand"):
        command.stop(arguments(service))


def test_version_that_is_not_in_the_store_is_not_promoted_and_its_experiment_goes_on(
    service: Running, versions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    begin(service, "canary", "f" * 16, versions[0], 5)

    with pytest.raises(StartError, match="is not in the store"):
        command.promote(arguments(service))
    assert look(service, capsys)["experiment"]["ended"] is None


def test_publishing_the_live_version_again_keeps_the_one_that_is_tried_beside_it(
    service: Running, versions: list[str], toy_bundle: Path, tmp_path: Path
) -> None:
    live, other = versions
    begun = begin(service, "canary", other, live, 5)
    newer = [write_toy(tmp_path / str(seed), seed=seed).path for seed in range(40, 40 + KEPT_VERSIONS)]

    async def upload(store: Store) -> None:
        for path in newer:
            await PublishedVersions(store, "retort").upload(path)

    ask(service, upload)
    done = run_command("publish", str(toy_bundle), "--data-dir", str(service.data_dir))

    assert done.returncode == 0 and f"removed {read_manifest(newer[0]).version}" in done.stderr
    assert ask(service, lambda store: ExperimentShelf(store, "retort").read()) == begun
    listed = ask(service, lambda store: PublishedVersions(store, "retort").listed())
    assert {live, other} <= {each.version for each in listed}


@pytest.mark.parametrize("work", [command.show_experiment, command.stop, command.promote])
def test_record_that_cannot_be_read_is_said_with_the_way_out(
    service: Running, versions: list[str], work: Callable[[Namespace], int]
) -> None:
    begin(service, "canary", versions[1], versions[0], 5)
    service.store().set("retort:experiment", "junk")

    with pytest.raises(StartError, match=r"none that this service writes: .*'publish DIR --as experiment --share 5'"):
        work(arguments(service))

    service.store().delete("retort:experiment")


@pytest.mark.parametrize(
    ("kind", "share", "head", "said"),
    [
        ("shadow", 5, "5 % of requests", "a shadow answers nobody"),
        ("canary", 100, "100 % of users", "nobody to compare with: the other version answers everybody"),
    ],
)
def test_what_cannot_be_compared_is_said_and_nothing_else_concluded(
    service: Running, versions: list[str], kind: Kind, share: float, head: str, said: str
) -> None:
    begin(service, kind, versions[1], versions[0], share)
    service.send({"user_id": "shown", "item_id": "i1", "type": "impression", "position": 1})

    table = run_command("experiment", "status", "--data-dir", str(service.data_dir)).stdout

    assert table.splitlines()[0].endswith(head)
    assert said in table and "divided" not in table


def test_help_is_for_whoever_types_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["experiment", "--help"])
    assert "Say what the version beside the live one comes to" in (said := capsys.readouterr().out)
    assert "StartError" not in said


@pytest.mark.parametrize("lift", ["0", "nan", "-100", "much"])
def test_wrong_lift_is_refused_by_name(lift: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["experiment", "status", f"--lift={lift}"])
    assert "percent above -100" in capsys.readouterr().err
