"""Runs ONNX graphs with onnxruntime. It is the only module of the service that names onnxruntime.

A session has one thread, which does not spin while it waits. One request's work takes well under a millisecond, and a
spinning thread would take the core that the store and the event loop need.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime

from service.errors import ModelError, StartError


class Session:
    """One graph, loaded and ready to run on the CPU."""

    def __init__(self, graph: bytes, name: str) -> None:
        """graph: the bytes of an ONNX model. name: what to call it in messages. Raises StartError."""
        try:
            self._session = onnxruntime.InferenceSession(graph, _options(), providers=["CPUExecutionProvider"])
        except Exception as exc:  # onnxruntime's exceptions share no narrower public base
            raise StartError(f"{name}: onnxruntime refuses the encoder: {str(exc).splitlines()[0]}") from exc

    @property
    def inputs(self) -> dict[str, tuple[str, int]]:
        """The inputs, name to (type, number of axes), such as {"length": ("tensor(int64)", 1)}."""
        return {arg.name: (arg.type, len(arg.shape)) for arg in self._session.get_inputs()}

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return [arg.name for arg in self._session.get_outputs()]

    def run(self, output: str, inputs: Mapping[str, Any]) -> Any:
        """Run the graph and return one of its outputs as an array. inputs: name to array. Raises ModelError."""
        return self.run_all([output], inputs)[0]

    def run_all(self, outputs: Sequence[str], inputs: Mapping[str, Any]) -> list[Any]:
        """Run the graph once and return some of its outputs as arrays. inputs: name to array. Raises ModelError."""
        try:
            found: list[Any] = self._session.run(list(outputs), inputs)
        except Exception as exc:  # see above
            raise ModelError("onnxruntime failed") from exc
        return found


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
