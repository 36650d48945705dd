"""The arrays of a bundle: opened as memory maps, after their kind, shape and values were checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.error import BundleCorruptError

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
_AT_ONCE = 65536


def open_array(path: Path, shape: Sequence[int | None], dtypes: Sequence[str]) -> NDArray[Any]:
    """Open an array of one of the types. shape: None where any length from 1 on will do. Raises BundleCorruptError."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as exc:
        raise BundleCorruptError(f"{path}: not a .npy array") from exc
    fits = array.ndim == len(shape) and all(
        length >= 1 if wanted is None else length == wanted for length, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype.name not in dtypes:
        wanted_shape = ["any" if wanted is None else wanted for wanted in shape]
        raise BundleCorruptError(
            f"{path}: {array.dtype.name} {list(array.shape)}, expected {' or '.join(dtypes)} {wanted_shape}"
        )
    if array.dtype.kind == "f" and not all(np.isfinite(block).all() for block in _blocks(array)):
        raise BundleCorruptError(f"{path}: contains NaN or infinity")
    return array


def check_range(path: Path, array: NDArray[Any], least: int, most: float) -> None:
    """Raise BundleCorruptError unless every value of an array is from least to most."""
    for block in _blocks(array):
        if block.min() < least or block.max() > most:
            raise BundleCorruptError(f"{path}: a value is not from {least} to {most:g}")


def _blocks(array: NDArray[Any]) -> list[NDArray[Any]]:
    return [array[start : start + _AT_ONCE] for start in range(0, len(array), _AT_ONCE)]
