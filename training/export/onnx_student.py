"""Run exported graphs through onnxruntime, as the service does: to check a bundle, to judge it and to time it.

Everything runs on one core, so that times can be compared.
"""

from collections.abc import Mapping, Sequence
from time import perf_counter

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from torch import Tensor

from service.bundle import Bundle, pad_histories

Float32 = NDArray[np.float32]


class ExportedStudent:
    """The student of a bundle: its encoder in an onnxruntime session, and its item table as float32."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._session = open_session(bundle.encoder)
        self._items = bundle.table.dense()

    def scores(self, histories: Sequence[Sequence[int]]) -> Float32:
        """Return user · item [B, N] of histories of item rows, oldest first; the newest max_history rows count.

        It is the whole score of a bundle of format 1, and the part called taste in format 2.
        """
        history, length = pad_histories(self.bundle.table, histories, self.bundle.manifest.max_history)
        users = self._session.run(["user"], {"history": history, "length": length})[0]
        scores = users @ self._items.T
        return scores if self.bundle.table.biases is None else scores + self.bundle.table.biases

    def padded_scores(self, rows: Tensor) -> Float32:
        """Return the scores [B, N] of rows int64 [B, T], padded on the left with -1; it is a Scorer for evaluation."""
        return self.scores([[row for row in history if row >= 0] for history in rows.tolist()])


def open_session(graph: bytes) -> onnxruntime.InferenceSession:
    """Open an ONNX graph in a session that uses one core and does not spin while it waits."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def time_encoder(graph: bytes, *, dim: int, max_history: int, repeats: int = 300) -> float:
    """Return the median time of an encoder's graph for one full history, in microseconds."""
    history = np.random.default_rng(0).standard_normal((1, max_history, dim)).astype(np.float32)
    return _median_us(graph, {"history": history, "length": np.array([max_history], dtype=np.int64)}, repeats)


def time_scoring(graph: bytes, *, dim: int, repeats: int = 200) -> float:
    """Return the median time in which a scoring graph finds the best items of one user, in microseconds."""
    user = np.random.default_rng(0).standard_normal((1, dim)).astype(np.float32)
    return _median_us(graph, {"user": user}, repeats)


def _median_us(graph: bytes, inputs: Mapping[str, NDArray], repeats: int) -> float:
    """Return the median time of running a graph on some inputs, in microseconds."""
    session = open_session(graph)
    times = []
    for _ in range(repeats):
        started = perf_counter()
        session.run(None, inputs)
        times.append(perf_counter() - started)
    return float(np.median(times) * 1e6)
