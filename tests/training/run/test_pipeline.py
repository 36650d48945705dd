"""The commands as a user types them: a whole run, what is skipped, what is resumed, what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from service.bundle import open_bundle
from tests.training.world import heed_interrupts, tiny_settings, write_chain_world
from training.__main__ import main
from training.data.prepared import load_prepared
from training.data.split import TRAIN, VAL
from training.evaluation.judge import Ranking
from training.evaluation.question import ask, judged_part
from training.model.checkpoint import load_weights
from training.progress import Progress
from training.run.config import Config, Prepare
from training.run.directory import Run
from training.stage import read_key

STAGES = ("prepared", "teacher", "mix", "soft_labels", "student", "compressed", "item_encoder", "similar", "baselines")


def keys(run):
    return {name: read_key(run / name) for name in STAGES} | {"bundle": open_bundle(run / "bundle").manifest.created_at}


def test_a_run_leaves_every_part_and_no_work_behind(finished_run):
    names = {path.name for path in finished_run.iterdir()}

    assert names == {*STAGES, "config.toml", "bundle", "metrics.json", "report.html"}


def test_a_run_learns_the_chain_that_popularity_cannot(finished_run):
    models = json.loads((finished_run / "metrics.json").read_text())["models"]

    assert models["teacher"]["ndcg@10"] > 0.5 > 3 * models["popularity"]["ndcg@10"]
    assert models["student"]["ndcg@10"] > 0.4
    assert models["teacher"]["parameters"] > models["student"]["parameters"]
    assert models["bundle"]["ndcg@10"] == pytest.approx(models["student"]["ndcg@10"], abs=1e-6)
    low, high = models["student"]["ndcg@10_interval"]
    assert low < models["student"]["ndcg@10"] < high


def test_the_report_is_one_self_contained_page_with_the_verdict_first(finished_run):
    page = (finished_run / "report.html").read_text()
    metrics = json.loads((finished_run / "metrics.json").read_text())

    assert page.index("verdict") < page.index("<table>")
    assert metrics["verdict"].split(":")[0] in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page


def test_the_bundle_alone_reproduces_the_reports_hit_rate(finished_run):
    """Manifest, ONNX, item matrix; nothing of the project."""
    bundle = finished_run / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    matrix = np.load(bundle / "item_embeddings.npy")
    row = {json.loads(line)["item_id"]: i for i, line in enumerate((bundle / "items.jsonl").read_text().splitlines())}
    session = onnxruntime.InferenceSession(bundle / "user_encoder.onnx")
    history, target = {}, {}
    for name, into in (("known", history), ("heldout", target)):
        lines = subprocess.run(
            ["zcat", finished_run / "prepared" / f"{name}.jsonl.gz"], capture_output=True, check=True
        )
        for line in lines.stdout.splitlines():
            event = json.loads(line)
            into.setdefault(event["user_id"], []).append(row[event["item_id"]])

    hits = []
    for user, (wanted, *_) in target.items():
        rows = history[user][-manifest["max_history"] :]
        inputs = {"history": matrix[rows][None], "length": np.array([len(rows)])}
        scores = matrix @ session.run(["user"], inputs)[0][0]
        if not manifest["repeat_consumption"]:
            scores[history[user]] = -np.inf
        hits.append(wanted in np.argsort(-scores)[:10])

    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert np.mean(hits) == pytest.approx(metrics["models"]["bundle"]["hr@10"], abs=1e-9)


def test_a_second_run_skips_everything_and_a_changed_setting_only_what_follows(chain_world, finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    again = ["run", "--interactions", str(chain_world), "--out", str(run)]
    before = keys(run)

    assert main([*again, *tiny_settings()]) == 0
    assert keys(run) == before

    assert main([*again, *tiny_settings("compress.items=int8")]) == 0
    after = keys(run)
    assert {name for name in before if before[name] != after[name]} >= {"compressed"}
    assert all(before[name] == after[name] for name in ("prepared", "teacher", "soft_labels", "student"))
    assert np.load(run / "bundle" / "item_embeddings.npy").dtype == np.int8


def test_a_stage_alone_goes_on_with_the_settings_of_the_run(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)

    assert main(["teacher", "--out", str(run)]) == 0
    assert main(["distill", "--out", str(run)]) == 0

    assert {name: read_key(run / name) for name in STAGES} == {name: read_key(finished_run / name) for name in STAGES}


def test_refit_trains_on_everything_and_the_bundle_says_so(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)

    assert main(["export", "--out", str(run), "--refit"]) == 0
    assert main(["report", "--out", str(run), "--refit"]) == 0

    manifest = open_bundle(run / "bundle").manifest
    assert manifest.refit
    assert manifest.version != open_bundle(finished_run / "bundle").manifest.version
    assert "bundle" not in json.loads((run / "metrics.json").read_text())["models"], "its test events were trained on"


def test_the_same_seed_gives_the_same_weights(chain_world, finished_run, tmp_path):
    run = tmp_path / "run"

    assert main(["prepare", "--interactions", str(chain_world), "--out", str(run), *tiny_settings()]) == 0
    for stage in ("teacher", "distill", "export"):
        assert main([stage, "--out", str(run)]) == 0

    ours, theirs = (load_weights(place / "student" / "student.safetensors")[0] for place in (run, finished_run))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert open_bundle(run / "bundle").manifest.version == open_bundle(finished_run / "bundle").manifest.version


def test_an_interrupted_run_resumes_to_the_weights_of_one_that_was_not(chain_world, finished_run, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "training", "run", "--interactions", str(chain_world), "--out", str(run)]
    command += tiny_settings()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip().startswith("epoch 2"):
            os.kill(process.pid, signal.SIGINT)
            break
    said = process.stderr.read()
    process.stderr.close()

    assert process.wait() == 130
    assert "interrupted: the same command goes on where it stopped" in said
    assert not (run / "teacher").exists(), "a half-trained teacher must not look whole"

    resumed = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "[teacher] resumed" in resumed.stderr.replace("[.teacher.work]", "[teacher]")
    assert "epoch 1:" not in resumed.stderr.split("[soft_labels]")[0]
    assert open_bundle(run / "bundle").manifest.version == open_bundle(finished_run / "bundle").manifest.version


def test_a_split_without_test_is_judged_on_validation(chain_world, tmp_path):
    run = tmp_path / "run"
    settings = tiny_settings("split.test=none", "teacher.epochs=1", "student.epochs=1")

    assert main(["run", "--interactions", str(chain_world), "--out", str(run), *settings]) == 0

    assert json.loads((run / "metrics.json").read_text())["judged_on"] == "validation"


def test_a_time_split_is_trained_and_judged(tmp_path):
    world = write_chain_world(tmp_path / "world.csv", users=60)
    run = tmp_path / "run"
    settings = tiny_settings("split.test=time", "split.val=time", "teacher.epochs=1", "student.epochs=1")

    code = main(["run", "--interactions", str(world), "--out", str(run), *settings])

    assert code == 2 or json.loads((run / "metrics.json").read_text())["judged_on"] == "test"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["run", "--interactions", "none.csv"], "none.csv: No such file or directory"),
        (["run", "--interactions", "{world}", "--columns", "user_id=customer"], "customer"),
        (["run", "--interactions", "{world}", "--set", "teacher.dmi=3"], "unknown setting teacher.dmi"),
        (
            ["run", "--interactions", "{world}", "--set", "baselines.models=ease,slim"],
            "unknown 'slim'; known: popularity",
        ),
        (["run", "--interactions", "{world}", "--config", "none.toml"], "none.toml: no such file"),
        (["run", "--interactions", "{world}", "--set", "student.seed=-1"], "student.seed must be at least 0"),
        (["search", "--set", "search.dims=16,9"], "search.dims: 9 is no multiple of student.heads 2"),
        (["report"], "run prepare first"),
        (["ablation"], "run prepare first"),
        (["teacher"], "run prepare first"),
        (["distill"], "run prepare first"),
        (["export"], "run prepare first"),
    ],
)
def test_a_mistake_is_one_clear_line_exit_code_2_and_no_output(command, message, chain_world, tmp_path, capsys):
    out = tmp_path / "run"

    code = main([*(word.format(world=chain_world) for word in command), "--out", str(out)])

    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert "Traceback" not in error
    assert not out.exists()


def test_a_stage_names_the_one_that_must_come_first(chain_world, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["prepare", "--interactions", str(chain_world), "--out", out]) == 0

    assert main(["distill", "--out", out]) == 2
    assert f"run 'python -m training teacher --out {out}'" in capsys.readouterr().err


def test_help_teaches_the_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("simulate", "run", "prepare", "teacher", "baselines", "export"))
    assert "python -m training run --interactions" in text


def test_a_fold_is_judged_on_users_that_no_model_trained_on(chain_world, tmp_path):
    out = tmp_path / "run"
    settings = tiny_settings("split.test=users", "split.folds=3", "split.fold=2")
    for command in (["prepare", "--interactions", str(chain_world)], ["teacher"]):
        assert main([*command, "--out", str(out), *settings]) == 0

    prepared = load_prepared(out / "prepared")
    question = ask(prepared, judged_part(prepared))
    trained = set(prepared.user[prepared.part == TRAIN].tolist())
    assert prepared.report["split"]["fold"] == 2
    assert len(question.users) == 40 and not trained & set(question.users.tolist())
    assert len(Ranking.load(out / "teacher" / "ranking.npz").ranks) == 40
    assert set(ask(prepared, VAL).users.tolist()) <= trained


def _copied(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    return run


def test_a_run_whose_file_is_missing_leaves_the_settings_of_the_directory(finished_run, tmp_path):
    run = _copied(finished_run, tmp_path)
    known = (run / "config.toml").read_text()

    assert main(["run", "--interactions", str(tmp_path / "none.csv"), "--out", str(run)]) == 2

    assert (run / "config.toml").read_text() == known


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["export", "--set", "student.dim=64"], "student.dim: export takes it as distill made it"),
        (["ablation", "--set", "teacher.dim=64"], "teacher.dim: ablation takes it as teacher made it"),
        (["report", "--set", "compress.items=int8"], "compress.items: report takes it as compress made it"),
        (["distill", "--set", "split.test=time"], "split.test: distill takes it as prepare made it"),
    ],
)
def test_what_an_earlier_stage_was_made_with_is_not_believed_anew(command, message, finished_run, tmp_path, capsys):
    run = _copied(finished_run, tmp_path)
    known = (run / "config.toml").read_text()

    assert main([*command, "--out", str(run)]) == 2

    assert message in capsys.readouterr().err
    assert (run / "config.toml").read_text() == known


def test_a_student_of_other_teachers_is_not_exported(finished_run, tmp_path, capsys):
    run = _copied(finished_run, tmp_path)
    assert main(["teacher", "--out", str(run), "--set", "teacher.epochs=1"]) == 0

    assert main(["export", "--out", str(run)]) == 2

    assert "made with other settings or teachers" in capsys.readouterr().err


def test_distill_trains_the_teacher_whose_settings_are_new(finished_run, tmp_path):
    run = _copied(finished_run, tmp_path)
    before = read_key(run / "teacher"), read_key(run / "student")

    assert main(["distill", "--out", str(run), "--set", "teacher.epochs=1", "--set", "student.epochs=1"]) == 0

    assert read_key(run / "teacher") != before[0]
    assert read_key(run / "student") != before[1]


def test_what_is_made_of_weighed_events_has_a_key_of_its_own_and_the_rest_keeps_what_it_has(finished_run):
    stored = read_key(finished_run / "prepared")

    found = {
        weights: Run(finished_run, Config(prepare=Prepare(weights=weights)), Progress()).key("prepared")
        for weights in ("ignore", "filter", "loss")
    }

    assert found["ignore"] == found["filter"] == stored
    assert found["loss"] != stored


def test_a_damaged_mix_is_named(finished_run, tmp_path, capsys):
    run = _copied(finished_run, tmp_path)
    (run / "mix" / "mix.json").write_text("{")

    assert main(["distill", "--out", str(run), "--set", "student.epochs=1"]) == 2

    assert "mix.json: damaged" in capsys.readouterr().err
