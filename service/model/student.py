"""The student: the bundle's encoder, run by onnxruntime.

Batches are padded to a few fixed sizes, because onnxruntime's memory grows with every new shape.
"""

from collections.abc import Sequence

import numpy as np

from service.bundle import Bundle, Float32, Gathered, Int64, pad_histories
from service.errors import ModelError, StartError
from service.onnx_session import Session

BUCKETS = (1, 2, 4, 8, 16, 32)
"""The sizes of a batch. Larger batches are encoded in several runs."""


class Student:
    """Turns histories into user vectors."""

    def __init__(self, bundle: Bundle) -> None:
        """Load the encoder. Raises StartError unless its inputs and outputs are those of the bundle format."""
        self._table: Gathered = bundle.table
        self._max_history = bundle.manifest.max_history
        self._dim = bundle.manifest.dim
        self._session = Session(bundle.encoder, str(bundle.path))
        self._check_signature(bundle)

    def gather_from(self, table: Gathered) -> None:
        """Take the vectors of histories from a table that has further rows after those of the bundle."""
        self._table = table

    def encode(self, histories: Sequence[Sequence[int]]) -> Float32:
        """Return user vectors, float32 [len(histories), dim]. Raises ModelError.

        histories: the rows of each one's items, oldest first; only the newest max_history count. A vector that is not
        finite affects no other.
        """
        return np.concatenate(
            [self._encode_bucket(histories[i : i + BUCKETS[-1]]) for i in range(0, len(histories), BUCKETS[-1])]
        )

    def warm(self) -> None:
        """Run every size of batch with the shortest and the longest histories: the first run of each is slow.

        Raises ModelError.
        """
        for bucket in BUCKETS:
            for length in (0, 1, self._max_history):
                self.encode([[0] * length] * bucket)

    def _encode_bucket(self, histories: Sequence[Sequence[int]]) -> Float32:
        n_real = len(histories)
        bucket = next(size for size in BUCKETS if size >= n_real)
        padded: list[Sequence[int]] = [*histories, *[()] * (bucket - n_real)]
        history, length = pad_histories(self._table, padded, self._max_history)
        return self._run(history, length)[:n_real]

    def _run(self, history: Float32, length: Int64) -> Float32:
        user: Float32 = self._session.run("user", {"history": history, "length": length})
        if user.shape != (len(length), self._dim) or user.dtype != np.float32:
            raise ModelError("the encoder returned another shape or type")
        return user

    def _check_signature(self, bundle: Bundle) -> None:
        found, outputs = self._session.inputs, self._session.outputs
        expected = {"history": ("tensor(float)", 3), "length": ("tensor(int64)", 1)}
        if found != expected or "user" not in outputs:
            raise StartError(f"{bundle.path}: the encoder takes {sorted(found)} and returns {outputs}")
