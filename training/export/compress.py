"""The compress stage: choose how the student's item table and encoder are stored, and measure what that costs.

A table of float16 takes half the bytes of float32, one of int8 with a scale a row a quarter; an encoder's matrices can
be int8 too. Weights alone are rounded, not what is computed with them: with dynamic int8 the vector of a user would
depend on the others in the batch.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle import ItemTable, ScoreRule
from training.data.prepared import Prepared
from training.evaluation.given import Given
from training.evaluation.with_given import judge_given, validation_score_given
from training.export.rounding import quantise_rows, round_encoder
from training.model.checkpoint import load_model
from training.model.encoder import SequenceModel

EMBEDDINGS, SCALES, REPORT, RANKING = "item_embeddings.npy", "item_scales.npy", "report.json", "ranking.npz"


@dataclass(frozen=True)
class Storage:
    """How a student is stored. items: float32, float16 or int8. encoder: float32 or int8.

    given, rule: what the student is given and how that adds up; None where its score is user · item alone.
    """

    items: str
    encoder: str
    given: Given | None = None
    rule: ScoreRule | None = None


def compress(out: Path, prepared: Prepared, student: Path, storage: Storage) -> None:
    """Write the student's item table as it will be exported into out, with its ranking and a report of what it costs.

    student: the model's file. The report has the table's bytes, and validation NDCG@10 before and after.
    """
    model = load_model(student)
    items, encoder = storage.items, storage.encoder
    score = validation_score_given(prepared, storage.given, storage.rule)
    before = score(model)
    table = compress_table(model.items.weight.detach().numpy(), items)
    round_model(model, table, encoder)
    after = score(model)
    save_table(out, table)
    judge_given(prepared, model, storage.given, storage.rule).save(out / RANKING)
    report = {
        "items": items,
        "encoder": encoder,
        "bytes": table_bytes(table),
        "ndcg@10_before": before,
        "ndcg@10_after": after,
    }
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n")


def compress_table(weights: NDArray[np.float32], kind: str) -> ItemTable:
    """Return weights [N, D] as a table that is stored as kind: float32, float16, or int8 with a scale a row."""
    if kind != "int8":
        return ItemTable(weights.astype(kind))
    return ItemTable(*quantise_rows(weights))


@torch.no_grad()
def round_model(model: SequenceModel, table: ItemTable, encoder_kind: str) -> None:
    """Give a model the values that the service will compute with, in place: those of a stored table and encoder.

    encoder_kind: how the encoder's matrices are stored, float32 or int8.
    """
    if encoder_kind == "int8":
        round_encoder(model.encoder)
    model.items.weight.copy_(torch.from_numpy(table.dense()))


def save_table(out: Path, table: ItemTable) -> None:
    """Write a table into a directory as .npy files."""
    np.save(out / EMBEDDINGS, table.embeddings)
    if table.scales is not None:
        np.save(out / SCALES, table.scales)


def load_table(out: Path) -> ItemTable:
    """Read a table that save_table wrote. Raises FileNotFoundError where there is none."""
    scales = np.load(out / SCALES) if (out / SCALES).exists() else None
    return ItemTable(np.load(out / EMBEDDINGS), scales)


def table_bytes(table: ItemTable) -> int:
    """Return the bytes of a table's stored arrays."""
    return int(table.embeddings.nbytes + (0 if table.scales is None else table.scales.nbytes))
