"""A bundle judged alone: what of two files is asked, and that the answer is the report's."""

import json

import pytest

from service.bundle import open_bundle
from training.__main__ import main
from training.errors import InputError
from training.export.evaluate_bundle import evaluate_bundle, read_question

HEAD = "user_id,item_id,timestamp\n"


@pytest.fixture
def files(tmp_path):
    """What was known and what came next: of a to d, who has no earlier event."""
    known, heldout = tmp_path / "known.csv", tmp_path / "heldout.csv"
    known.write_text(f"{HEAD}a,i1,1010\na,gone,1015\na,i2,1020\na,i9,1040\nb,i5,1005\nc,i7,1001\nd,i8,1060\n")
    heldout.write_text(f"{HEAD}a,i3,1030\na,i4,1035\nb,new,1050\nc,i7,1002\nd,i1,1050\n")
    return known, heldout


def test_each_user_is_asked_for_the_first_held_out_event_given_what_came_before(toy_bundle, files):
    question, unknown = read_question(open_bundle(toy_bundle), *files, {}, True)

    assert [rows.tolist() for rows in question.histories(question.users)] == [[1, 2], [5], [7]]
    assert question.target.tolist() == [3, -1, 7], "an item that the bundle does not know cannot be hit"
    assert unknown == 1
    assert question.exclude_seen is True


def test_the_rule_about_seen_items_is_the_bundles_unless_it_is_given(toy_bundle, files):
    bundle = open_bundle(toy_bundle)

    question, _ = read_question(bundle, *files, {}, None)

    assert question.exclude_seen is not bundle.manifest.repeat_consumption


def test_events_of_one_instant_are_history_or_not_by_the_order_of_the_store(toy_bundle, tmp_path):
    known, heldout = tmp_path / "known.csv", tmp_path / "heldout.csv"
    users = [f"u{n}" for n in range(40)]
    known.write_text(HEAD + "".join(f"{user},i1,1000\n{user},i2,1010\n" for user in users))
    heldout.write_text(HEAD + "".join(f"{user},i3,1010\n" for user in users))

    question, _ = read_question(open_bundle(toy_bundle), known, heldout, {}, None)

    histories = [rows.tolist() for rows in question.histories(question.users)]
    assert {tuple(rows) for rows in histories} == {(1,), (1, 2)}, "a hash decides, for about half of the users"


def test_a_directory_that_is_no_bundle_is_an_input_error(files, tmp_path):
    with pytest.raises(InputError):
        evaluate_bundle(tmp_path, *files, columns={}, exclude_seen=None)


@pytest.mark.parametrize("history", ["known", "histories"])
def test_evaluate_of_the_bundle_equals_the_report(history, finished_run, capsys):
    prepared = finished_run / "prepared"  # histories: everything, the held-out events too, which must not leak
    files = ["--interactions", str(prepared / f"{history}.jsonl.gz"), "--heldout", str(prepared / "heldout.jsonl.gz")]

    assert main(["evaluate", "--bundle", str(finished_run / "bundle"), *files]) == 0

    evaluated = json.loads(capsys.readouterr().out.splitlines()[-1])
    reported = json.loads((finished_run / "metrics.json").read_text())["models"]["bundle"]
    for name in ("hr@10", "ndcg@10", "mrr@20", "users", "coverage@10"):
        assert evaluated[name] == pytest.approx(reported[name], abs=1e-9)


def test_evaluate_refuses_files_without_a_common_user(finished_run, tmp_path, capsys):
    other = tmp_path / "other.csv"
    other.write_text("user_id,item_id,timestamp\nnobody,0001,1700000000\n")
    known = finished_run / "prepared" / "known.jsonl.gz"

    code = main(
        ["evaluate", "--bundle", str(finished_run / "bundle"), "--interactions", str(known), "--heldout", str(other)]
    )

    assert code == 2
    assert "no user of it has an earlier event in" in capsys.readouterr().err
