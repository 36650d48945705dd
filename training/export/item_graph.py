"""Write the network of new items as the bundle's item encoder: an ONNX graph, and items whose vectors it must give.

The graph is written node by node, from the arrays that the network left. Its table of features is stored as int8 with a
scale a row. What the graph must give is computed by plain numpy from the same rounded numbers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.bundle import ItemEncoding, ItemGolden, ItemText, hash_text, pad_features
from training.errors import StageError
from training.export.onnx_student import open_session
from training.export.rounding import quantise_rows

Arrays = Mapping[str, NDArray[Any]]
OPSET, IR_VERSION = 17, 9
LEAST_NORM = np.float32(1e-6)
TOLERANCE = 1e-4
WEIGHTS = "network.npz"


def export_items(
    arrays: Arrays, golden: Sequence[ItemText], *, offset: float, prior_count: float, buckets: int
) -> ItemEncoding:
    """Return the encoder of a network's arrays. golden: what is said of some items. The rest: see ItemEncoding.

    Raises StageError where the graph does not give what plain numpy does.
    """
    stored = round_arrays(arrays)
    graph = write_graph(stored)
    answers = []
    for text in golden:
        vector, confidence = encode_plainly(stored, hash_text(text, buckets))
        answers.append(ItemGolden(text, vector, confidence))
    _check(graph, answers, buckets)
    return ItemEncoding(graph, answers, buckets, offset, prior_count)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a network from a directory of the run."""
    with np.load(path / WEIGHTS, allow_pickle=False) as arrays:
        return dict(arrays)


def round_arrays(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return what the graph holds: calibrated weights, a rounded table, and weights of features that are ready to use.

    The vector of an item is (mean + bag @ linear + relu(bag @ up + up_bias) @ down), each calibrated.
    """
    scale = arrays["scale"]
    table, scales = quantise_rows(arrays["table.weight"])
    weight = np.exp(arrays["log_weight"]).astype(np.float32)
    weight[0] = 0  # of what is not known
    return {
        "place": arrays["place"].astype(np.int32),
        "table": table,
        "scales": scales[:, None],
        "weight": weight,
        "mean": (arrays["mean"] * scale).astype(np.float32),
        "linear": (arrays["linear.weight"].T * scale).astype(np.float32),
        "up": np.ascontiguousarray(arrays["up.weight"].T, dtype=np.float32),
        "up_bias": arrays["up.bias"].astype(np.float32),
        "down": (arrays["down.weight"].T * scale).astype(np.float32),
        "certainty": arrays["certainty"].astype(np.float32),
    }


def encode_plainly(stored: Arrays, features: Sequence[int]) -> tuple[NDArray[np.float32], float]:
    """Return the vector [D] and the confidence of an item's features, by the formula."""
    rows = stored["place"][np.asarray(features, dtype=np.int64)]
    weight = stored["weight"][rows]
    each = stored["table"][rows].astype(np.float32) * stored["scales"][rows]
    bag = (each * weight[:, None]).sum(axis=0) / max(float(np.sqrt((weight**2).sum())), LEAST_NORM)
    inside = np.maximum(bag @ stored["up"] + stored["up_bias"], 0)
    vector = (stored["mean"] + bag @ stored["linear"] + inside @ stored["down"]).astype(np.float32)
    known = float((rows > 0).sum())
    distance = float(np.linalg.norm(vector - stored["mean"]))
    logit = np.array([distance, np.log1p(known), known / max(1, len(rows)), 1.0]) @ stored["certainty"]
    return vector, float(1 / (1 + np.exp(-logit))) if known else 0.0


def write_graph(stored: Arrays) -> bytes:
    """Return the ONNX model: features int64 [batch, width] to vector [batch, dim] and confidence [batch]."""
    dim = len(stored["mean"])
    constants = {**stored, "axis": np.array([1]), "last": np.array([2]), "one": np.float32(1), "least": LEAST_NORM}
    del constants["certainty"]
    constants |= {f"certainty{place}": value for place, value in enumerate(stored["certainty"])}
    graph = helper.make_graph(
        [*_vector_nodes(), *_confidence_nodes()],
        "item_encoder",
        [helper.make_tensor_value_info("features", TensorProto.INT64, ["batch", "width"])],
        [
            helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", dim]),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["batch"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION).SerializeToString()


def _vector_nodes() -> list[Any]:
    """Return the nodes from features to vector."""
    node = helper.make_node
    return [
        node("Gather", ["place", "features"], ["rows"]),  # [n, F]
        node("Gather", ["weight", "rows"], ["weights"]),  # [n, F]
        node("Gather", ["table", "rows"], ["integers"]),  # [n, F, H]
        node("Cast", ["integers"], ["numbers"], to=TensorProto.FLOAT),
        node("Gather", ["scales", "rows"], ["row_scales"]),  # [n, F, 1]
        node("Unsqueeze", ["weights", "last"], ["columns"]),  # [n, F, 1]
        node("Mul", ["row_scales", "columns"], ["factors"]),
        node("Mul", ["numbers", "factors"], ["weighed"]),
        node("ReduceSum", ["weighed", "axis"], ["sum"], keepdims=0),  # [n, H]
        node("Mul", ["weights", "weights"], ["squares"]),
        node("ReduceSum", ["squares", "axis"], ["square_sum"], keepdims=1),  # [n, 1]
        node("Sqrt", ["square_sum"], ["root"]),
        node("Max", ["root", "least"], ["total"]),
        node("Div", ["sum", "total"], ["bag"]),
        node("MatMul", ["bag", "up"], ["raised"]),
        node("Add", ["raised", "up_bias"], ["biased"]),
        node("Relu", ["biased"], ["inside"]),
        node("MatMul", ["inside", "down"], ["curved"]),
        node("MatMul", ["bag", "linear"], ["straight"]),
        node("Add", ["curved", "straight"], ["away"]),  # [n, D], from an ordinary item's vector
        node("Add", ["away", "mean"], ["vector"]),
    ]


def _confidence_nodes() -> list[Any]:
    """Return the nodes from features and vector to confidence."""
    node = helper.make_node
    return [
        node("Mul", ["away", "away"], ["away_squares"]),
        node("ReduceSum", ["away_squares", "axis"], ["away_sum"], keepdims=0),
        node("Sqrt", ["away_sum"], ["distance"]),
        node("Cast", ["rows"], ["row_floats"], to=TensorProto.FLOAT),
        node("Sign", ["row_floats"], ["knowns"]),
        node("ReduceSum", ["knowns", "axis"], ["known"], keepdims=0),  # [n]
        node("Add", ["known", "one"], ["known_more"]),
        node("Log", ["known_more"], ["log_known"]),
        node("Cast", ["features"], ["feature_floats"], to=TensorProto.FLOAT),
        node("Sign", ["feature_floats"], ["reals"]),
        node("ReduceSum", ["reals", "axis"], ["count"], keepdims=0),
        node("Max", ["count", "one"], ["divisor"]),
        node("Div", ["known", "divisor"], ["share"]),
        node("Mul", ["distance", "certainty0"], ["of_distance"]),
        node("Mul", ["log_known", "certainty1"], ["of_known"]),
        node("Mul", ["share", "certainty2"], ["of_share"]),
        node("Sum", ["of_distance", "of_known", "of_share", "certainty3"], ["logit"]),
        node("Sigmoid", ["logit"], ["sure"]),
        node("Sign", ["known"], ["is_any"]),
        node("Mul", ["sure", "is_any"], ["confidence"]),
    ]


def _check(graph: bytes, golden: Sequence[ItemGolden], buckets: int) -> None:
    """Raise StageError where onnxruntime does not give the golden items, all in one padded batch."""
    features = pad_features([hash_text(each.text, buckets) for each in golden])
    vectors, confidences = open_session(graph).run(["vector", "confidence"], {"features": features})
    expected = np.stack([each.vector for each in golden])
    sure = np.array([each.confidence for each in golden])
    worst = max(float(np.abs(vectors - expected).max() / max(1e-6, np.abs(expected).max())), *abs(confidences - sure))
    if not worst <= TOLERANCE:
        raise StageError(f"the item encoder gives other vectors than its arrays, by {worst:.2e} > {TOLERANCE:.0e}")
