"""What the model sees when serving is what it saw in training: real users over HTTP, against the evaluator."""

import gzip
import json
import random

import numpy as np
import pytest

from service.bundle import open_bundle
from tests.service.running import Running, run_command
from tests.service.toy import write_toy
from training.data.interaction_file import Cleaning
from training.data.prepare import prepare
from training.data.prepared import load_prepared
from training.data.split import SplitRule
from training.evaluation.judge import best_rows, rank
from training.evaluation.question import ask, judged_part
from training.export.export import torch_scores
from training.model.checkpoint import load_model

K = 20


def read_events(path):
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def expected(finished_run):
    """{user_id: [(item_id, score)]} as the evaluator ranks the test question, through torch."""
    prepared = load_prepared(finished_run / "prepared")
    model = load_model(finished_run / "student" / "student.safetensors")
    question = ask(prepared, judged_part(prepared))
    ranking = rank(question, lambda rows: scores_of(model, rows), model.size.max_history)
    answers = {}
    for place, user in enumerate(question.users):
        history = question.histories(np.array([place]))[0]
        scores = torch_scores(model, [history.tolist()])
        if question.exclude_seen:
            scores[0, history] = -np.inf
        best = best_rows(scores, K)[0]
        assert set(best.tolist()) == set(ranking.top[place].tolist())
        answers[prepared.users[user]] = [(prepared.items[row].item_id, float(scores[0, row])) for row in best]
    return answers


def scores_of(model, rows):
    return torch_scores(model, [[row for row in history if row >= 0] for history in rows.tolist()])


def check_answers(service, expected):
    for user_id, best in expected.items():
        answer = service.recommend(user_id=user_id, k=K, budget_ms=1000)
        assert answer["quality"] == {"level": "full", "reasons": []}, user_id
        served = [(item["item_id"], item["score"]) for item in answer["items"]]
        largest = max(abs(score) for _, score in best)
        np.testing.assert_allclose([s for _, s in served], [s for _, s in best], atol=1e-4 * largest)
        scores = dict(best)
        for (item_id, score), (_, wanted) in zip(served, best, strict=True):
            assert scores.get(item_id, wanted) == pytest.approx(score, abs=2e-4 * largest), (user_id, item_id)


def test_events_sent_in_any_order_give_the_evaluators_ranking(finished_run, expected, tmp_path):
    events = read_events(finished_run / "prepared" / "known.jsonl.gz")
    random.Random(7).shuffle(events)

    with Running(finished_run / "bundle", tmp_path) as service:
        for start in range(0, len(events), 500):
            assert service.send(*events[start : start + 500])["rejected"] == []

        check_answers(service, expected)


def test_imported_histories_give_the_evaluators_ranking(finished_run, expected, tmp_path):
    done = run_command("import", str(finished_run / "prepared" / "known.jsonl.gz"), data_dir=str(tmp_path))
    assert done.returncode == 0, done.stderr

    with Running(finished_run / "bundle", tmp_path) as service:
        check_answers(service, expected)
        check_answers(service, expected)  # now from cached embeddings


def test_an_inline_history_gives_the_same_as_the_stored_one(finished_run, expected, tmp_path):
    histories = {}
    for event in read_events(finished_run / "prepared" / "known.jsonl.gz"):
        histories.setdefault(event["user_id"], []).append(event["item_id"])

    with Running(finished_run / "bundle", tmp_path) as service:
        for user_id, best in list(expected.items())[:20]:
            answer = service.recommend(history=histories[user_id], k=K)
            assert [item["item_id"] for item in answer["items"]][:5] == [item_id for item_id, _ in best][:5]


def test_the_bundle_exported_is_the_bundle_served(finished_run, tmp_path):
    with Running(finished_run / "bundle", tmp_path) as service:
        served = service.client.get("/model").json()

    manifest = open_bundle(finished_run / "bundle").manifest
    assert served["version"] == manifest.version


TYPES = ["buy", "view", "click", "skip", "unlike", "impression", "hide", "remove", ""]


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"events": ["buy", "view"]},
        {"weights": "loss", "event_weights": {"buy": 1.0, "view": 0.2, "click": 0.0}},
        {"event_effects": {"skip": "hide", "unlike": "undo", "click": "stream", "impression": "history"}},
    ],
    ids=["built in", "events", "weights", "effects"],
)
def test_typed_events_give_the_histories_of_training(chosen, tmp_path):
    rng = random.Random(3)
    rows = [
        {"user_id": f"u{rng.randrange(12)}", "item_id": f"i{rng.randrange(9)}", "timestamp": rng.randrange(1, 12),
         "event": rng.choice(TYPES)}
        for _ in range(600)
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cleaning = Cleaning(**chosen)
    prepared = prepare(tmp_path / "log.jsonl", None, tmp_path / "out", cleaning, SplitRule("none"), "yes")
    trained = {}
    for event in read_events(tmp_path / "out" / "histories.jsonl.gz"):
        trained.setdefault(event["user_id"], []).append((event["item_id"], event["timestamp"]))
    types = prepared.report["settings"]["history_types"]
    bundle = write_toy(tmp_path / "bundle", history_types=types)

    with Running(bundle.path, tmp_path / "data") as service:
        rng.shuffle(rows)
        sent = [{**row, "type": row["event"] or None} for row in rows]
        for row in sent:
            del row["event"]
        assert service.send(*sent)["rejected"] == []
        users = sorted({row["user_id"] for row in rows})
        kept = {user: service.client.get(f"/users/{user}").json()["history"] for user in users}
        exported = run_command("export", str(tmp_path / "events.jsonl"), "--data-dir", str(tmp_path / "data"))
        again = prepare(tmp_path / "events.jsonl", None, tmp_path / "again", cleaning, SplitRule("none"), "yes")

    served = {user: [(event["item_id"], event["timestamp"]) for event in kept[user]] for user in users}
    assert exported.returncode == 0, exported.stderr
    assert {user: history for user, history in served.items() if history} == trained
    assert (again.item.tolist(), again.timestamp_ms.tolist()) == (
        prepared.item.tolist(),
        prepared.timestamp_ms.tolist(),
    )
