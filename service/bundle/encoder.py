"""The bundle's encoder: the bytes of an ONNX model, checked before onnxruntime sees them.

A tensor of ONNX may say that its values lie in a file, or at an address of this process's memory. onnxruntime looks for
such a file in the working directory where the model comes as bytes, and no option forbids it. So the bytes are walked
here, without the package onnx: a model is a tree of protobuf messages, and only the few kinds that can hold a tensor or
name an operator are entered. What protobuf parsers may understand in different ways is refused.

Field numbers: onnx.proto of ONNX 1.23. A kind of tensor that a later version adds in a new field is not entered, and
onnxruntime must not be raised to a version that reads it before it is added here.
"""

from pathlib import Path

from service.bundle.error import BundleCorruptError

ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Whose operators a model may use, beside the functions that it brings along: those built into onnxruntime."""
MAX_DEPTH = 100
MAX_FIELDS = 2_000_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ENTERED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Message -> field -> the message that it holds."""
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_DOMAIN = {"node": 7, "function": 10}
_ORT_FORMAT = b"ORTM"  # a file in that format may at the same time be a valid message of protobuf


class _Refused(ValueError):
    """What is wrong, for the end of a message."""


def read_encoder(path: Path) -> bytes:
    """Return a model's bytes, which refer to nothing outside of them. Raises BundleCorruptError."""
    model = path.read_bytes()
    try:
        check_model(model)
    except _Refused as exc:
        raise BundleCorruptError(f"{path}: it is not given to onnxruntime: {exc}") from None
    return model


def check_model(model: bytes) -> None:
    """Raise ValueError, which says why, unless everything that an ONNX model is made of is in its own bytes."""
    if model[4:8] == _ORT_FORMAT:
        raise _Refused("it is in onnxruntime's own format")
    domains = _walk(model)
    if strange := sorted(domains["node"] - domains["function"] - ALLOWED_DOMAINS):
        raise _Refused(f"it has operators of {strange[0][:100]!r}")


def _walk(model: bytes) -> dict[str, set[str]]:
    """Enter every message that may hold a tensor; return the domains of nodes and of functions."""
    domains: dict[str, set[str]] = {"node": set(), "function": set()}
    waiting = [("model", 0, len(model), 0)]
    n_fields = 0
    while waiting:
        kind, place, end, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _Refused(f"messages are nested more than {MAX_DEPTH} deep")
        while place < end:
            n_fields += 1
            if n_fields > MAX_FIELDS:
                raise _Refused(f"more than {MAX_FIELDS} fields")
            tag, place = _read_varint(model, place, end)
            number, wire = tag >> 3, tag & 7
            first, place = _pass(model, place, end, wire)
            if number == 0 or tag > 0xFFFFFFFF:
                raise _Refused("not a protobuf message")
            if kind == "tensor":
                _check_tensor(model, number, wire, first, place)
            elif inside := _ENTERED[kind].get(number):
                if wire != _BYTES:
                    raise _Refused(f"field {number} of a {kind} is of another type")
                waiting.append((inside, first, place, depth + 1))
            elif number == _DOMAIN.get(kind):
                domains[kind].add(model[first:place].decode(errors="replace") if wire == _BYTES else "?")
    return domains


def _check_tensor(model: bytes, number: int, wire: int, first: int, end: int) -> None:
    """Refuse a tensor's field that says that its values are elsewhere."""
    is_elsewhere = number == _DATA_LOCATION and not (wire == _VARINT and model[first:end] == b"\0")
    if number == _EXTERNAL_DATA or is_elsewhere:
        raise _Refused("a tensor refers to data outside of it")


def _pass(model: bytes, place: int, end: int, wire: int) -> tuple[int, int]:
    """Return where the value of a field begins and ends."""
    if wire == _BYTES:
        length, place = _read_varint(model, place, end)
        first, place = place, place + length
    elif wire == _VARINT:
        first, (_, place) = place, _read_varint(model, place, end)
    elif wire in (_FIXED32, _FIXED64):
        first, place = place, place + (4 if wire == _FIXED32 else 8)
    else:
        raise _Refused("not a protobuf message")
    if place > end:
        raise _Refused("it is cut off")
    return first, place


def _read_varint(model: bytes, place: int, end: int) -> tuple[int, int]:
    """Return a number of up to ten bytes, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            raise _Refused("it is cut off")
        byte = model[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise _Refused("not a protobuf message")
