"""The product of a few users and every item: a graph of one node, written out by hand as ONNX's protobuf.

onnxruntime packs a constant right-hand side once, at load; numpy's BLAS packs it at every call. Per user of a batch of
8, 20,000 items of 32 dimensions: 13 µs against 21; 100,000 items: 115 against 267 (one core of an AMD EPYC with
AVX-512). A package that writes ONNX is not among the service's dependencies, and the format's own is 30 lines.

Where the table is int8, so is the product. A user becomes 7-bit integers (with 8, processors without VNNI would
saturate), enough to find the few items that are worth scoring in float32; or 14-bit ones, in two halves that are two
rows of one product, at twice the price, which loses some 1e-5 of a score. Milliseconds a user alone and in batches of 8
with 14 bits, against float32: 20,000 items of 384 dimensions .11 and .11 against 3.9 and .83; 12,600 .07 and .05
against 1.1 and .25; 20,000 of 128 .05 and .03 against .15 and .08 (a training on the other core).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32
from service.onnx_session import Session
from service.search.onnx_graph import CONTRIB, one_node_model

_MAX_BYTES = 1 << 30  # protobuf ends at 2 GiB
_HALF, _MIDDLE = 7, 64
_LEAST = 1e-20  # of a user's numbers: a bias, in units of it, stays finite
_PEAK = (_MIDDLE << _HALF) - _MIDDLE - 1


class Product:
    """users @ columns, for columns float32 [dim, n] that never change."""

    def __init__(self, columns: Float32) -> None:
        is_small = columns.nbytes <= _MAX_BYTES
        self._session = (
            Session(one_node_model("MatMul", "", "float32", {"columns": columns}), "product") if is_small else None
        )
        self._columns = columns if self._session is None else None  # onnxruntime has its own copy

    def __call__(self, users: Float32) -> Float32:
        """Return float32 [batch, n] for users float32 [batch, dim]. Raises ModelError."""
        if self._columns is not None:
            with np.errstate(all="ignore"):
                return users @ self._columns
        assert self._session is not None  # noqa: S101  # one of the two is there
        scores: Float32 = self._session.run("scores", {"users": users})
        return scores


class IntegerProduct:
    """users @ (columns * scales), for columns int8 [dim, n] and scales float32 [n] that never change; nearly so."""

    def __init__(self, columns: NDArray[np.int8], scales: Float32) -> None:
        constants: dict[str, NDArray[Any]] = {
            "columns": columns,
            "one": np.ones((), dtype=np.float32),
            "scales": scales,
            "middle": np.full((), _MIDDLE, dtype=np.uint8),
        }
        self._session = Session(one_node_model("MatMulIntegerToFloat", CONTRIB, "uint8", constants), "product")

    def __call__(self, users: Float32) -> Float32:
        """Return float32 [batch, n] for users float32 [batch, dim]; NaN throughout where a user is not finite.

        Raises ModelError.
        """
        with np.errstate(all="ignore"):
            step = np.maximum(np.abs(users).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / _PEAK
            whole = np.rint(users / step).astype(np.int16) + ((_MIDDLE << _HALF) + _MIDDLE)
            halves = np.concatenate([whole >> _HALF, whole & (1 << _HALF) - 1]).astype(np.uint8)
            scores: Float32 = self._session.run("scores", {"users": halves})
            high, low = scores[: len(users)], scores[len(users) :]
            low *= 1 / (1 << _HALF)
            high += low
            high *= step * (1 << _HALF)
        return high

    def rough(self, users: Float32) -> tuple[Float32, Float32, Float32]:
        """Multiply users rounded to 7 bits: in half the time, some 1e-2 of a score off.

        Returns scores [batch, n] in units of their user; the units [batch], NaN where a user is not finite; and the
        length of what rounding took off each user [batch]. Raises ModelError.
        """
        with np.errstate(all="ignore"):
            units = np.maximum(np.abs(users).max(axis=1), _LEAST) / (_MIDDLE - 1)
            steps = users / units[:, None]
            whole = np.rint(steps)
            scores: Float32 = self._session.run("scores", {"users": (whole + _MIDDLE).astype(np.uint8)})
            lost = np.linalg.norm(steps - whole, axis=1) * units
        return scores, units, lost
