"""The export stage: the student as a bundle that counts as done only after it was reopened and gave torch's answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle import Bundle, Golden, ItemTable, open_bundle, write_bundle
from training.data.prepared import Prepared
from training.errors import StageError
from training.evaluation.judge import best_rows
from training.export.graph import export_encoder
from training.export.onnx_student import ExportedStudent
from training.export.rounding import round_encoder
from training.model.checkpoint import load_model
from training.model.encoder import SequenceModel

GOLDEN_K = 20
TOLERANCE = 1e-4  # of the largest |score|


def export(
    out: Path, prepared: Prepared, student: Path, table: ItemTable, encoder: str, manifest: dict[str, Any]
) -> Bundle:
    """Write the bundle to out, reopen it and compare it with torch. Raises StageError where they differ.

    encoder: how its matrices are stored, float32 or int8.
    """
    model = load_model(student)
    if encoder == "int8":
        round_encoder(model.encoder)
    with torch.no_grad():
        model.items.weight.copy_(torch.from_numpy(table.dense()))
    graph = export_encoder(model, encoder)
    histories = sample_histories(prepared, model.size.max_history)
    golden = golden_answers(prepared, model, histories)
    whole = manifest | {"max_history": model.size.max_history}
    bundle = write_bundle(out, encoder=graph, table=table, items=prepared.items, golden=golden, manifest=whole)
    check_export(bundle, model, histories)
    return bundle


def sample_histories(prepared: Prepared, max_history: int) -> list[list[int]]:
    """Row histories that cover the edges: empty, one item, one below, at and beyond max_history, and real users'."""
    n_items = len(prepared.items)
    rng = np.random.default_rng(0)
    lengths = [0, 1, 2, max(1, max_history - 1), max_history, max_history + 7, 2 * max_history]
    made = [rng.integers(0, n_items, length).tolist() for length in lengths]
    users = rng.choice(len(prepared.users), min(25, len(prepared.users)), replace=False)
    return made + [prepared.item[prepared.user == user].tolist() for user in np.sort(users)]


def golden_answers(prepared: Prepared, model: SequenceModel, histories: Sequence[Sequence[int]]) -> list[Golden]:
    """Return torch's exact answers, nothing excluded."""
    k = min(GOLDEN_K, len(prepared.items))
    ids = [item.item_id for item in prepared.items]
    answers = []
    for rows in histories:
        scores = torch_scores(model, [rows])
        best = best_rows(scores, k)[0]
        pairs = [(ids[row], float(scores[0, row])) for row in best]
        answers.append(Golden([ids[row] for row in rows], k, pairs))
    return answers


@torch.no_grad()
def torch_scores(model: SequenceModel, histories: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Return the model's scores [B, N] of row histories, in float32."""
    recent = [list(rows[-model.size.max_history :]) for rows in histories]
    time = max(1, *(len(rows) for rows in recent)) if recent else 1
    padded = torch.tensor([[-1] * (time - len(rows)) + rows for rows in recent], dtype=torch.int64)
    return model.scores(model.users(padded)).numpy()


def check_export(bundle: Bundle, model: SequenceModel, histories: Sequence[Sequence[int]]) -> None:
    """Compare a reopened bundle with torch: each history alone, all in one padded batch, and more padding.

    Raises StageError unless scores agree to TOLERANCE and the top K are equal up to ties.
    """
    student = ExportedStudent(open_bundle(bundle.path))
    expected = torch_scores(model, histories)
    limit = TOLERANCE * max(1e-9, float(np.abs(expected).max()))
    alone = np.concatenate([student.scores([rows]) for rows in histories])
    together = student.scores(histories)
    for name, scores in (("alone", alone), ("in one padded batch", together)):
        if not np.isfinite(scores).all():
            raise StageError(f"{bundle.path}: the exported encoder gives NaN or infinity, {name}")
        worst = float(np.abs(scores - expected).max())
        if worst > limit:
            raise StageError(f"{bundle.path}: exported scores differ from torch's by {worst:.2e} > {limit:.2e}, {name}")
        _check_top(bundle, scores, expected, limit)


def _check_top(bundle: Bundle, scores: NDArray[Any], expected: NDArray[Any], limit: float) -> None:
    k = min(GOLDEN_K, expected.shape[1])
    ours = np.take_along_axis(expected, best_rows(scores, k), axis=1)
    theirs = np.take_along_axis(expected, best_rows(expected, k), axis=1)
    if np.abs(ours - theirs).max() > 2 * limit:
        raise StageError(f"{bundle.path}: the exported top {k} differ from torch's beyond ties")
