"""A whole refresh: what is new is learned and judged, whatever stops it; only the version that was compared goes."""

import shutil
from collections import Counter

import pytest

from service.bundle import open_bundle
from tests.training.loop.log import LogService
from training.__main__ import main
from training.data.prepared import load_prepared
from training.errors import InputError
from training.loop.generation import read_generations
from training.loop.history import read_history
from training.loop.refresh import Refresher, Wishes
from training.progress import Progress
from training.run.config_file import load_config

OPEN = "refresh.margin=0.99"


class Stopping(Progress):
    """Stops the process, as far as it can be seen from inside, where a stage begins."""

    def __init__(self, at=None):
        super().__init__()
        self.at, self.notes = at, []

    def note(self, text):
        super().note(text)
        self.notes.append(text)

    def stage(self, name, state):
        super().stage(name, state)
        if name == self.at:
            raise KeyboardInterrupt


@pytest.fixture
def place(lasting, tmp_path):
    shutil.copytree(lasting.run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def service(place):
    return LogService(open_bundle(place / "bundle").manifest.version)


def refresh(place, service, *overrides, at=None, **wishes):
    return Refresher(place, service, Wishes(overrides, **wishes), Stopping(at)).refresh()


def events_in(run):
    prepared = load_prepared(run / "prepared")
    keys = zip(prepared.user.tolist(), prepared.item.tolist(), prepared.timestamp_ms.tolist(), strict=True)
    return Counter((prepared.users[u], prepared.items[i].item_id, ms) for u, i, ms in keys)


def test_without_enough_that_is_new_nothing_is_trained(place, service, lasting):
    assert refresh(place, service).startswith("nothing new since ")

    service.events += [*lasting.later[:30], *[event | {"event": "impression"} for event in lasting.later]]

    assert refresh(place, service).startswith("waiting: 30 new events that can be learned since ")
    assert len(read_generations(place)) == 1


def test_a_refresh_goes_on_wherever_it_was_stopped_and_takes_every_event_once(place, service, lasting, tmp_path):
    half = len(lasting.later) // 2
    service.events += lasting.later[:half]
    service.fails.add("status")
    with pytest.raises(InputError, match="the store does not answer"):
        refresh(place, service)
    service.events += lasting.later[half:]
    for stage in ("prepared", "teacher", "student", "compressed", "bundle"):
        with pytest.raises(KeyboardInterrupt):
            refresh(place, service, OPEN, at=stage)
    service.fails.add("publish")

    line = refresh(place, service, OPEN)

    new = place / "refresh" / "0001"
    (row,) = read_history(place)
    assert line.startswith("published: NDCG@10 ") and row["sentence"] == line
    assert service.live == row["version"] == open_bundle(new / "bundle").manifest.version
    gate = open_bundle(new / "bundle").manifest.lineage["gate"]
    assert (gate["passes"], gate["sentence"], gate["requests"]) == (True, line, row["requests"])
    assert (row["kind"], row["events"], row["passes"]) == ("warm", len(lasting.later), True)
    wanted = events_in(place) + Counter((e["user_id"], e["item_id"], e["timestamp"] * 1000) for e in lasting.later)
    assert events_in(new) == wanted and set(wanted.values()) == {1}
    assert {"0040", "0044"} <= set(open_bundle(new / "bundle").items.ids)
    assert row["groups"]["items"]["new"]["live"] == 0.0
    assert 0 < row["agreement"]["live"] <= 1 and 0 < row["agreement"]["offline"] <= 1
    assert service.told == [tuple(row["agreement"][name] for name in ("live", "offline", "least"))]
    assert ("student and teacher</th>" in (new / "report.html").read_text()) and not row["agreement"]["has_drifted"]
    assert "<h2>Refreshes</h2>" in (new / "report.html").read_text()
    assert row["bias"] is None and "nothing can be said of position bias" in (new / "report.html").read_text()
    assert refresh(place, service).startswith("nothing new since ")

    (new / "report.html").unlink()  # stopped before it was written
    refresh(place, service)
    assert (new / "report.html").exists() and len(read_history(place)) == 1


def test_a_refresh_that_may_be_worse_is_not_published_and_another_live_version_is_not_replaced(
    place, service, lasting, tmp_path
):
    service.events += lasting.later
    first = service.live
    service.events += [{**event, "event": "impression", "position": 1} for event in lasting.later[:50]]
    service.fails.add("agreement")  # then a refresh is none the worse
    assert refresh(place, service, "refresh.margin=0.0", "refresh.rate=1e-9", "refresh.epochs=1").startswith("not pub")
    assert service.live == first
    (row,) = read_history(place)
    assert row["bias"]["places"] == [{"from": 1, "to": 1, "impressions": 50, "clicks": 0, "looked_at": None}]
    assert "Popularity bias." in (place / "refresh" / "0001" / "report.html").read_text()
    judged = open_bundle(place / "refresh" / "0001" / "bundle").manifest.lineage["gate"]
    assert not judged["passes"] and judged["sentence"].startswith("not published: ")

    again = refresh(place, service, "refresh.margin=0.0", "refresh.rate=1e-9", "refresh.epochs=1")
    assert again == f"nothing new since refresh 1: {row['sentence']}" and len(read_generations(place)) == 2

    with pytest.raises(KeyboardInterrupt):
        refresh(place, service, OPEN, at="bundle")
    service.live = "0123456789abcdef"
    with pytest.raises(InputError, match="the live version 0123456789abcdef is none of those in"):
        refresh(place, service, OPEN)

    rows = read_history(place)
    assert [row["passes"] for row in rows] == [False, False]
    assert rows[1]["sentence"] == "given up: 0123456789abcdef became live meanwhile"


def test_events_with_times_that_cannot_be_are_left_out_and_stop_nothing(place, service, lasting):
    wrong = [event | {"timestamp": number} for number, event in enumerate(lasting.later[:30])]
    service.events += [*lasting.later, *wrong, lasting.later[0] | {"timestamp": 9e9}]
    told = Stopping("teacher")

    with pytest.raises(KeyboardInterrupt):
        Refresher(place, service, Wishes((OPEN,)), told).refresh()

    (said,) = [note for note in told.notes if "left out" in note]
    assert said.startswith("31 new events are left out, whose time is before prepare.earliest or after prepare.latest")
    wanted = events_in(place) + Counter((e["user_id"], e["item_id"], e["timestamp"] * 1000) for e in lasting.later)
    assert events_in(place / "refresh" / "0001") == wanted


def test_a_refresh_that_was_stopped_is_given_up_for_other_settings(place, service, lasting):
    service.events += lasting.later
    for epochs in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            refresh(place, service, OPEN, f"refresh.epochs={epochs}", at="teacher")

    (row,) = read_history(place)
    assert (row["number"], row["sentence"], row["passes"]) == (1, "given up: other settings", False)
    new = read_generations(place)[-1]
    assert new.number == 2 and load_config(new.path / "config.toml").refresh.epochs == 2


def test_a_stream_that_the_store_has_lost_is_said(place, service, lasting):
    service.events += lasting.later[:30]
    refresh(place, service)
    service.events[:] = lasting.later[30:35]
    told = Stopping()

    line = Refresher(place, service, Wishes(), told).refresh()

    assert any(note.startswith("the stream of events is another one than before") for note in told.notes)
    assert line.startswith("waiting: 35 new events")


def test_a_run_whose_bundle_is_gone_is_told_to_make_it_again(place, service, lasting):
    service.events += lasting.later
    shutil.rmtree(place / "bundle")

    with pytest.raises(InputError, match=f"training export --out {place}"):
        refresh(place, service, OPEN)

    version = service.live
    assert main(["export", "--out", str(place)]) == 0
    assert open_bundle(place / "bundle").manifest.version == version


def test_a_version_that_is_tried_on_users_is_not_ended_by_a_refresh(place, service, lasting):
    first, tried = service.live, "version 0123456789abcdef runs as canary beside the live one"
    service.events += lasting.later
    service.beside = tried

    waiting = refresh(place, service, OPEN)
    service.beside = None
    with pytest.raises(KeyboardInterrupt):
        refresh(place, service, OPEN, at="bundle")
    service.beside = tried
    held = refresh(place, service, OPEN)

    assert waiting.startswith(f"waiting: {tried}, and publishing would end that before it is decided; ")
    assert held.startswith(f"not published, though it passed: service publish: {tried}")
    assert [row["passes"] for row in read_history(place)] == [False] and service.live == first


@pytest.mark.parametrize("gone", ["prepared", ""])
def test_a_refresh_says_what_is_gone_of_the_run_that_it_goes_on_from(place, service, lasting, gone):
    half = len(lasting.later) // 2
    service.events += lasting.later[:half]
    refresh(place, service, OPEN)
    service.events += lasting.later[half:]
    with pytest.raises(KeyboardInterrupt):
        refresh(place, service, OPEN, at="student")
    shutil.rmtree(place / "refresh" / "0001" / gone)

    with pytest.raises(InputError, match=r"0001: prepared.* is gone, .*put it back, or .*python -m service rollback"):
        refresh(place, service, OPEN)


def test_a_changed_model_and_a_schedule_ask_for_a_full_training(place, service, lasting):
    service.events += lasting.later

    for overrides, wishes, why in (
        (("student.dim=32",), {}, "student.dim changed"),
        ((), {"full_every": 1}, "every 1 refreshes"),
        (("refresh.drift=0.0",), {}, "% of the new events are of items that the last full training did not know"),
    ):
        with pytest.raises(KeyboardInterrupt):
            refresh(place, service, *overrides, at="prepared", **wishes)
        plan = read_generations(place)[-1].plan
        assert plan.kind == "full" and why in plan.why
        shutil.rmtree(place / "refresh" / "0001")
        (place / "refresh" / "events").mkdir(exist_ok=True)


@pytest.mark.parametrize("name", ["split.test=last", "prepare.columns=user_id=who", "prepare.times=ms"])
def test_what_a_refresh_decides_itself_cannot_be_set(place, service, name):
    with pytest.raises(InputError, match="a refresh decides it itself"):
        refresh(place, service, name)
