"""A kind of teacher that only this test knows goes through the whole recipe by its entry in the registry."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from service.bundle import open_bundle
from tests.training.world import N_ITEMS, tiny_settings
from training.__main__ import main
from training.data.prepared import all_events, training_events
from training.evaluation.judge import judge_scorer
from training.stage import read_key
from training.teacher.kind import CURVE, RANKING, Kind, Member, Offer, time_scorer
from training.teacher.mix import load_factors
from training.teacher.registry import KINDS, refit_order


def count_successors(events):
    """Return [N, N]: how often each of the first half of the items was followed by each item."""
    counts = np.zeros((N_ITEMS, N_ITEMS), dtype=np.float32)
    for first, stop in zip(events.offset[:-1], events.offset[1:], strict=True):
        np.add.at(counts, (events.item[first : stop - 1], events.item[first + 1 : stop]), 1)
    counts[N_ITEMS // 2 :] = 0
    return counts


@dataclass(frozen=True)
class CountLabels:
    """Logits by the item of each event."""

    counts: np.ndarray
    item: np.ndarray
    factor: float

    def logits(self, event):
        return torch.from_numpy(self.factor * self.counts[self.item[event.numpy()]])


class SuccessorCounts(Kind):
    """Scores what followed the newest item; knows half of the catalogue, so that a second teacher helps."""

    def settings(self, supplies):
        return {}

    def train(self, out, supplies):
        np.save(out / "counts.npy", count_successors(training_events(supplies.prepared)))
        judge_scorer(supplies.prepared, self._scorer(out), 1).save(out / RANKING)

    def open(self, run):
        scorer = self._scorer(run / self.place)
        return Member(scorer, 1, N_ITEMS**2, 0.5, lambda: time_scorer(scorer, 1, N_ITEMS))

    def offer(self, run, events, factor):
        return Offer(CountLabels(np.load(run / self.place / "counts.npy"), events.item, factor))

    def refit(self, out, run, supplies, factor):
        events = all_events(supplies.prepared)
        np.save(out / f"{self.name}.npy", count_successors(events))
        return Offer(CountLabels(np.load(out / f"{self.name}.npy"), events.item, factor))

    def _scorer(self, stage):
        counts = np.load(stage / "counts.npy")
        return lambda rows: counts[rows[:, -1].numpy()]


@pytest.fixture(scope="module")
def run(chain_world, tmp_path_factory):
    """A run that is taught by the new kind and a transformer, trained once more on everything and exported."""
    out = tmp_path_factory.mktemp("runs") / "run"
    kind = SuccessorCounts("counts", "successor_counts", "Counts of successors alone", colour="#123456")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, kind.name, kind)
        settings = tiny_settings(
            "teacher.members=transformer,counts", "teacher.blocks=pool,attention", "baselines.models=popularity"
        )
        assert main(["run", "--interactions", str(chain_world), "--out", str(out), "--refit", *settings]) == 0
    return out


def test_new_kind_is_trained_and_mixed(run):
    assert read_key(run / "successor_counts") is not None
    assert set(load_factors(run / "mix")) == {"transformer", "counts"}


def test_new_kind_teaches_and_is_refitted(run):
    quality = open_bundle(run / "bundle").manifest.quality

    assert open_bundle(run / "bundle").manifest.refit
    assert (run / "refit" / "counts.npy").exists()
    assert quality["counts"]["ndcg@10"] > 0.2
    assert quality["student"]["ndcg@10"] > 0.2


def test_new_kind_is_in_the_report_under_its_title(run):
    metrics = json.loads((run / "metrics.json").read_text())

    assert metrics["models"]["counts"]["parameters"] == N_ITEMS**2
    assert metrics["seconds"]["counts"] == 0.5
    assert set(metrics["mix"]) == {"transformer", "counts"}
    assert "counts" not in metrics["beside_baselines"]
    assert "Counts of successors alone" in (run / "report.html").read_text()


def test_kind_that_is_not_in_the_registry_is_refused(chain_world, tmp_path, capsys):
    settings = tiny_settings("teacher.members=counts")

    assert main(["run", "--interactions", str(chain_world), "--out", str(tmp_path / "run"), *settings]) == 2

    assert "teacher.members must list some of transformer, linear, text, twin" in capsys.readouterr().err


def test_states_are_not_asked_of_a_kind_that_is_not_neural(chain_world, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(KINDS, "counts", SuccessorCounts("counts", "successor_counts", "Counts"))
    settings = tiny_settings("teacher.members=counts", "distill.terms=kl,hint")

    assert main(["run", "--interactions", str(chain_world), "--out", str(tmp_path / "run"), *settings]) == 2

    assert "the teacher is counts: add transformer" in capsys.readouterr().err


def test_places_and_labels_of_all_kinds_are_apart():
    places = [place for kind in KINDS.values() for place in (kind.place, kind.labels_place) if place]

    assert len(places) == len(set(places))


def test_refit_comes_to_neural_kinds_first_and_keeps_their_order():
    assert refit_order(["linear", "twin", "text", "transformer"]) == ["text", "transformer", "twin", "linear"]


def test_only_what_is_trained_in_epochs_has_a_curve(run):
    assert (run / "teacher" / CURVE).exists()
    assert not (run / "successor_counts" / CURVE).exists()
    assert KINDS["transformer"].best_epochs(run) >= 1
    assert KINDS["linear"].best_epochs(run) is None
