"""The masks of the filters that were asked for last, bounded by their bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

from service.catalogue.column import Mask

MAX_BYTES = 32 << 20
"""32 masks of a million items, or a thousand of 32,000."""
_OVERHEAD = 1024


class MaskCache:
    """Keeps the masks that were asked for last. They are shared, and cannot be written to."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes, self._n_bytes = max_bytes, 0
        self._masks: OrderedDict[Hashable, Mask] = OrderedDict()

    def __len__(self) -> int:
        return len(self._masks)

    def __contains__(self, key: object) -> bool:
        return key in self._masks

    def find(self, key: Hashable, make: Callable[[], Mask]) -> Mask:
        """Return the mask of a key, made where it is not kept; those that were not asked for longest give way."""
        if (kept := self._masks.get(key)) is not None:
            self._masks.move_to_end(key)
            return kept
        mask = make()
        mask.flags.writeable = False
        self._masks[key] = mask
        self._n_bytes += mask.nbytes + _OVERHEAD
        while self._n_bytes > self._max_bytes:
            _, dropped = self._masks.popitem(last=False)
            self._n_bytes -= dropped.nbytes + _OVERHEAD
        return mask

    def clear(self) -> None:
        """Keep none: the items have changed."""
        self._masks.clear()
        self._n_bytes = 0
