"""Commands in several processes: the result is that of one, a killed one costs little, what cannot be is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.world import heed_interrupts, tiny_settings
from training.__main__ import main
from training.run.processes import TOGETHER

EPOCHS = 12


def train(command, out, *more):
    settings = tiny_settings("teacher.dropout=0.0", f"teacher.epochs={EPOCHS}", "student.dropout=0.0")
    words = [sys.executable, "-m", "training", command, "--out", str(out), *settings, *more]
    return subprocess.Popen(
        words,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def member(parent, number):
    """The process of that number which parent started."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            about = (place / "stat").read_text().rpartition(")")[2].split()
            if int(about[1]) == parent and f"RANK={number}" in (place / "environ").read_text().split("\0"):
                return int(place.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise AssertionError(f"{parent} started no process {number}")


def curve(path):
    return [row["loss"] for row in json.loads(path.read_text())]


@pytest.fixture(scope="module")
def prepared(chain_world, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["prepare", "--out", str(out), "--interactions", str(chain_world), *tiny_settings()]) == 0
    return out


def test_a_killed_process_goes_on_from_the_last_checkpoint_and_the_result_is_that_of_one(prepared, tmp_path):
    several, one = (Path(shutil.copytree(prepared, tmp_path / name)) for name in ("several", "one"))

    said = []
    with train("teacher", several, "--processes", "2", "--set", "teacher.shard_above_mb=0.001") as running:
        for line in running.stderr:
            said.append(line)
            if "epoch 3:" in line:
                os.kill(member(running.pid, 1), signal.SIGKILL)
                break
        said += running.stderr.readlines()

    assert running.returncode == 0, said
    assert any("all go on from the last checkpoint" in line for line in said)
    headings = [line for line in said if line.startswith("[teacher]") and "done in" not in line]
    assert headings == ["[teacher] started\n", "[teacher] resumed\n"]
    assert sum("epoch 1:" in line for line in said) == 1
    assert any("the item table lies in 2 shards" in line for line in said)
    assert main(["teacher", "--out", str(one), *tiny_settings(f"teacher.epochs={EPOCHS}")]) == 0
    losses = curve(several / "teacher" / "curve.json")
    assert losses == pytest.approx(curve(one / "teacher" / "curve.json"), abs=0.02)
    assert len(losses) == EPOCHS
    assert {path.name for path in several.rglob("*")} == {path.name for path in one.rglob("*")}
    assert not (several / ".lock").exists()


def test_what_all_would_say_is_said_once(prepared):
    with train("distill", prepared, "--processes", "2", "--set", "distill.terms=kl,mutual") as refused:
        lines = refused.stderr.readlines()
    said = [line for line in lines if line.startswith("error:")]

    assert refused.returncode == 2
    assert not any("torch" in line for line in lines), lines
    assert len(said) == 1
    assert "distill.terms: mutual is taught in one process" in said[0]


@pytest.mark.parametrize(
    ("words", "started", "says"),
    [
        (["distill", "--processes", "0"], 1, "--processes must be at least 1, not 0"),
        (["teacher", "--processes", "3"], 2, "--processes 3, but torchrun started 2"),
        (["export"], 2, "export runs in one process; torchrun is for teacher and distill"),
        (["report"], 4, "report runs in one process"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(words, started, says, tmp_path, monkeypatch, capsys):
    if started > 1:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", str(started))

    assert main([*words, "--out", str(tmp_path / "run")]) == 2

    assert says in capsys.readouterr().err
    assert TOGETHER == ("teacher", "distill")
