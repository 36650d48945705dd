"""Item texts through a language model: a tiny one made on the spot, and a real one where it is installed."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from tests.training.language_model import real_language_model
from tests.training.world import N_ITEMS, tiny_settings
from training.__main__ import main
from training.data.item_file import PREFIX
from training.errors import InputError
from training.model.item_table import start_table
from training.progress import Progress
from training.teacher.item_text import describe, encode_texts, fingerprint_language_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"thing{n}" for n in range(N_ITEMS)), "red", "blue", ".", ":"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A Hugging Face encoder of random weights, as save_pretrained leaves it."""
    path = tmp_path_factory.mktemp("encoder")
    (path / "words.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(WORDS), **size)).save_pretrained(path)
    BertTokenizerFast(vocab_file=str(path / "words.txt")).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def items(tmp_path_factory) -> Path:
    """An items file of the chain world; two items have no line."""
    path = tmp_path_factory.mktemp("items") / "items.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "title", "colour"])
        rows.writerows([f"{n:04d}", f"thing{n}", "red|blue" if n % 2 else "red"] for n in range(2, N_ITEMS))
    return path


@pytest.fixture(scope="module")
def text_run(chain_world, items, encoder, tmp_path_factory) -> Path:
    """A run whose teachers are a transformer that starts from the texts, and one over the texts alone."""
    out = tmp_path_factory.mktemp("runs") / "run"
    more = ["teacher.members=transformer,text", "distill.smoothing=0.1", "student.start=teacher"]
    settings = tiny_settings(f"teacher.text={encoder}", "teacher.epochs=3", *more)
    where = ["--interactions", str(chain_world), "--items", str(items), "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.newcomer.teaching.LEAST_STEPS", 5)
        assert main(["run", *where, "--refit", *settings, "--set", "newcomers.held_out=0.2"]) == 0
    return out


def test_text_is_title_description_and_attributes():
    columns = {"item_id": ["a", "b", "c"], "title": ["A bowl", None, None], "description": ["of wood", "B", None]}
    frame = pl.DataFrame(columns | {f"{PREFIX}colour": [["red", "blue"], None, None]})

    assert describe(frame) == ["A bowl. of wood. colour: red, blue", "B", ""]


def test_vector_of_a_text_does_not_depend_on_its_batch(encoder, tmp_path):
    texts = [f"thing{n}" + " red blue" * (n % 5) for n in range(40)]
    (tmp_path / "all").mkdir()
    (tmp_path / "one").mkdir()

    encode_texts(tmp_path / "all", ["", *texts], encoder, Progress())
    encode_texts(tmp_path / "one", [texts[7]], encoder, Progress())

    vectors, alone = (np.load(tmp_path / name / "vectors.npy") for name in ("all", "one"))
    assert vectors.shape == (41, 16)
    assert not vectors[0].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[1:], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[8], alone[0], atol=1e-5)


def test_run_with_texts_has_both_teachers_in_its_report_and_bundle(text_run):
    metrics = json.loads((text_run / "metrics.json").read_text())
    vectors = np.load(text_run / "text" / "vectors.npy")

    assert set(json.loads((text_run / "mix" / "mix.json").read_text())["trials"][0]) == {
        "transformer",
        "text",
        "ndcg@10",
    }
    assert {"teacher", "student", "student_smoothed"} <= set(metrics["models"])
    assert (np.linalg.norm(vectors, axis=1) > 0).sum() == N_ITEMS - 2
    assert "Transformer over texts" in (text_run / "report.html").read_text() or "text" not in metrics["models"]


def test_encoder_of_new_items_is_taught_by_the_language_model_too(text_run):
    made = json.loads((text_run / "item_encoder" / "about.json").read_text())
    judged = json.loads((text_run / "newcomers" / "newcomers.json").read_text())

    assert made["language_model"] and judged["language_model"]
    assert judged["items"] < made["items"] == N_ITEMS - 2


def test_table_of_the_text_teacher_stays_what_the_texts_say(text_run):
    from training.model.checkpoint import load_model

    taught = load_model(text_run / "text_teacher" / "model.safetensors").items.weight.detach().numpy()
    expected = start_table(np.load(text_run / "text" / "vectors.npy"), 32, is_frozen=True)

    np.testing.assert_array_equal(taught, expected)


def test_student_that_should_start_from_a_linear_teacher_is_refused(chain_world, tmp_path, capsys):
    settings = tiny_settings("teacher.members=linear", "student.start=teacher")

    assert main(["run", "--interactions", str(chain_world), "--out", str(tmp_path / "run"), *settings]) == 2
    assert "a linear model has no table" in capsys.readouterr().err


@pytest.mark.parametrize("depth", ["model", "snapshots/abc", "models--a--b/snapshots/abc"])
def test_encoder_that_lies_inside_of_the_directory_is_named(tmp_path, depth):
    inside = tmp_path / depth
    inside.mkdir(parents=True)
    (inside / "config.json").write_text("{}")
    (inside / "model.safetensors").write_bytes(b"")

    with pytest.raises(InputError, match=re.escape(f"teacher.text={inside}")):
        fingerprint_language_model(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["teacher.members=transformer,text"], "set teacher.text to the directory"),
        (["teacher.text=/nowhere"], "not a Hugging Face encoder"),
    ],
)
def test_wrong_text_settings_say_the_way_out(chain_world, items, tmp_path, capsys, settings, message):
    where = ["--interactions", str(chain_world), "--items", str(items), "--out", str(tmp_path / "run")]

    assert main(["run", *where, *tiny_settings(*settings)]) == 2
    assert message in capsys.readouterr().err


def test_items_without_any_text_and_a_broken_encoder_are_refused(encoder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    (broken / "model.safetensors").write_bytes(b"not weights")

    with pytest.raises(InputError, match="needs --items FILE"):
        encode_texts(tmp_path, ["", ""], encoder, Progress())
    assert fingerprint_language_model(broken) != fingerprint_language_model(encoder)
    with pytest.raises(InputError, match="cannot be read as a Hugging Face encoder"):
        encode_texts(tmp_path, ["red"], broken, Progress())


def test_real_sentence_encoder_puts_like_things_together(tmp_path):
    language_model = real_language_model()
    texts = ["red ceramic mug", "blue china cup", "garden hose reel", "hose for the lawn"]

    encode_texts(tmp_path, texts, language_model, Progress())

    likeness = (vectors := np.load(tmp_path / "vectors.npy")) @ vectors.T
    assert min(likeness[0, 1], likeness[2, 3]) > likeness[:2, 2:].max() + 0.1
