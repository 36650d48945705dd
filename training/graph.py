"""The encoder as an ONNX graph: the only place that knows torch's exporter."""

import io
import logging
import warnings

import onnx
import torch
from torch import Tensor, nn

from training.encoder import Encoder, SequenceModel
from training.errors import StageError

OPSET = 20


class _Newest(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, history: Tensor, length: Tensor) -> Tensor:
        return self.encoder.newest(history, length)


def export_encoder(model: SequenceModel) -> bytes:
    """Return the encoder as an ONNX graph of DESIGN's shape, without names or paths of this machine."""
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
            input_names=["history", "length"],
            output_names=["user"],
            dynamic_shapes={"history": {0: batch, 1: time}, "length": {0: batch}},
        )
    if program is None:
        raise StageError("the ONNX exporter returned nothing")
    return _without_traces(program.model_proto)


def _without_traces(model: onnx.ModelProto) -> bytes:
    """Drop what the exporter notes about source files and lines."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    del model.functions[:]
    onnx.checker.check_model(model, full_check=True)
    buffer = io.BytesIO()
    onnx.save(model, buffer)
    return buffer.getvalue()
