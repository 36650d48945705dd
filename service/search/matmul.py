"""The scores of all items for a few users: one matrix product, run by onnxruntime.

onnxruntime rearranges a constant matrix once, when it is loaded; numpy's BLAS does so at every call. The matrix is the
only content of the graph (see onnx_graph).

With an int8 table the product is one of integers. Users are rounded to 14 bits, as two rows of 7 bits each, because
with 8 processors without VNNI would overflow. That changes a score by about 1e-5 of its size.

The times: tests/bench/README.md, "onnxruntime multiplies, not numpy" and "An int8 table is multiplied as int8".
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32
from service.onnx_session import Session
from service.search.onnx_graph import CONTRIB, one_node_model

_MAX_BYTES = 1 << 30  # a protobuf message cannot exceed 2 GiB
_HALF_BITS, _MIDDLE = 7, 64
_GREATEST = (_MIDDLE << _HALF_BITS) - _MIDDLE - 1


class MatMul:
    """Multiplies users with the same float32 matrix again and again."""

    def __init__(self, columns: Float32) -> None:
        """columns: float32 [dim, n]; must not change afterwards. Raises StartError."""
        is_small = columns.nbytes <= _MAX_BYTES
        self._session = (
            Session(one_node_model("MatMul", "", "float32", {"columns": columns}), "product") if is_small else None
        )
        self._columns = columns if self._session is None else None  # onnxruntime has its own copy

    def multiply(self, users: Float32) -> tuple[Float32, None]:
        """Return users @ columns, float32 [batch, n], for users float32 [batch, dim], and nothing that was lost.

        Raises ModelError.
        """
        if self._columns is not None:
            with np.errstate(all="ignore"):
                return users @ self._columns, None
        assert self._session is not None  # noqa: S101  # one of the two is there
        scores: Float32 = self._session.run("scores", {"users": users})
        return scores, None


class Int8MatMul:
    """Multiplies users with the same int8 matrix again and again; users are rounded to 14 bits."""

    def __init__(self, columns: NDArray[np.int8], scales: Float32) -> None:
        """columns: int8 [dim, n], scales: float32 [n], one for each column. Raises StartError."""
        constants: dict[str, NDArray[Any]] = {
            "columns": columns,
            "one": np.ones((), dtype=np.float32),
            "scales": scales,
            "middle": np.full((), _MIDDLE, dtype=np.uint8),
        }
        self._session = Session(one_node_model("MatMulIntegerToFloat", CONTRIB, "uint8", constants), "product")

    def multiply(self, users: Float32) -> tuple[Float32, Float32]:
        """Return users @ (columns * scales), float32 [batch, n], for users float32 [batch, dim] rounded to 14 bits.

        And what rounding took off them, float32 [batch, dim]. All scores of a user whose vector is not finite are NaN.
        Raises ModelError.
        """
        with np.errstate(all="ignore"):
            step = np.maximum(np.abs(users).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / _GREATEST
            steps = np.rint(users / step)
            whole = steps.astype(np.int16) + ((_MIDDLE << _HALF_BITS) + _MIDDLE)
            halves = np.concatenate([whole >> _HALF_BITS, whole & (1 << _HALF_BITS) - 1]).astype(np.uint8)
            scores: Float32 = self._session.run("scores", {"users": halves})
            high, low = scores[: len(users)], scores[len(users) :]
            low *= 1 / (1 << _HALF_BITS)
            high += low
            high *= step * (1 << _HALF_BITS)
            return high, users - steps * step
