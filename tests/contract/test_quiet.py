"""It calls nobody: service and training on a machine without a way out ask for no name and leave no file under HOME."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.contract.build_context import ROOT
from tests.contract.namespace import enter_namespace
from tests.service.running import clean_environment
from tests.service.toy import write_toy
from tests.training.world import tiny_settings

SERVE = """
import sys
from pathlib import Path
from tests.service.running import Running, run_command, wait_for
first, second, data = map(Path, sys.argv[1:])
with Running(first, data) as running:
    running.recommend(history=["i1", "i2"], k=3)
    running.send({"user_id": "u", "item_id": "i1", "timestamp": 1_700_000_000})
    done = run_command("publish", str(second), "--data-dir", str(data), "--wait", "20")
    assert done.returncode == 0, done.stderr
    assert len(wait_for(lambda: [x for x in running.log_lines() if x["event"] == "model_swapped"])) == 1
    running.recommend(user_id="u", k=3)
"""
"""A service that answers, and follows a published version: the publisher and the service each try it in a child."""
TEXTS = """
import sys
from pathlib import Path
import transformers
from training.progress import Progress, TensorBoardLog
from training.teacher.item_text import encode_texts
out = Path(sys.argv[1])
small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
transformers.BertModel(transformers.BertConfig(vocab_size=8, **small)).save_pretrained(out)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "mug", "cup"]
(out / "vocab.txt").write_text("\\n".join(words))
transformers.BertTokenizerFast(str(out / "vocab.txt")).save_pretrained(out)
encode_texts(out, ["red mug", "cup"], out, Progress())
TensorBoardLog(out / "curves").write("loss", 1, 0.5)
"""
CALL = """
import socket
for address in (("name.example", 80), ("192.0.2.1", 80)):
    try:
        socket.create_connection(address, timeout=5)
    except OSError:
        pass
"""
TELEMETRY = """
import onnxruntime
from tests.service.toy import mean_encoder
onnxruntime.InferenceSession(mean_encoder(wasted=4))
"""


def run_silent(home: Path, *command: object, **environment: str) -> dict[str, Any]:
    """Run a command on a machine without a way out, with a HOME that is empty; return the report of silent_host."""
    home.mkdir()
    report = home.parent / f"{home.name}.json"
    kept = {name: value for name, value in clean_environment({}).items() if not name.startswith(("ORT_", "HF_", "MPL"))}
    done = subprocess.run(
        [*enter_namespace("--net"), sys.executable, "-m", "tests.contract.silent_host", report, *command],
        cwd=ROOT,
        env=kept | {"HOME": str(home), "XDG_CACHE_HOME": "", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["code"] == 0, done.stdout + done.stderr
    return found | {"files": sorted(str(path.relative_to(home)) for path in home.rglob("*"))}


SILENCE = {"code": 0, "names": [], "no_route": 0, "files": []}


def test_who_calls_is_heard(tmp_path: Path) -> None:
    found = run_silent(tmp_path / "home", sys.executable, "-c", CALL)

    assert set(found["names"]) == {"name.example"}
    assert found["no_route"] >= 1


def test_what_is_left_under_home_is_seen(tmp_path: Path) -> None:
    found = run_silent(tmp_path / "home", sys.executable, "-c", TELEMETRY, ORT_DISABLE_TELEMETRY="0")

    assert any("onnxruntime" in name for name in found["files"])


def test_service_that_follows_a_published_version_is_silent(tmp_path: Path) -> None:
    first = write_toy(tmp_path / "first").path
    second = write_toy(tmp_path / "second", seed=1).path

    assert run_silent(tmp_path / "home", sys.executable, "-c", SERVE, first, second, tmp_path / "data") == SILENCE


def test_training_is_silent(tmp_path: Path, chain_world: Path) -> None:
    short = tiny_settings("teacher.epochs=1", "student.epochs=1")
    run = ["run", "--interactions", chain_world, "--out", tmp_path / "run", *short]

    assert run_silent(tmp_path / "home", sys.executable, "-m", "training", *run) == SILENCE
    assert (tmp_path / "run" / "report.html").exists()


def test_reading_item_texts_and_writing_curves_is_silent(tmp_path: Path) -> None:
    if find_spec("transformers") is None:
        pytest.skip("NOT CHECKED: transformers is not installed")

    assert run_silent(tmp_path / "home", sys.executable, "-c", TEXTS, tmp_path) == SILENCE


@pytest.mark.parametrize("package", ["service", "training"])
@pytest.mark.parametrize(("said", "expected"), [(None, "1"), ("", "1"), ("0", "0"), ("1", "1")])
def test_a_value_that_the_user_has_set_stays(package: str, said: str | None, expected: str) -> None:
    given = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = f"import os, {package}; print(os.environ['ORT_DISABLE_TELEMETRY'])"

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=given | ({} if said is None else {"ORT_DISABLE_TELEMETRY": said}),
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == expected


def test_every_file_that_names_onnxruntime_says_no_to_telemetry_before() -> None:
    for path in sorted(ROOT.glob("*/**/*.py")):
        text = path.read_text()
        if path.is_relative_to(ROOT / ".venv") or not re.search(r"^(import|from) onnxruntime", text, re.M):
            continue
        is_ours = path.is_relative_to(ROOT / "service") or path.is_relative_to(ROOT / "training")
        is_tested = path.is_relative_to(ROOT / "tests") and not path.is_relative_to(ROOT / "tests" / "bench")
        before = text.partition("import onnxruntime")[0]
        assert is_ours or is_tested or "ORT_DISABLE_TELEMETRY" in before, path
