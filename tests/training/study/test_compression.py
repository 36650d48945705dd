"""Ways to shrink: each keeps what it promises, on its own and in the study of a finished run."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrize

from tests.training.world import tiny_settings
from training.__main__ import main
from training.export.graph import scoring_graph
from training.export.onnx_student import open_session
from training.export.rounding import round_rows
from training.model.encoder import SequenceModel, Size
from training.study.compression import VARIANTS, Variant, constrain
from training.study.prune import fewer_blocks, fewer_heads, narrow
from training.study.storage import quantise_product, store_table, stored_bytes

SIZE = Size(dim=16, blocks=("pool", "attention"), heads=4, dropout=0.0, max_history=6)
ROWS = torch.tensor([[-1, 3, 4, 5], [1, 2, 3, 4]])
FEW = "float32;codes of 4, int8;heads x 0.5;half zeros"


def student(size=SIZE, n_items=300):
    torch.manual_seed(0)
    model = SequenceModel(n_items, size).eval()
    torch.nn.init.normal_(model.items.weight)
    return model


def dense(arrays):
    if "codes" in arrays:
        parts = [book[arrays["codes"][:, number]] for number, book in enumerate(arrays["codebooks"])]
        return np.concatenate(parts, axis=1)
    if "left" in arrays:
        return arrays["left"] @ arrays["right"]
    return arrays["items"].astype(np.float32) * arrays.get("scales", np.ones(1, np.float32))[..., None]


@pytest.mark.parametrize(
    ("kind", "size", "error"),
    [
        ("float32", 300 * 16 * 4, 1e-7),
        ("float16", 300 * 16 * 2, 1e-3),
        ("int8", 300 * 16 + 300 * 4, 0.02),
        ("rank:16", 300 * 16 * 4 + 16 * 16 * 4, 1e-4),
        ("rank:8", 300 * 8 * 4 + 16 * 8 * 4, 5.0),
        ("codes:2", 300 * 8 + 256 * 16 * 4, 2.0),
    ],
)
def test_a_stored_table_has_its_bytes_is_close_and_is_scored_as_it_is(kind, size, error):
    weights = student().items.weight.detach().numpy()

    arrays = store_table(weights, kind)

    assert stored_bytes(arrays) == size
    assert np.abs(dense(arrays) - weights).max() < error
    user = np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32)
    best, rows = open_session(scoring_graph(arrays, 16, 5)).run(None, {"user": user})
    scores = dense(arrays) @ user[0]
    np.testing.assert_allclose(best[0], np.sort(scores)[::-1][:5], rtol=1e-4)
    np.testing.assert_allclose(scores[rows[0]], best[0], rtol=1e-4)


@pytest.mark.parametrize("weights", [torch.randn(40, 6), torch.randint(0, 2, (300, 6)).float()], ids=["few", "alike"])
def test_codes_of_few_distinct_items_are_exact(weights):
    books, codes = quantise_product(weights, 4)

    again = torch.cat([book[codes[:, number]] for number, book in enumerate(books)], dim=1)[:, :6]
    torch.testing.assert_close(again, weights)


@pytest.mark.parametrize("name", ["int8", "half zeros", "rank x 0.5", "codes of 4", "half zeros, int8"])
def test_a_constraint_holds_while_the_student_learns(name):
    model, variant = student(), VARIANTS[name]
    items = "rank:8" if variant.items.startswith("rank") else variant.items
    constrain(model, variant, items)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    before = model.items.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        model.scores(model.users(ROWS)).square().mean().backward()
        optimizer.step()

    table = model.items.weight.detach()
    assert not torch.equal(table, before)
    if variant.zeros:
        assert (table == 0).float().mean() >= variant.zeros
    if variant.items == "int8":
        torch.testing.assert_close(round_rows(table, "int8"), table)
    if items == "rank:8":
        assert torch.linalg.matrix_rank(table) == 8
    if variant.items.startswith("codes"):
        assert len(table[:, :4].unique(dim=0)) <= 256
    assert parametrize.is_parametrized(model.items, "weight")


def test_all_channels_and_all_heads_change_nothing():
    model = student()

    for whole in (narrow(model, 1.0), fewer_heads(model, 1.0)):
        torch.testing.assert_close(whole.users(ROWS), model.users(ROWS))


@pytest.mark.parametrize(
    ("cut", "dim", "parameters"),
    [(lambda model: narrow(model, 0.5), 8, 0.55), (lambda model: fewer_heads(model, 0.5), 16, 0.98)],
)
def test_a_pruned_student_is_smaller_and_still_answers(cut, dim, parameters):
    model = student()

    smaller = cut(model)

    assert smaller.size.dim == dim
    count = [sum(weight.numel() for weight in one.parameters()) for one in (smaller, model)]
    assert count[0] < parameters * count[1]
    torch.testing.assert_close(smaller.states(ROWS)[:, -1], smaller.users(ROWS))


def test_what_a_student_has_not_cannot_be_cut():
    pool = student(Size(16, ("pool",), 4, 0.0, 6))

    assert fewer_blocks(pool) is None
    assert fewer_heads(pool, 0.5) is None
    assert narrow(student(Size(16, ("gru",), 4, 0.0, 6)), 0.5) is None
    assert len(fewer_blocks(student()).encoder.blocks) == 1


def test_a_study_leaves_its_table_and_its_section_and_goes_on(finished_run, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    settings = tiny_settings(f"compression.variants={FEW}", "compression.positions=500")
    command = ["compression", "--out", str(run), *settings]

    assert main(command) == 0

    table = json.loads((run / "compression" / "compression.json").read_text())
    rows = table["rows"]
    assert list(rows) == [name for name in FEW.split(";") if name != "heads x 0.5"]
    assert rows["float32"]["before"]["difference"]["difference"] == 0
    assert rows["codes of 4, int8"]["encoder_bytes"] < rows["float32"]["encoder_bytes"]
    assert rows["half zeros"]["items_bytes"] == rows["float32"]["items_bytes"]
    assert rows["half zeros"]["parameters"] < 0.6 * rows["float32"]["parameters"]
    assert all(row["encode_us"] > 0 and row["score_us"] > 0 for row in rows.values())
    assert "What each way to shrink costs and saves" in (run / "report.html").read_text()
    said = capfd.readouterr()
    assert "heads x 0.5 is left out" in said.err and "half zeros" in said.out

    (run / "bundle").rename(tmp_path / "bundle")  # no report this time
    assert main(command) == 0
    assert "\n  epoch 1:" not in capfd.readouterr().err


def test_an_unknown_variant_is_refused(finished_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)

    assert main(["compression", "--out", str(run), "--set", "compression.variants=int4"]) == 2
    assert "unknown variant 'int4'; known: float32; float16" in capsys.readouterr().err


def test_every_variant_has_a_file_of_its_own():
    assert len({name.replace(",", "").replace(" ", "-") for name in VARIANTS}) == len(VARIANTS)
    assert VARIANTS["float32"] == Variant()
