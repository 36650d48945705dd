"""An ONNX model of one node, written out by hand as protobuf: the service has no package that writes ONNX."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {"float32": 1, "uint8": 2, "int8": 3}
_IR_VERSION = 8
_OPSET = 17
CONTRIB = "com.microsoft"  # onnxruntime's own operators


def one_node_model(operator: str, domain: str, input_type: str, constants: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a model of one node, scores = operator(users, *constants), put together in one step.

    Each copy of the constants, of which the first is [dim, n], would hold the interpreter for all it takes.
    """
    dim, n = constants["columns"].shape
    names = b"".join(_text(1, name) for name in ("users", *constants))
    node = names + _text(2, "scores") + _text(4, operator) + _text(7, domain)
    parts: list[Any] = [_bytes(1, node), _text(2, "product")]
    for name, values in constants.items():
        head = b"".join(_integer(1, size) for size in values.shape)
        head += _integer(2, _TYPES[values.dtype.name]) + _text(8, name) + _opening(9, values.nbytes)
        parts += [_opening(5, len(head) + values.nbytes), head, np.ascontiguousarray(values).data]
    parts.append(_bytes(11, _tensor("users", input_type, dim)) + _bytes(12, _tensor("scores", "float32", n)))
    versions = _integer(1, _IR_VERSION) + _bytes(8, _text(1, "") + _integer(2, _OPSET))
    versions += _bytes(8, _text(1, CONTRIB) + _integer(2, 1))
    n_bytes = sum(memoryview(part).nbytes for part in parts)
    return b"".join([versions, _opening(7, n_bytes), *parts])


def _tensor(name: str, kind: str, width: int) -> bytes:
    """A ValueInfoProto: [batch, width]."""
    shape = _bytes(1, _text(2, "batch")) + _bytes(1, _integer(1, width))
    return _text(1, name) + _bytes(2, _bytes(1, _integer(1, _TYPES[kind]) + _bytes(2, shape)))


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _opening(field, len(value)) + value


def _opening(field: int, n_bytes: int) -> bytes:
    return _varint(field << 3 | 2) + _varint(n_bytes)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
