"""The student: the bundle's encoder in onnxruntime. The only module that names onnxruntime.

One thread and no spinning: one request's work is well under a millisecond, and a spinning thread takes the core that
the store and the event loop need. Batches are padded to a few fixed sizes, or the arena grows with every new shape.
"""

from collections.abc import Sequence

import numpy as np
import onnxruntime

from service.bundle import Bundle, Float32, Int64, pad_histories
from service.errors import ModelError, NonFiniteError, StartError

BUCKETS = (1, 2, 4, 8, 16, 32)


class Student:
    """Encodes histories (rows of the item table, oldest first) into user vectors."""

    def __init__(self, bundle: Bundle) -> None:
        """Build the session. Raises StartError if the graph is not the one that the bundle format describes."""
        self._table = bundle.table
        self._max_history = bundle.manifest.max_history
        self._dim = bundle.manifest.dim
        try:
            self._session = onnxruntime.InferenceSession(bundle.encoder, _options(), providers=["CPUExecutionProvider"])
        except Exception as exc:  # onnxruntime's exceptions share no narrower public base
            raise StartError(f"{bundle.path}: onnxruntime refuses the encoder: {str(exc).splitlines()[0]}") from exc
        self._check_signature(bundle)

    def encode(self, histories: Sequence[Sequence[int]]) -> Float32:
        """Return user vectors, float32 [len(histories), dim]. Raises ModelError, NonFiniteError."""
        return np.concatenate(
            [self._encode_bucket(histories[i : i + BUCKETS[-1]]) for i in range(0, len(histories), BUCKETS[-1])]
        )

    def warm(self) -> None:
        """Run every bucket at the shortest and the longest history, so that no request pays for the first."""
        for bucket in BUCKETS:
            for length in (0, 1, self._max_history):
                self.encode([[0] * length] * bucket)

    def _encode_bucket(self, histories: Sequence[Sequence[int]]) -> Float32:
        n_real = len(histories)
        bucket = next(size for size in BUCKETS if size >= n_real)
        padded: list[Sequence[int]] = [*histories, *[()] * (bucket - n_real)]
        history, length = pad_histories(self._table, padded, self._max_history)
        user = self._run(history, length)[:n_real]
        if not np.isfinite(user).all():
            raise NonFiniteError("the encoder returned NaN or infinity")
        return user

    def _run(self, history: Float32, length: Int64) -> Float32:
        try:
            (user,) = self._session.run(["user"], {"history": history, "length": length})
        except Exception as exc:  # see above
            raise ModelError("the encoder failed") from exc
        if user.shape != (len(length), self._dim) or user.dtype != np.float32:
            raise ModelError("the encoder returned another shape or type")
        result: Float32 = user
        return result

    def _check_signature(self, bundle: Bundle) -> None:
        found = {arg.name: (arg.type, len(arg.shape)) for arg in self._session.get_inputs()}
        expected = {"history": ("tensor(float)", 3), "length": ("tensor(int64)", 1)}
        outputs = [arg.name for arg in self._session.get_outputs()]
        if found != expected or "user" not in outputs:
            raise StartError(f"{bundle.path}: the encoder takes {sorted(found)} and returns {outputs}")


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
