"""A tiny bundle that needs no torch: the user is the mean of the history's embeddings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from service.bundle import (
    Bundle,
    Gap,
    Golden,
    Item,
    ItemEncoding,
    ItemGolden,
    ItemTable,
    ItemText,
    NeighbourRule,
    Neighbours,
    Parts,
    ScoreRule,
    SimilarRule,
    TrendRule,
    hash_text,
    pad_histories,
    write_bundle,
)

DIM = 8
MAX_HISTORY = 6
N_ITEMS = 60
AS_OF = 1_767_225_600.0
HALF_LIFE_S = 86_400.0


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


def sum_item_encoder(vectors: np.ndarray) -> bytes:
    """An ONNX graph: the sum of the vectors of an item's features, and confidence n / (n + 4) of n features.

    vectors: float32 [1 + buckets, dim], the first of them of no feature, and zero.
    """
    nodes = [
        helper.make_node("Gather", ["vectors", "features"], ["each"]),
        helper.make_node("ReduceSum", ["each", "axis"], ["vector"], keepdims=0),
        helper.make_node("Cast", ["features"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Sign", ["numbers"], ["real"]),
        helper.make_node("ReduceSum", ["real", "axis"], ["count"], keepdims=0),
        helper.make_node("Add", ["count", "four"], ["more"]),
        helper.make_node("Div", ["count", "more"], ["confidence"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("features", TensorProto.INT64, ["batch", "width"])],
        [
            helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", vectors.shape[1]]),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["batch"]),
        ],
        [
            numpy_helper.from_array(vectors.astype(np.float32), "vectors"),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("four", TensorProto.FLOAT, [], [4.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def toy_encoding(*, buckets: int = 500, offset: float = -0.5, prior_count: float = 1.5, dim: int = DIM) -> ItemEncoding:
    """An item encoder for the toy bundle: an item's vector is the sum of those of its features."""
    vectors = np.random.default_rng(9).normal(size=(1 + buckets, dim)).astype(np.float32) / 4
    vectors[0] = 0
    texts = [
        ItemText(),
        ItemText("title 3"),
        ItemText("Café crème", "two cups, or more", {"brand": ["A"], "tag": ["new", "red"]}),
    ]
    golden = []
    for text in texts:
        features = hash_text(text, buckets)
        golden.append(ItemGolden(text, vectors[features].sum(axis=0), len(features) / (len(features) + 4)))
    return ItemEncoding(sum_item_encoder(vectors), golden, buckets, offset, prior_count)


def quantised(table: ItemTable) -> ItemTable:
    """The same table as int8."""
    scales = (np.abs(table.dense()).max(axis=1) / 127).astype(np.float32)
    return ItemTable(np.round(table.dense() / scales[:, None]).astype(np.int8), scales)


def toy_items(n_items: int = N_ITEMS) -> list[Item]:
    """Items i0, i1, ...; the first is the most popular."""
    return [Item(f"i{row}", float(n_items - row), f"title {row}") for row in range(n_items)]


def described_items(n_items: int = N_ITEMS) -> list[Item]:
    """The toy items with attributes: texts, numbers and booleans, of which some items lack some."""
    return [
        replace(
            item,
            attributes={"brand": ["ABC"[row % 3]], "tag": ["new"] * (row % 5 == 0) + ["red"] * (row % 2)},
            numbers={"price": row + 0.5} if row % 7 else {},
            booleans={"in_stock": row % 4 != 0} if row % 6 else {},
        )
        for row, item in enumerate(toy_items(n_items))
    ]


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


def toy_parts(n_items: int = N_ITEMS, *, seed: int = 0, as_of: float = AS_OF) -> Parts:
    """Neighbours and a trend for the toy model: three neighbours an item, the last of some padded."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, n_items, size=(n_items, 3)).astype(np.int32)
    neighbours = Neighbours(
        rows,
        rng.integers(-127, 128, size=(n_items, 3)).astype(np.int8),
        rng.uniform(0.001, 0.02, n_items).astype(np.float32),
    )
    gap = Gap(knots=[0.0, 8.0, 16.0], taste=[1.0, 0.8, 0.5], trend=[0.1, 0.3, 0.6], typical=9.0)
    rule = ScoreRule(gap, True, NeighbourRule(0.7, 0.9, 5), TrendRule(HALF_LIFE_S, 0.05, as_of))
    return Parts(rule, neighbours, rng.uniform(0, 5, size=(1, n_items)).astype(np.float32))


def slow_sum(
    table: ItemTable,
    taste: Sequence[float],
    history: Sequence[int],
    gap_s: float | None,
    counts: Sequence[float],
    factor: float = 1.0,
) -> np.ndarray:
    """The sum of every item, by the formula, one number at a time. taste: user · item (+ bias). counts: now.

    factor: of the trend, as a request asks for it.
    """
    parts = table.parts
    assert parts is not None
    rule, total = parts.rule, np.zeros(len(taste))
    g = rule.gap.typical if gap_s is None else math.log1p(gap_s)
    for item in range(len(taste)):
        trend = math.log(counts[item] + rule.trend.epsilon) if rule.trend else 0.0
        if not history and rule.trend:
            total[item] = trend
            continue
        total[item] += float(np.interp(g, rule.gap.knots, rule.gap.taste)) * taste[item] * rule.has_taste
        total[item] += float(np.interp(g, rule.gap.knots, rule.gap.trend)) * trend * factor
        if rule.neighbours is not None:
            near = parts.neighbours
            for j, row in enumerate(list(reversed(history))[: rule.neighbours.depth]):
                for place, other in enumerate(near.rows[row]):
                    if other == item:
                        weight = float(near.weights[row, place]) * float(near.scales[row])
                        total[item] += rule.neighbours.weight * rule.neighbours.decay**j * weight
    return total


def golden_sum(
    table: ItemTable,
    history: list[int],
    now: float,
    gap_s: float | None = None,
    counts: Mapping[int, float] | None = None,
) -> Golden:
    """A golden answer of format 2 of the toy model."""
    at = table.parts.counts_at(now) if table.parts.rule.trend else np.zeros(len(table.embeddings))
    for row, count in (counts or {}).items():
        at[row] = count
    scores = slow_sum(table, exact_scores(table, history), history, gap_s, at)
    best = np.argsort(-scores, kind="stable")[:5]
    named = {f"i{row}": count for row, count in (counts or {}).items()}
    pairs = [(f"i{row}", float(scores[row])) for row in best]
    return Golden([f"i{row}" for row in history], 5, pairs, now, gap_s, named)


def write_toy_sum(
    out: Path,
    *,
    seed: int = 0,
    n_items: int = N_ITEMS,
    parts: Parts | None = None,
    items: Sequence[Item] | None = None,
    encoding: ItemEncoding | None = None,
) -> Bundle:
    """Write a valid toy bundle of format 2. encoding: such as toy_encoding()."""
    parts = toy_parts(n_items, seed=seed) if parts is None else parts
    rng = np.random.default_rng(seed)
    table = replace(ItemTable(rng.normal(size=(n_items, DIM)).astype(np.float32), encoding=encoding), parts=parts)
    golden = [
        golden_sum(table, [1], AS_OF, 60.0),
        golden_sum(table, [1, 2, 3, 4, 5, 6, 2], AS_OF + HALF_LIFE_S, None, {7: 100.0, 8: 0.0}),
        golden_sum(table, list(range(9)), AS_OF + 10, 1e7),
    ]
    if parts.rule.trend is not None:
        golden.append(golden_sum(table, [], AS_OF + 3 * HALF_LIFE_S, None, {3: 9.0}))
    return write_bundle(
        out,
        encoder=mean_encoder(),
        table=table,
        items=toy_items(n_items) if items is None else items,
        golden=golden,
        manifest={
            "created_at": "2026-01-01T00:00:00+00:00",
            "max_history": MAX_HISTORY,
            "repeat_consumption": False,
        },
    )


def write_toy(
    out: Path,
    *,
    repeat_consumption: bool = False,
    n_items: int = N_ITEMS,
    encoder: bytes | None = None,
    seed: int = 0,
    history_types: Mapping[str, Any] | None = None,
    items: Sequence[Item] | None = None,
    encoding: ItemEncoding | None = None,
) -> Bundle:
    """Write a valid toy bundle. items: toy_items() if none are given. encoding: such as toy_encoding()."""
    rng = np.random.default_rng(seed)
    table = ItemTable(rng.normal(size=(n_items, DIM)).astype(np.float32), biases=None, encoding=encoding)
    return write_bundle(
        out,
        encoder=encoder or mean_encoder(),
        table=table,
        items=toy_items(n_items) if items is None else items,
        golden=golden_of(table, [[], [1], [1, 2, 3, 4, 5, 6], list(range(9))]),
        manifest={
            "created_at": "2026-01-01T00:00:00+00:00",
            "max_history": MAX_HISTORY,
            "repeat_consumption": repeat_consumption,
            "history_types": history_types or {},
        },
    )


def slow_similar(bundle: Bundle, rule: SimilarRule, anchors: Sequence[int], counts: Sequence[float]) -> np.ndarray:
    """How well every item goes with the anchors, by the formula, one number at a time. counts: now."""
    table, parts = bundle.table, bundle.table.parts
    following, vectors = exact_scores(table, list(anchors)), table.dense()
    total = np.zeros(len(following))
    for item in range(len(following)):
        total[item] = rule.next * following[item]
        for row in anchors:
            length = math.sqrt(float(vectors[row] @ vectors[row]))
            total[item] += rule.angle * float(vectors[row] @ vectors[item]) / length / len(anchors)
            if parts is not None and parts.neighbours is not None:
                near = parts.neighbours
                for one, other in ((row, item), (item, row)):
                    said = [
                        float(weight) * float(near.scales[one])
                        for place, weight in zip(near.rows[one], near.weights[one], strict=True)
                        if place == other
                    ]
                    total[item] += rule.neighbours * sum(said) / len(anchors)
        if parts is not None and parts.rule.trend is not None:
            total[item] += rule.trend * math.log(counts[item] + parts.rule.trend.epsilon)
    return total
