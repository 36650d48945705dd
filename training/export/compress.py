"""The compress stage: how the student's item table and encoder are stored, and what that costs.

float16 halves the bytes; int8 with one scale a row quarters them. So does int8 with the encoder's matrices: weights
only, for dynamic int8 lets a user's vector depend on the batch. Quality is measured on validation, before and after.
"""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle import ItemTable
from training.data.prepared import Prepared
from training.data.split import VAL
from training.evaluation.judge import judge, model_scorer, rank
from training.evaluation.metric import ndcg
from training.evaluation.question import ask
from training.export.rounding import quantise_rows, round_encoder
from training.model.checkpoint import load_model

EMBEDDINGS, SCALES, REPORT, RANKING = "item_embeddings.npy", "item_scales.npy", "report.json", "ranking.npz"


def compress(out: Path, prepared: Prepared, student: Path, *, items: str, encoder: str) -> None:
    """Write the student's item table as items says, and validation NDCG@10 before and after, into out.

    encoder: float32 or int8, as export will store it.
    """
    model = load_model(student)
    question = ask(prepared, VAL)
    before = ndcg(rank(question, model_scorer(model), model.size.max_history).ranks, 10).mean()
    table = compress_table(model.items.weight.detach().numpy(), items)
    with torch.no_grad():
        model.items.weight.copy_(torch.from_numpy(table.dense()))
    if encoder == "int8":
        round_encoder(model.encoder)
    after = ndcg(rank(question, model_scorer(model), model.size.max_history).ranks, 10).mean()
    save_table(out, table)
    judge(prepared, model).save(out / RANKING)
    report = {
        "items": items,
        "encoder": encoder,
        "bytes": table_bytes(table),
        "ndcg@10_before": float(before),
        "ndcg@10_after": float(after),
    }
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n")


def compress_table(weights: NDArray[np.float32], kind: str) -> ItemTable:
    """Return weights [N, D] stored as float32, float16 or int8 with a scale a row."""
    if kind != "int8":
        return ItemTable(weights.astype(kind))
    return ItemTable(*quantise_rows(weights))


def save_table(out: Path, table: ItemTable) -> None:
    """Write a table as .npy files."""
    np.save(out / EMBEDDINGS, table.embeddings)
    if table.scales is not None:
        np.save(out / SCALES, table.scales)


def load_table(out: Path) -> ItemTable:
    """Read what save_table wrote."""
    scales = np.load(out / SCALES) if (out / SCALES).exists() else None
    return ItemTable(np.load(out / EMBEDDINGS), scales)


def table_bytes(table: ItemTable) -> int:
    """Bytes of the stored arrays."""
    return int(table.embeddings.nbytes + (0 if table.scales is None else table.scales.nbytes))
