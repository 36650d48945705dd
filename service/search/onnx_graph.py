"""An ONNX model of one node, written by hand in protobuf's wire format.

The service does not depend on a package that writes ONNX, and what is needed of the format fits into this file.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {"float32": 1, "uint8": 2, "int8": 3}
_IR_VERSION = 8
_OPSET = 17
CONTRIB = "com.microsoft"  # onnxruntime's own operators


def one_node_model(operator: str, domain: str, input_type: str, constants: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a model that computes scores = operator(users, *constants).

    domain: of the operator, "" for ONNX's own. input_type: of users [batch, dim], a key of _TYPES. constants: name to
    array, in the order of the operator's inputs; "columns" is [dim, n]. scores is float32 [batch, n].

    The bytes are joined once, at the end, because each copy of a large matrix holds up every other thread.
    """
    dim, n = constants["columns"].shape
    names = b"".join(_text(1, name) for name in ("users", *constants))
    node = names + _text(2, "scores") + _text(4, operator) + _text(7, domain)
    fields: list[Any] = [_bytes(1, node), _text(2, "product")]
    for name, values in constants.items():
        head = b"".join(_integer(1, size) for size in values.shape)
        head += _integer(2, _TYPES[values.dtype.name]) + _text(8, name) + _opening(9, values.nbytes)
        fields += [_opening(5, len(head) + values.nbytes), head, np.ascontiguousarray(values).data]
    fields.append(_bytes(11, _tensor("users", input_type, dim)) + _bytes(12, _tensor("scores", "float32", n)))
    versions = _integer(1, _IR_VERSION) + _bytes(8, _text(1, "") + _integer(2, _OPSET))
    versions += _bytes(8, _text(1, CONTRIB) + _integer(2, 1))
    n_bytes = sum(memoryview(field).nbytes for field in fields)
    return b"".join([versions, _opening(7, n_bytes), *fields])


def _tensor(name: str, kind: str, width: int) -> bytes:
    """Return a ValueInfoProto: the name, the type and the shape [batch, width] of an input or output."""
    shape = _bytes(1, _text(2, "batch")) + _bytes(1, _integer(1, width))
    return _text(1, name) + _bytes(2, _bytes(1, _integer(1, _TYPES[kind]) + _bytes(2, shape)))


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _opening(field, len(value)) + value


def _opening(field: int, n_bytes: int) -> bytes:
    """Return what stands before the n_bytes of a field of variable length."""
    return _varint(field << 3 | 2) + _varint(n_bytes)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
