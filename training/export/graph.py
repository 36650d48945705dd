"""Write models as ONNX graphs: the student's encoder for a bundle, and item tables for measuring how fast they score.

This is the only place that knows torch's exporter. The exporter would unroll a GRU to the length of the example it is
given, so a GRU is replaced by one operator of our own, which the exporter translates into ONNX's GRU.
"""

import copy
import io
import logging
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.errors import StageError
from training.export.rounding import quantise_rows
from training.model.encoder import Encoder, Gru, SequenceModel

OPSET = 20
CONTRIB = "com.microsoft"  # the domain of onnxruntime's own operators

Arrays = dict[str, NDArray[Any]]
"""What a graph holds, by name."""


@torch.library.custom_op("retort::gru", mutates_args=())
def _gru(x: Tensor, input_weight: Tensor, hidden_weight: Tensor) -> Tensor:
    """Return the states [B, T, D] of a GRU over x [B, T, D].

    input_weight, hidden_weight: [3D, D] in ONNX's order of gates: update, reset, new.
    """
    order = [1, 0, 2]
    weights = [torch.cat([weight.chunk(3)[i] for i in order]) for weight in (input_weight, hidden_weight)]
    start = x.new_zeros(1, len(x), x.shape[2])
    return torch.gru(x, start, weights, False, 1, 0.0, False, False, True)[0]


@_gru.register_fake
def _(x: Tensor, input_weight: Tensor, hidden_weight: Tensor) -> Tensor:
    return torch.empty_like(x)


def _gru_as_onnx(x: Any, input_weight: Any, hidden_weight: Any) -> Any:
    """Translate the operator above into ONNX's, for the exporter."""
    op = import_module("onnxscript").opset20  # it takes half a second to import, and only an export needs it

    width = input_weight.shape[1]
    axis: Any = op.Constant(value_ints=[0])
    directions: Any = op.Constant(value_ints=[1])
    weights = [op.Unsqueeze(weight, axis) for weight in (input_weight, hidden_weight)]
    states, _ = op.GRU(op.Transpose(x, perm=[1, 0, 2]), *weights, hidden_size=width, linear_before_reset=1)
    return op.Transpose(op.Squeeze(states, directions), perm=[1, 0, 2])


class _Recurrent(nn.Module):
    """Compute what a Gru mixer does, by the one operator above."""

    def __init__(self, mixer: Gru) -> None:
        super().__init__()
        for name, weight in mixer.unit.named_parameters():  # weight_ih_l0, weight_hh_l0
            reset, update, new = weight.detach().chunk(3)
            self.register_buffer(name, torch.cat([update, reset, new]))

    def forward(self, x: Tensor, real: Tensor, newest: bool) -> Tensor:
        states = torch.ops.retort.gru(x * real[:, :, None], self.weight_ih_l0, self.weight_hh_l0)
        return states[:, -1:] if newest else states


class _Newest(nn.Module):
    """An encoder whose forward is Encoder.newest, with each GRU as the one operator above."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        for block in self.encoder.blocks:
            if isinstance(block.mixer, Gru):
                block.mixer = _Recurrent(block.mixer)

    def forward(self, history: Tensor, length: Tensor) -> Tensor:
        return self.encoder.newest(history, length)


def export_encoder(model: SequenceModel, kind: str = "float32") -> bytes:
    """Return the encoder as an ONNX graph, without names or paths of this machine. Raises StageError.

    Its inputs are history, float32 [batch, time, dim] padded on the left, and length, int64 [batch]; its output is
    user, float32 [batch, dim]. kind: how its matrices are stored: float32, or float16 or int8, for which they were
    rounded by round_encoder.
    """
    size = model.size
    batch = torch.export.Dim("batch", min=1, max=65536)
    time = torch.export.Dim("time", min=1, max=size.max_history)
    example = (torch.randn(3, min(5, size.max_history), size.dim), torch.tensor([min(5, size.max_history), 2, 0]))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of vision operators that nobody asked for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Newest(model.encoder).eval(),
            example,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            custom_translation_table={torch.ops.retort.gru.default: _gru_as_onnx},
            input_names=["history", "length"],
            output_names=["user"],
            dynamic_shapes={"history": {0: batch, 1: time}, "length": {0: batch}},
        )
    if program is None:
        raise StageError("the ONNX exporter returned nothing")
    graph = _without_traces(program.model_proto)
    return graph if kind == "float32" else store_as(graph, kind)


def _without_traces(model: onnx.ModelProto) -> bytes:
    """Return the graph without what the exporter notes about source files and lines."""
    graph = model.graph
    for proto in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        proto.doc_string = ""
        del proto.metadata_props[:]
    del model.functions[:]
    onnx.checker.check_model(model, full_check=True)
    buffer = io.BytesIO()
    onnx.save(model, buffer)
    return buffer.getvalue()


def store_as(graph: bytes, kind: str) -> bytes:
    """Return an encoder's graph with each matrix it multiplies with stored as float16, or as int8 and a scale a column.

    Weights alone are narrow: Cast and Mul make them float32 again, which onnxruntime does once, when it loads the
    graph. So products take the same time as before, and the vector of a user depends on no other in the batch. A
    DequantizeLinear instead would also round the user's vector: tests/bench/README.md, "Narrow matrices of an encoder
    become float32 at load". Matrices that were rounded before the export come out exactly as they are.
    """
    model = onnx.load_from_string(graph)
    used = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    kept, added = [], []
    for tensor in model.graph.initializer:
        weights = onnx.numpy_helper.to_array(tensor)
        if tensor.name not in used or weights.ndim != 2 or weights.dtype != np.float32:
            kept.append(tensor)
            continue
        arrays, nodes = _narrowed(tensor.name, weights, kind)
        kept += [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
        added += nodes
    nodes = [*added, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _narrowed(name: str, weights: NDArray[np.float32], kind: str) -> tuple[Arrays, list[Any]]:
    """Return what is stored of a matrix [R, C], and the nodes that make it float32 again under its name."""
    if kind == "float16":
        return {f"{name}_float16": weights.astype(np.float16)}, [
            onnx.helper.make_node("Cast", [f"{name}_float16"], [name], to=onnx.TensorProto.FLOAT)
        ]
    values, scales = quantise_rows(weights.T)
    return {f"{name}_int8": np.ascontiguousarray(values.T), f"{name}_scale": scales}, [
        onnx.helper.make_node("Cast", [f"{name}_int8"], [f"{name}_wide"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Mul", [f"{name}_wide", f"{name}_scale"], [name]),
    ]


def scoring_graph(stored: Mapping[str, NDArray[Any]], dim: int, k: int) -> bytes:
    """Return a graph that finds the k best items of one user in a stored table.

    Its input is user, float32 [1, dim]; its outputs are best, the scores, and best_rows, each [1, k]. stored is one of:
    items [N, D] of float32 or float16; int8 items [N, D] and their scales [N]; the factors left [N, R] and
    right [R, D]; or codes [N, M] into codebooks [M, 256, D / M].

    int8 is multiplied as integers, with a user's vector of 14 bits. The service looks with 7 bits and scores what it
    finds again, which takes as long for one user.
    """
    if "codes" in stored:
        arrays, nodes = _scored_codes(stored)
    elif "left" in stored:
        arrays, nodes = _scored_factors(stored)
    elif "scales" in stored:
        arrays, nodes = _scored_integers(stored)
    else:
        arrays, nodes = _scored_rows(stored)
    arrays["k"] = np.array([k])
    nodes.append(onnx.helper.make_node("TopK", ["scores", "k"], ["best", "best_rows"]))
    user = onnx.helper.make_tensor_value_info("user", onnx.TensorProto.FLOAT, [1, dim])
    outputs = [
        onnx.helper.make_tensor_value_info("best", onnx.TensorProto.FLOAT, [1, k]),
        onnx.helper.make_tensor_value_info("best_rows", onnx.TensorProto.INT64, [1, k]),
    ]
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph(nodes, "scoring", [user], outputs, weights)
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(CONTRIB, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def _scored_codes(stored: Mapping[str, NDArray[Any]]) -> tuple[Arrays, list[Any]]:
    """Return arrays and nodes from user [1, D] to scores [1, N] of codes.

    The user's vector is multiplied with every centroid once; an item's score is the sum of the products that its codes
    name.
    """
    books, rows = stored["codebooks"], stored["codes"]
    arrays = {
        "books": np.ascontiguousarray(books.transpose(0, 2, 1)),  # [M, D / M, 256]
        "rows": rows.T.astype(np.int32),
        "parts": np.array([len(books), 1, -1]),
        "flat": np.array([len(books), -1]),
        "first": np.array([0]),
    }
    return arrays, [
        onnx.helper.make_node("Reshape", ["user", "parts"], ["split"]),
        onnx.helper.make_node("MatMul", ["split", "books"], ["products"]),  # [M, 1, 256]
        onnx.helper.make_node("Reshape", ["products", "flat"], ["looked"]),
        onnx.helper.make_node("GatherElements", ["looked", "rows"], ["found"], axis=1),  # [M, N]
        onnx.helper.make_node("ReduceSum", ["found", "first"], ["scores"], keepdims=1),
    ]


def _scored_factors(stored: Mapping[str, NDArray[Any]]) -> tuple[Arrays, list[Any]]:
    """Return arrays and nodes from user [1, D] to scores [1, N] of a table that is the product of two factors."""
    arrays = {name: np.ascontiguousarray(stored[name].T) for name in ("left", "right")}
    return arrays, [
        onnx.helper.make_node("MatMul", ["user", "right"], ["narrow"]),
        onnx.helper.make_node("MatMul", ["narrow", "left"], ["scores"]),
    ]


def _scored_rows(stored: Mapping[str, NDArray[Any]]) -> tuple[Arrays, list[Any]]:
    """Return arrays and nodes from user [1, D] to scores [1, N] of a table of float32 or float16."""
    items = np.ascontiguousarray(stored["items"].T)
    product = onnx.helper.make_node("MatMul", ["user", "wide"], ["scores"])
    if items.dtype == np.float32:
        return {"wide": items}, [product]
    return {"items": items}, [onnx.helper.make_node("Cast", ["items"], ["wide"], to=onnx.TensorProto.FLOAT), product]


def _scored_integers(stored: Mapping[str, NDArray[Any]]) -> tuple[Arrays, list[Any]]:
    """Return arrays and nodes from user [1, D] to scores [1, N] of int8 rows with scales.

    The user's vector is rounded to integers of 14 bits, which are multiplied as two halves of 7 bits [2, D]. With
    halves of 8, the sums of processors without VNNI would saturate.
    """
    make = onnx.helper.make_node
    arrays = {
        "items": np.ascontiguousarray(stored["items"].T),
        "scales": stored["scales"],
        "most": np.float32(127 * 64 - 1),
        "lift": np.float32(129 * 64),
        "half": np.float32(128),
        "one": np.float32(1),
        "middle": np.uint8(64),
        "weights": np.array([[128, 1]], dtype=np.float32),
    }
    nodes = [
        make("Abs", ["user"], ["sizes"]),
        make("ReduceMax", ["sizes"], ["peak"]),
        make("Div", ["peak", "most"], ["unit"]),
        make("Div", ["user", "unit"], ["parts"]),
        make("Round", ["parts"], ["whole"]),
        make("Add", ["whole", "lift"], ["lifted"]),
        make("Div", ["lifted", "half"], ["halved"]),
        make("Floor", ["halved"], ["high"]),
        make("Mul", ["high", "half"], ["upper"]),
        make("Sub", ["lifted", "upper"], ["low"]),
        make("Concat", ["high", "low"], ["both"], axis=0),
        make("Cast", ["both"], ["halves"], to=onnx.TensorProto.UINT8),
        make("MatMulIntegerToFloat", ["halves", "items", "one", "scales", "middle"], ["products"], domain=CONTRIB),
        make("MatMul", ["weights", "products"], ["units"]),
        make("Mul", ["units", "unit"], ["scores"]),
    ]
    return {name: np.asarray(array) for name, array in arrays.items()}, nodes
