"""A model that refers to anything outside its own bytes never reaches onnxruntime, wherever in it the reference is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, SparseTensorProto, TensorProto, TrainingInfoProto, helper, numpy_helper

from service.bundle import BundleCorruptError, open_bundle
from service.bundle.encoder import MAX_FIELDS, check_model
from tests.service.toy import mean_encoder, write_toy

SECRET = np.arange(4, dtype=np.float32)


def external(location: str = "sub/secret.txt") -> TensorProto:
    """A tensor whose values are in a file of the working directory."""
    tensor = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def own() -> TensorProto:
    return numpy_helper.from_array(SECRET, "secret")


def model_of(tensor: TensorProto, nodes: list | None = None, **more: object) -> ModelProto:
    """A model that returns x plus a tensor."""
    graph = helper.make_graph(
        nodes or [helper.make_node("Add", ["x", "secret"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [] if nodes else [tensor],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, **more)


def in_constant(tensor: TensorProto) -> ModelProto:
    constant = helper.make_node("Constant", [], ["secret"], value=tensor)
    return model_of(tensor, [constant, helper.make_node("Add", ["x", "secret"], ["y"])])


def in_list_of_tensors(tensor: TensorProto) -> ModelProto:
    model = model_of(own())
    model.graph.node[0].attribute.add(name="spare", type=AttributeProto.TENSORS).tensors.append(tensor)
    return model


def branch(tensor: TensorProto) -> AttributeProto:
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "secret"], ["z"])], "b", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [4])], [tensor],
    )  # fmt: skip
    return helper.make_attribute("then_branch", inner)


def in_subgraph(tensor: TensorProto) -> ModelProto:
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    choice = helper.make_node("If", ["c"], ["y"])
    choice.attribute.append(branch(tensor))
    other = branch(own())
    other.name = "else_branch"
    choice.attribute.append(other)
    return model_of(tensor, [helper.make_node("Constant", [], ["c"], value=condition), choice])


def in_list_of_graphs(tensor: TensorProto) -> ModelProto:
    model = model_of(own())
    model.graph.node[0].attribute.add(name="spare", type=AttributeProto.GRAPHS).graphs.append(branch(tensor).g)
    return model


def in_function(tensor: TensorProto) -> ModelProto:
    nodes = [
        helper.make_node("Constant", [], ["secret"], value=tensor),
        helper.make_node("Add", ["a", "secret"], ["b"]),
    ]
    function = helper.make_function("ours", "F", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)])
    model = model_of(tensor, [helper.make_node("F", ["x"], ["y"], domain="ours")], functions=[function])
    model.opset_import.append(helper.make_opsetid("ours", 1))
    return model


def in_default_of_a_function(tensor: TensorProto) -> ModelProto:
    model = in_function(own())
    model.functions[0].attribute_proto.append(helper.make_attribute("spare", tensor))
    return model


def sparse(values: TensorProto, indices: TensorProto) -> SparseTensorProto:
    return SparseTensorProto(values=values, indices=indices, dims=[4])


def in_values_of_sparse_initializer(tensor: TensorProto) -> ModelProto:
    model = in_constant(own())
    model.graph.sparse_initializer.append(sparse(tensor, numpy_helper.from_array(np.arange(4), "i")))
    return model


def in_indices_of_sparse_initializer(tensor: TensorProto) -> ModelProto:
    model = in_constant(own())
    model.graph.sparse_initializer.append(sparse(own(), tensor))
    return model


def in_sparse_attribute(tensor: TensorProto) -> ModelProto:
    model = model_of(own())
    model.graph.node[0].attribute.append(
        helper.make_attribute("spare", sparse(tensor, numpy_helper.from_array(np.arange(4), "i")))
    )
    return model


def in_list_of_sparse(tensor: TensorProto) -> ModelProto:
    model = model_of(own())
    attribute = model.graph.node[0].attribute.add(name="spare", type=AttributeProto.SPARSE_TENSORS)
    attribute.sparse_tensors.append(sparse(tensor, numpy_helper.from_array(np.arange(4), "i")))
    return model


def in_training_info(tensor: TensorProto) -> ModelProto:
    model = model_of(own())
    model.training_info.append(TrainingInfoProto(initialization=branch(tensor).g))
    return model


PLACES = [
    model_of, in_constant, in_list_of_tensors, in_subgraph, in_list_of_graphs, in_function, in_default_of_a_function,
    in_values_of_sparse_initializer, in_indices_of_sparse_initializer, in_sparse_attribute, in_list_of_sparse,
    in_training_info,
]  # fmt: skip


REFERRING = [place(external()).SerializeToString() for place in PLACES]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_tensor_that_lies_elsewhere_is_refused_in_every_place(place: Callable[[TensorProto], ModelProto]) -> None:
    with pytest.raises(ValueError, match="refers to data outside"):
        check_model(place(external()).SerializeToString())

    check_model(place(own()).SerializeToString())


@pytest.mark.parametrize(
    "location", ["sub/secret.txt", "/etc/passwd", "../x", "", "*/_ORT_MEM_ADDR_/*", "a\0b", "file:///etc/passwd"]
)
def test_every_location_is_refused(location: str) -> None:
    with pytest.raises(ValueError, match="refers to data outside"):
        check_model(model_of(external(location)).SerializeToString())


def test_half_of_a_reference_is_refused_too() -> None:
    only_location, only_entry = own(), own()
    only_location.data_location = TensorProto.EXTERNAL
    only_entry.external_data.add(key="location", value="x")

    for tensor in (only_location, only_entry):
        with pytest.raises(ValueError, match="refers to data outside"):
            check_model(model_of(tensor).SerializeToString())


def tensor_with(extra: bytes) -> bytes:
    """A model whose one tensor has other bytes at its end."""
    tensor = own().SerializeToString() + extra
    graph = b"\x2a" + varint(len(tensor)) + tensor
    return b"\x3a" + varint(len(graph)) + graph


def varint(number: int, at_least: int = 1) -> bytes:
    data = bytearray()
    while number > 0x7F or len(data) + 1 < at_least:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


@pytest.mark.parametrize(
    "extra",
    [
        b"\x70\x01",
        b"\x70" + varint(1, 10),
        b"\x70" + varint((1 << 32) + 1),
        b"\x70" + varint((1 << 64) - 1),
        varint(0x70, 5) + b"\x01",
        b"\x70\x01\x70\x00",
        b"\x72\x01\x01",
        b"\x6a\x00",
        varint(0x6A, 5) + b"\x00",
        b"\x68\x01",
    ],
    ids=[
        "plain",
        "long",
        "over 32 bits",
        "negative",
        "long tag",
        "taken back",
        "packed",
        "empty",
        "long tag 13",
        "int",
    ],
)
def test_other_ways_to_write_the_reference_are_refused(extra: bytes) -> None:
    with pytest.raises(ValueError, match="refers to data outside"):
        check_model(tensor_with(extra))


@pytest.mark.parametrize(
    "model",
    [
        b"no graph",
        b"\x3a\x05ab",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x3b\x3c",  # a group, which holds fields without a length
        b"\x38\x01",  # the graph as a number
        b"\x02\x00",  # field 0
        varint((1 << 35) | 0x3A) + b"\x00",  # a tag of more than 32 bits, which some parsers cut off
        b"\x80" * 11,
        tensor_with(b"")[:-1],
        b"\x12\x10xxORTM" + b"x" * 10,
    ],
)
def test_what_parsers_may_read_differently_is_refused(model: bytes) -> None:
    with pytest.raises(ValueError, match=r"message|cut off|format|another type"):
        check_model(model)


def test_too_deep_and_too_many_are_refused() -> None:
    deep = b""
    for _ in range(60):  # graph in attribute in node in graph
        attribute = b"\x32" + varint(len(deep)) + deep
        node = b"\x2a" + varint(len(attribute)) + attribute
        deep = b"\x0a" + varint(len(node)) + node
    with pytest.raises(ValueError, match="deep"):
        check_model(b"\x3a" + varint(len(deep)) + deep)
    with pytest.raises(ValueError, match="fields"):
        check_model(b"\x08\x01" * (MAX_FIELDS + 1))


def test_operators_of_unknown_makers_are_refused() -> None:
    for domain in ("evil.example", "ai.onnx.contrib", "com.microsoft.experimental"):
        model = model_of(own(), [helper.make_node("Sum", ["x"], ["y"], domain=domain)])
        with pytest.raises(ValueError, match="operators of"):
            check_model(model.SerializeToString())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_hold_no_reference(data: st.DataObject) -> None:
    """Whatever passes and can be parsed by onnx has no external tensor where onnx sees one."""
    raw = bytearray(data.draw(st.sampled_from(REFERRING)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    try:
        check_model(bytes(raw))
    except ValueError:
        return
    try:
        model = ModelProto.FromString(bytes(raw))
    except Exception:
        return

    assert "EXTERNAL" not in str(model)
    assert "external_data" not in str(model)


def test_bundle_does_not_read_a_file_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "secret.txt").write_bytes(SECRET.tobytes())
    model = model_of(external()).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    read = onnxruntime.InferenceSession(model, options).run(None, {"x": np.zeros(4, np.float32)})[0]
    assert np.array_equal(read, SECRET), "onnxruntime itself reads the file"

    bundle = write_toy(tmp_path / "bundle", encoder=model)

    with pytest.raises(BundleCorruptError, match=r"user_encoder\.onnx.*refers to data outside"):
        open_bundle(bundle.path).encoder  # noqa: B018


def test_our_own_encoders_pass() -> None:
    check_model(mean_encoder())
