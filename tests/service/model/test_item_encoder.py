"""The item encoder as it is loaded: the vectors that the bundle promises, for any texts in any order."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from service.bundle import Bundle, ItemGolden, ItemText, hash_text, open_bundle
from service.errors import GoldenError, ModelError, StartError
from service.model.item_encoder import ItemEncoder
from tests.service.toy import DIM, mean_encoder, sum_item_encoder, toy_encoding, write_toy

TEXTS = st.builds(
    ItemText,
    st.none() | st.text(max_size=40),
    st.none() | st.text(max_size=400),
    st.dictionaries(st.text(max_size=8), st.lists(st.text(max_size=12), max_size=4), max_size=3),
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy(tmp_path_factory.mktemp("encoder") / "bundle", encoding=toy_encoding())


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> ItemEncoder:
    return ItemEncoder(open_bundle(bundle.path))


def plain_vectors() -> np.ndarray:
    """The vectors of the toy's features."""
    vectors = np.random.default_rng(9).normal(size=(501, DIM)).astype(np.float32) / 4
    vectors[0] = 0
    return vectors


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, max_size=70))
def test_encode_gives_each_text_what_it_has_alone(encoder: ItemEncoder, texts: list[ItemText]) -> None:
    vectors, confidences = encoder.encode(texts)

    assert vectors.shape == (len(texts), DIM) and vectors.dtype == np.float32
    assert confidences.shape == (len(texts),) and confidences.dtype == np.float32
    for text, vector, confidence in zip(texts, vectors, confidences, strict=True):
        features = hash_text(text, 500)
        assert vector == pytest.approx(plain_vectors()[features].sum(axis=0), abs=1e-4)
        assert confidence == pytest.approx(len(features) / (len(features) + 4), abs=1e-6)


def test_encoder_has_what_a_new_item_starts_with(encoder: ItemEncoder) -> None:
    assert (encoder.offset, encoder.prior_count) == (-0.5, 1.5)


def test_encoder_is_refused_when_the_bundle_has_none(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no item encoder"):
        ItemEncoder(write_toy(tmp_path / "bundle"))


@pytest.mark.parametrize(
    "golden",
    [
        lambda each: ItemGolden(each.text, each.vector + np.float32(0.01), each.confidence),
        lambda each: ItemGolden(each.text, each.vector, each.confidence + 0.01),
        lambda each: ItemGolden(ItemText("another"), each.vector, each.confidence),
    ],
)
def test_encoder_is_refused_when_it_differs_from_its_golden_items(tmp_path: Path, golden) -> None:
    encoding = toy_encoding()
    changed = replace(encoding, golden=[*encoding.golden[:2], golden(encoding.golden[2])])

    with pytest.raises(GoldenError, match="golden item 3"):
        ItemEncoder(write_toy(tmp_path / "bundle", encoding=changed))


def test_encoder_is_refused_when_its_vectors_have_another_width(tmp_path: Path) -> None:
    narrow = sum_item_encoder(np.zeros((501, DIM - 1), dtype=np.float32))

    with pytest.raises(GoldenError, match="shape"):
        ItemEncoder(write_toy(tmp_path / "bundle", encoding=replace(toy_encoding(), graph=narrow)))


def test_encoder_is_refused_when_its_inputs_are_others(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="the item encoder takes"):
        ItemEncoder(write_toy(tmp_path / "bundle", encoding=replace(toy_encoding(), graph=mean_encoder())))


def test_encoder_is_refused_when_its_graph_is_none(tmp_path: Path) -> None:
    nothing = helper.make_node("Identity", ["missing"], ["vector"])
    output = helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", DIM])
    model = helper.make_model(helper.make_graph([nothing], "broken", [], [output]))

    with pytest.raises(StartError):
        ItemEncoder(write_toy(tmp_path / "bundle", encoding=replace(toy_encoding(), graph=model.SerializeToString())))


def test_encode_says_so_when_a_vector_is_not_finite(encoder: ItemEncoder, tmp_path: Path) -> None:
    vectors = plain_vectors()
    vectors[hash_text(ItemText("zanzibar"), 500)[0]] = np.nan
    broken = ItemEncoder(
        write_toy(tmp_path / "bundle", encoding=replace(toy_encoding(), graph=sum_item_encoder(vectors)))
    )

    with pytest.raises(ModelError, match="NaN"):
        broken.encode([ItemText("zanzibar")])
