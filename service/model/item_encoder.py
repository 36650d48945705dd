"""The bundle's item encoder, run by onnxruntime: vectors for items that the model was not trained on.

Features are padded to a few fixed widths and batches to a few fixed sizes, because onnxruntime's memory grows with
every new shape. It does not know which items are live, nor what is done with their vectors.
"""

from collections.abc import Sequence

import numpy as np

from service.bundle import ITEM_TOLERANCE, MOST_FEATURES, Bundle, Float32, ItemText, hash_text, pad_features
from service.errors import DegradedError, GoldenError, ModelError, StartError
from service.onnx_session import Session

BUCKETS = (1, 8, 64)
"""The sizes of a batch. More items are encoded in several runs."""
WIDTHS = (32, 128, MOST_FEATURES)
"""The numbers of features that those of an item are padded to."""


class ItemEncoder:
    """Turns what is said of items into vectors, which stand in the place of rows of the item table.

    score(user, item) = user · vector + offset for an item of this encoder, in the place of user · item. prior_count:
    the count that the trend has of such an item before events are known of it.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Load the encoder and hold it against the bundle's golden items.

        Raises StartError where the bundle has none (bundle.table.encoding is None), or its inputs and outputs are not
        those of the format, and GoldenError where it does not give what the bundle says.
        """
        encoding = bundle.table.encoding
        if encoding is None:
            raise StartError(f"{bundle.path}: it has no item encoder")
        self.offset, self.prior_count = encoding.offset, encoding.prior_count
        self._buckets, self._dim = encoding.buckets, bundle.manifest.dim
        self._session = Session(encoding.graph, str(bundle.path))
        found, outputs = self._session.inputs, self._session.outputs
        if found != {"features": ("tensor(int64)", 2)} or not {"vector", "confidence"} <= set(outputs):
            raise StartError(f"{bundle.path}: the item encoder takes {sorted(found)} and returns {outputs}")
        self._compare_golden(bundle)

    def encode(self, texts: Sequence[ItemText]) -> tuple[Float32, Float32]:
        """Return vectors float32 [len(texts), dim] and confidences float32 [len(texts)]. Raises ModelError.

        A confidence is from 0 to 1. An item of which nothing is said has the vector of an ordinary item, and the
        least confidence. What is longer than item_text allows is not read to its end.
        """
        vectors = np.zeros((len(texts), self._dim), dtype=np.float32)
        confidences = np.zeros(len(texts), dtype=np.float32)
        features = [hash_text(text, self._buckets) for text in texts]
        order = sorted(range(len(texts)), key=lambda place: len(features[place]))  # so that little padding is computed
        for start in range(0, len(order), BUCKETS[-1]):
            places = order[start : start + BUCKETS[-1]]
            vectors[places], confidences[places] = self._encode_bucket([features[place] for place in places])
        return vectors, confidences

    def _encode_bucket(self, features: list[list[int]]) -> tuple[Float32, Float32]:
        n_real = len(features)
        bucket = next(size for size in BUCKETS if size >= n_real)
        width = next(width for width in WIDTHS if width >= max(map(len, features)))
        inputs = {"features": pad_features([*features, *[[]] * (bucket - n_real)], width)}
        vector, confidence = self._session.run_all(["vector", "confidence"], inputs)
        if vector.shape != (bucket, self._dim) or confidence.shape != (bucket,):
            raise ModelError("the item encoder returned another shape")
        if vector.dtype != np.float32 or confidence.dtype != np.float32:
            raise ModelError("the item encoder returned another type")
        if not (np.isfinite(vector[:n_real]).all() and np.isfinite(confidence[:n_real]).all()):
            raise ModelError("the item encoder returned NaN or infinity")
        return vector[:n_real], confidence[:n_real]

    def _compare_golden(self, bundle: Bundle) -> None:
        golden = bundle.table.encoding.golden if bundle.table.encoding else ()
        try:
            vectors, confidences = self.encode([each.text for each in golden])
        except DegradedError as exc:
            raise GoldenError(f"{bundle.path}: the golden items: {exc}") from exc
        for number, (each, vector, confidence) in enumerate(zip(golden, vectors, confidences, strict=True), start=1):
            tolerance = ITEM_TOLERANCE * max(1e-6, float(abs(each.vector).max()))
            is_same = (abs(vector - each.vector) <= tolerance).all()
            if not is_same or abs(confidence - each.confidence) > ITEM_TOLERANCE:
                raise GoldenError(f"{bundle.path}: the item encoder does not reproduce golden item {number}")
