"""The compress stage: how the student's item table is stored, and what that costs.

float16 halves the bytes; int8 with one scale a row quarters them. Quality before and after is measured on validation
users, and the encoder stays float32: its bytes are few, and dynamic int8 lets one user's vector depend on the batch.
"""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle import ItemTable
from training.checkpoint import load_model
from training.evaluation import ask, judge, model_scorer, rank
from training.interactions import VAL, Prepared
from training.ranking import ndcg

EMBEDDINGS, SCALES, REPORT, RANKING = "item_embeddings.npy", "item_scales.npy", "report.json", "ranking.npz"


def compress(out: Path, prepared: Prepared, student: Path, *, items: str) -> None:
    """Write the student's item table as items says, and validation NDCG@10 before and after, into out."""
    model = load_model(student)
    question = ask(prepared, VAL)
    before = ndcg(rank(question, model_scorer(model), model.size.max_history).ranks, 10).mean()
    table = compress_table(model.items.weight.detach().numpy(), items)
    with torch.no_grad():
        model.items.weight.copy_(torch.from_numpy(table.dense()))
    after = ndcg(rank(question, model_scorer(model), model.size.max_history).ranks, 10).mean()
    save_table(out, table)
    judge(prepared, model).save(out / RANKING)
    report = {
        "items": items,
        "bytes": table_bytes(table),
        "ndcg@10_before": float(before),
        "ndcg@10_after": float(after),
    }
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n")


def compress_table(weights: NDArray[np.float32], kind: str) -> ItemTable:
    """Return weights [N, D] stored as float32, float16 or int8 with a scale a row."""
    if kind != "int8":
        return ItemTable(weights.astype(kind))
    scales = np.maximum(np.abs(weights).max(axis=1), 1e-12).astype(np.float32) / np.float32(127)
    return ItemTable(np.rint(weights / scales[:, None]).astype(np.int8), scales)


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
