"""A bundle run through onnxruntime: what training checks, times and evaluates, without torch."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.bundle import Bundle, pad_histories

Float32 = NDArray[np.float32]


def open_session(encoder: bytes) -> onnxruntime.InferenceSession:
    """Open an encoder on one core, without spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(encoder, options, providers=["CPUExecutionProvider"])


class ExportedStudent:
    """The encoder of a bundle in an onnxruntime session, and its item table."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._session = open_session(bundle.encoder)
        self._items = bundle.table.dense()

    def scores(self, histories: Sequence[Sequence[int]]) -> Float32:
        """Return scores [B, N] of row histories, oldest first; the newest max_history rows count."""
        history, length = pad_histories(self.bundle.table, histories, self.bundle.manifest.max_history)
        users = self._session.run(["user"], {"history": history, "length": length})[0]
        scores = users @ self._items.T
        return scores if self.bundle.table.biases is None else scores + self.bundle.table.biases


def time_encoder(encoder: bytes, *, dim: int, max_history: int, repeats: int = 300) -> float:
    """Return the median microseconds that one full history takes to encode, on one core."""
    session = open_session(encoder)
    rng = np.random.default_rng(0)
    inputs = {
        "history": rng.standard_normal((1, max_history, dim)).astype(np.float32),
        "length": np.array([max_history], dtype=np.int64),
    }
    times = []
    for _ in range(repeats):
        started = perf_counter()
        session.run(["user"], inputs)
        times.append(perf_counter() - started)
    return float(np.median(times) * 1e6)


def time_scoring(graph: bytes, *, dim: int, repeats: int = 200) -> float:
    """Return the median microseconds in which a scoring graph finds one user's best, on one core."""
    session = open_session(graph)
    inputs = {"user": np.random.default_rng(0).standard_normal((1, dim)).astype(np.float32)}
    times = []
    for _ in range(repeats):
        started = perf_counter()
        session.run(None, inputs)
        times.append(perf_counter() - started)
    return float(np.median(times) * 1e6)
