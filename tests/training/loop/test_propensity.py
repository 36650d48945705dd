"""How places are looked at, from explored items: known where they tell enough, refused in words where they do not."""

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle import open_bundle
from service.library import Retort
from tests.training.loop.conftest import N_ITEMS, Lasting
from tests.training.loop.log import LogService
from training.data.prepared import load_prepared
from training.errors import InputError
from training.loop.event_file import read_event_files
from training.loop.propensity import MOST_WEIGHT, UNWEIGHED, Places, Propensity, count_places, estimate
from training.loop.propensity import given as given_slope
from training.loop.refresh import Refresher, Wishes
from training.progress import Progress

TRUE_SLOPE = 1.0


def explored_places(rng: np.random.Generator, n_lists: int, attraction: float, slope: float = TRUE_SLOPE) -> Places:
    """What the service's exploration sees of lists of ten and of twenty: a place of the lower half, each as likely."""
    places = Places()
    for k in (10, 20):
        place = rng.integers(k // 2 + 1, k + 1, n_lists)
        clicked = rng.random(n_lists) < attraction * place**-slope
        places.impressions.update(place.tolist())
        places.clicks.update(place[clicked].tolist())
    return places


def write_events(folder: Path, events: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / "000001.1-1@1.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def test_a_known_position_bias_is_found_within_the_error_that_is_told() -> None:
    found = [estimate(explored_places(np.random.default_rng(seed), 10_000, 0.4)) for seed in range(100)]

    assert all(each.slope is not None and each.error is not None and each.error < 0.15 for each in found)
    inside = sum(abs(each.slope - TRUE_SLOPE) < 1.96 * each.error for each in found)
    assert inside >= 88  # of 95 expected; fewer once in a thousand
    assert abs(np.mean([each.slope for each in found]) - TRUE_SLOPE) < 0.05


@settings(max_examples=30)
@given(counts=st.dictionaries(st.integers(1, 30), st.tuples(st.integers(200, 5000), st.integers(20, 200)), min_size=4))
def test_the_slope_is_the_most_likely_one_of_a_fine_grid(counts: dict[int, tuple[int, int]]) -> None:
    places = Places(
        Counter({place: shown for place, (shown, _) in counts.items()}),
        Counter({place: clicks for place, (_, clicks) in counts.items()}),
    )
    found = estimate(places)
    if found.slope is None:
        assert "clicks" in found.sentence
        return

    place = np.array(sorted(counts), dtype=float)
    shown, clicks = (np.array([counts[int(each)][of] for each in place]) for of in (0, 1))

    def likelihood(slope: float) -> float:
        expected = shown * place**-slope
        return float((clicks * np.log(expected / expected.sum())).sum())

    best = max(np.arange(0, 5.001, 0.01), key=likelihood)
    assert found.slope == pytest.approx(best, abs=0.011)


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (Places(), ("nothing to estimate from", "RETORT_EXPLORE")),
        (Places(Counter({6: 50, 7: 50})), ("shown and clicked",)),
        (Places(Counter({6: 500}), Counter({6: 300})), ("1 places",)),
        (Places(Counter({6: 500, 7: 500}), Counter({6: 20, 7: 20})), ("40 clicks",)),
        (Places(Counter({9: 5000, 10: 5000}), Counter({9: 200, 10: 190})), ("±", "more clicks")),
    ],
)
def test_what_cannot_be_estimated_is_said_and_weighs_nothing(places: Places, words: tuple[str, ...]) -> None:
    found = estimate(places)

    assert found.slope is None
    assert all(word in found.sentence for word in ("not weighed", *words))
    assert found.weight(9) == 1


def test_a_click_weighs_more_the_lower_it_stood_up_to_a_bound_and_what_names_no_place_weighs_one() -> None:
    weighed = given_slope(1.0)

    assert [weighed.weight(place) for place in (1, 2, 5, 10, 50)] == [1, 2, 5, 10, MOST_WEIGHT]
    assert [weighed.weight(place) for place in (None, 0, -3, True, 2.0, "2")] == [1] * 6
    assert UNWEIGHED.weight(7) == 1
    assert Propensity(2.0, 0.1, "").weight(3) == 9


def test_events_are_counted_by_place_and_explored_ones_apart(tmp_path: Path) -> None:
    shown = {"user_id": "u", "item_id": "i", "timestamp": 1, "event": "impression"}
    write_events(tmp_path, [
        shown | {"position": 1}, shown | {"position": 6, "explored": True}, shown,
        shown | {"position": 6, "explored": True, "event": "click"}, shown | {"position": 1, "event": "buy"},
        shown | {"position": 6, "explored": True, "event": "hide"}, shown | {"position": 0, "event": "click"},
        {"user_id": "u", "item_id": "i", "timestamp": 2},
    ])  # fmt: skip

    files = read_event_files(tmp_path)

    every = count_places(files, None)
    assert (every.impressions, every.clicks) == (Counter({1: 1, 6: 1}), Counter({1: 1, 6: 1}))
    explored = count_places(files, None, explored=True)
    assert (explored.impressions, explored.clicks) == (Counter({6: 1}), Counter({6: 1}))


class Heard(Progress):
    """Keeps what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def biased_clicks(rng: np.random.Generator) -> list[dict]:
    """Users like the next item and the one three on alike, but one is shown first and the other eighth.

    Explored items, each shown to somebody else, tell how places are looked at.
    """
    events = []
    for user in range(120):
        item = int(rng.integers(N_ITEMS))
        for step in range(14):
            is_next = rng.random() < 8 / 9
            item = (item + (1 if is_next else 3)) % N_ITEMS
            events.append({
                "user_id": f"n{user}", "item_id": f"{item:04d}", "timestamp": 1_700_500_000 + 60 * step + user / 100,
                "event": "click", "position": 1 if is_next else 8,
            })  # fmt: skip
    places = explored_places(rng, 3000, 0.5)
    counts = [(place, "impression", n) for place, n in places.impressions.items()]
    for place, kind, n in counts + [(place, "click", n) for place, n in places.clicks.items()]:
        explored = {"item_id": "0000", "timestamp": 1_700_500_000, "event": kind, "position": place, "explored": True}
        events += [explored | {"user_id": f"x{kind}{place}.{number}"} for number in range(n)]
    return events


def refresh(lasting: Lasting, place: Path, events: list[dict], *overrides: str) -> tuple[Path, list[str]]:
    """Refresh a copy of a run with events; return the new run directory, and what was said."""
    shutil.copytree(lasting.run, place)
    service = LogService(open_bundle(place / "bundle").manifest.version)
    service.events += events
    heard = Heard()
    Refresher(place, service, Wishes(("prepare.weights=loss", "refresh.margin=0.99", *overrides)), heard).refresh()
    return place / "refresh" / "0001", heard.lines


def lead_of_the_first_place(run: Path) -> float:
    """How much higher the item of the first place is scored than the one of the eighth, which is liked as much."""
    model = Retort.load(run / "bundle")
    leads = []
    for item in range(N_ITEMS):
        answer = model.recommend([f"{item:04d}"], k=N_ITEMS, exclude_seen=False)
        scores = {each["item_id"]: each["score"] for each in answer["items"]}
        leads.append(scores[f"{(item + 1) % N_ITEMS:04d}"] - scores[f"{(item + 3) % N_ITEMS:04d}"])
    return float(np.mean(leads))


def test_a_model_that_is_trained_on_weighed_clicks_comes_nearer_to_the_taste(lasting: Lasting, tmp_path: Path) -> None:
    events = biased_clicks(np.random.default_rng(1))
    plain, _ = refresh(lasting, tmp_path / "plain", events)
    weighed, said = refresh(lasting, tmp_path / "weighed", events, "refresh.propensity=position")

    (line,) = [line for line in said if line.startswith("refresh.propensity")]
    slope = estimate(count_places(read_event_files(weighed.parent / "events"), None, explored=True)).slope
    assert slope is not None and f"{slope:.2f}" in line and abs(slope - TRUE_SLOPE) < 0.4
    weights = load_prepared(weighed / "prepared").weight
    assert weights is not None
    assert {1.0, round(min(MOST_WEIGHT, 8**slope), 6)} <= set(np.round(weights, 6))
    assert lead_of_the_first_place(weighed) < 0.7 * lead_of_the_first_place(plain)


def test_events_without_explored_items_are_taken_as_they_are_and_it_is_said_why(
    lasting: Lasting, tmp_path: Path
) -> None:
    run, said = refresh(lasting, tmp_path / "run", lasting.later, "refresh.propensity=position")

    assert any("nothing to estimate from" in line and "RETORT_EXPLORE" in line for line in said)
    weights = load_prepared(run / "prepared").weight
    assert weights is not None and set(weights) == {1.0}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["refresh.propensity=position", "prepare.weights=filter"], ("prepare.weights=loss",)),
        (["refresh.propensity=rank"], ("refresh.propensity", "none, position or a number")),
        (["refresh.propensity=-1"], ("refresh.propensity", "from 0 to 5")),
        (["refresh.propensity=nan"], ("refresh.propensity",)),
    ],
)
def test_a_propensity_that_cannot_be_is_refused(lasting: Lasting, overrides: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as refused:
        Refresher(lasting.run, LogService(None), Wishes(overrides), Progress())

    assert all(word in str(refused.value) for word in words)
