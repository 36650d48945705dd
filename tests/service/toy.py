"""A tiny bundle that needs no torch: the user is the mean of the history's embeddings."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from service.bundle import Bundle, Golden, Item, ItemTable, pad_histories, write_bundle

DIM = 8
MAX_HISTORY = 6
N_ITEMS = 60


def mean_encoder(dim: int = DIM, scale: float = 1.0, wasted: int = 0) -> bytes:
    """An ONNX graph: sum over time, divided by max(length, 1), times scale (scale NaN makes a broken model).

    wasted: it also multiplies two square matrices of so many channels, for nothing: a slow model.
    """
    nodes = [
        helper.make_node("ReduceSum", ["history", "time_axis"], ["total"], keepdims=0),
        helper.make_node("Cast", ["length"], ["length_float"], to=TensorProto.FLOAT),
        helper.make_node("Max", ["length_float", "one"], ["divisor"]),
        helper.make_node("Unsqueeze", ["divisor", "time_axis"], ["divisor_column"]),
        helper.make_node("Div", ["total", "divisor_column"], ["mean"]),
        helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
        helper.make_node("ReduceMax", ["history"], ["any"], keepdims=0),  # so that nothing is computed beforehand
        helper.make_node("Expand", ["any", "square"], ["matrix"]),
        helper.make_node("MatMul", ["matrix", "matrix"], ["product"]),
        helper.make_node("ReduceSum", ["product"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["scaled", "nothing"], ["user"]),
    ]
    if not wasted:
        nodes = [*nodes[:5], helper.make_node("Mul", ["mean", "scale"], ["user"])]
    constants = [
        helper.make_tensor("time_axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]),
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("square", TensorProto.INT64, [2], [wasted, wasted]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [
            helper.make_tensor_value_info("history", TensorProto.FLOAT, ["batch", "time", dim]),
            helper.make_tensor_value_info("length", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("user", TensorProto.FLOAT, ["batch", dim])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def quantised(table: ItemTable) -> ItemTable:
    """The same table as int8."""
    scales = (np.abs(table.dense()).max(axis=1) / 127).astype(np.float32)
    return ItemTable(np.round(table.dense() / scales[:, None]).astype(np.int8), scales)


def toy_items(n_items: int = N_ITEMS) -> list[Item]:
    """Items i0, i1, ...; the first is the most popular."""
    return [Item(f"i{row}", float(n_items - row), f"title {row}") for row in range(n_items)]


def exact_scores(table: ItemTable, rows: list[int], max_history: int = MAX_HISTORY) -> np.ndarray:
    """What the toy model must answer, by the obvious formula."""
    history, length = pad_histories(table, [rows], max_history)
    user = history.sum(axis=1)[0] / max(int(length[0]), 1)
    scores = table.dense() @ user
    return scores if table.biases is None else scores + table.biases


def golden_of(table: ItemTable, histories: list[list[int]], k: int = 5) -> list[Golden]:
    """The golden answers of the toy model."""
    answers = []
    for rows in histories:
        scores = exact_scores(table, rows)
        best = np.argsort(-scores, kind="stable")[:k]
        answers.append(Golden([f"i{row}" for row in rows], k, [(f"i{row}", float(scores[row])) for row in best]))
    return answers


def write_toy(
    out: Path, *, repeat_consumption: bool = False, n_items: int = N_ITEMS, encoder: bytes | None = None, seed: int = 0
) -> Bundle:
    """Write a valid toy bundle."""
    rng = np.random.default_rng(seed)
    table = ItemTable(rng.normal(size=(n_items, DIM)).astype(np.float32), biases=None)
    return write_bundle(
        out,
        encoder=encoder or mean_encoder(),
        table=table,
        items=toy_items(n_items),
        golden=golden_of(table, [[], [1], [1, 2, 3, 4, 5, 6], list(range(9))]),
        manifest={
            "created_at": "2026-01-01T00:00:00+00:00",
            "max_history": MAX_HISTORY,
            "repeat_consumption": repeat_consumption,
        },
    )
