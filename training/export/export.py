"""The export stage: write the student as a bundle, reopen it, and check that it gives the scores that torch gives.

A bundle that differs from torch is an error, so a bundle that exists can be trusted. It carries golden answers, so that
whoever opens it elsewhere can repeat the check.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle import Bundle, Golden, ItemTable, Parts, add_up, open_bundle, write_bundle
from training.data.prepared import Prepared
from training.errors import StageError
from training.evaluation.judge import best_rows
from training.export.compress import round_model
from training.export.graph import export_encoder
from training.export.onnx_student import ExportedStudent
from training.model.checkpoint import load_model
from training.model.encoder import SequenceModel

GOLDEN_K = 20  # items of a golden answer
TOLERANCE = 1e-4  # by which a score may differ from torch's, as a share of the largest |score|


def export(
    out: Path, prepared: Prepared, student: Path, table: ItemTable, encoder_kind: str, manifest: dict[str, Any]
) -> Bundle:
    """Write the bundle to out, reopen it and compare it with torch. Raises StageError where they differ.

    student: the model's file. table: its item table, as it is stored. encoder_kind: how the encoder's matrices are
    stored, float32 or int8. manifest: what the bundle's manifest says beside what follows from the model.
    """
    model = load_model(student)
    round_model(model, table, encoder_kind)
    graph = export_encoder(model, encoder_kind)
    histories = golden_histories(prepared, model.size.max_history)
    golden = golden_answers(prepared, model, histories, table.parts)
    whole = manifest | {"max_history": model.size.max_history}
    bundle = write_bundle(out, encoder=graph, table=table, items=prepared.items, golden=golden, manifest=whole)
    check_export(bundle, model, histories)
    return bundle


def golden_histories(prepared: Prepared, max_history: int) -> list[list[int]]:
    """Return histories of item rows to check a bundle with, the same ones each time.

    Seven are random: empty, of one and of two items, one below, at and beyond max_history, and twice it. Up to 25 are
    those of real users.
    """
    n_items = len(prepared.items)
    rng = np.random.default_rng(0)
    lengths = [0, 1, 2, max(1, max_history - 1), max_history, max_history + 7, 2 * max_history]
    made = [rng.integers(0, n_items, length).tolist() for length in lengths]
    users = rng.choice(len(prepared.users), min(25, len(prepared.users)), replace=False)
    return made + [prepared.item[prepared.user == user].tolist() for user in np.sort(users)]


def golden_answers(
    prepared: Prepared, model: SequenceModel, histories: Sequence[Sequence[int]], parts: Parts | None = None
) -> list[Golden]:
    """Return torch's exact answer to each history of item rows: the best GOLDEN_K items, none excluded.

    parts: of a score that is a sum. Each answer is then asked at another time, some without a known last event and some
    with counts of their own.
    """
    k = min(GOLDEN_K, len(prepared.items))
    ids = [item.item_id for item in prepared.items]
    answers = []
    for number, rows in enumerate(histories):
        scores = torch_scores(model, [rows])
        asked = {} if parts is None else _ask_golden(parts, number, len(ids), is_cold=not rows)
        if parts is not None:
            scores = _whole_scores(parts, scores, rows, asked)
        best = best_rows(scores, k)[0]
        pairs = [(ids[row], float(scores[0, row])) for row in best]
        if "counts" in asked:
            asked["counts"] = {ids[row]: count for row, count in asked["counts"].items()}
        answers.append(Golden([ids[row] for row in rows], k, pairs, **asked))
    return answers


def _ask_golden(parts: Parts, number: int, n_items: int, *, is_cold: bool) -> dict[str, Any]:
    """Return now, gap_s and counts (by row) of the golden answer of a number."""
    trend = parts.rule.trend
    now = (0.0 if trend is None else trend.as_of) + 600.0 * number
    gap_s = None if is_cold or number % 3 == 0 else float(4**number if number < 12 else 30 * number)
    rows = np.random.default_rng(number).choice(n_items, min(3, n_items), replace=False)
    counts = {int(row): float(1 + place) for place, row in enumerate(rows)} if trend and number % 2 else {}
    return {"now": now, "gap_s": gap_s, "counts": counts}


def _whole_scores(
    parts: Parts, taste: NDArray[np.float32], rows: Sequence[int], asked: Mapping[str, Any]
) -> NDArray[np.float32]:
    """Return the sum [1, N] of a golden answer."""
    counts = None
    if parts.rule.trend is not None:
        counts = parts.counts_at(asked["now"])
        for row, count in asked["counts"].items():
            counts[row] = count
    gap = np.nan if asked["gap_s"] is None else np.log1p(asked["gap_s"])
    return add_up(parts, taste, [rows], np.array([gap]), counts).whole


@torch.no_grad()
def torch_scores(model: SequenceModel, histories: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Return the model's scores [B, N] of histories of item rows, oldest first, in float32 and through torch."""
    recent = [list(rows[-model.size.max_history :]) for rows in histories]
    time = max(1, *(len(rows) for rows in recent)) if recent else 1
    padded = torch.tensor([[-1] * (time - len(rows)) + rows for rows in recent], dtype=torch.int64)
    return model.scores(model.users(padded)).numpy()


def check_export(bundle: Bundle, model: SequenceModel, histories: Sequence[Sequence[int]]) -> None:
    """Reopen a bundle and compare its scores of histories with torch's, each history alone and all in one padded batch.

    Raises StageError unless the scores agree to TOLERANCE and the best GOLDEN_K items are the same up to ties.
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
    """Raise StageError where torch's scores [B, N] of the exported best items are below those of its own best ones."""
    k = min(GOLDEN_K, expected.shape[1])
    ours = np.take_along_axis(expected, best_rows(scores, k), axis=1)
    theirs = np.take_along_axis(expected, best_rows(expected, k), axis=1)
    if np.abs(ours - theirs).max() > 2 * limit:
        raise StageError(f"{bundle.path}: the exported top {k} differ from torch's beyond ties")
