"""The bundle: the contract between training and serving. Import its names from here, never from the files below.

Both packages import it, so it needs the standard library and numpy, and nothing else of either package.
"""

from service.bundle.directory import Bundle, Golden, open_bundle, write_bundle
from service.bundle.error import BundleCorruptError, BundleError, BundleFormatError, BundleMissingError
from service.bundle.item import MAX_ID_LENGTH, Item, Items, check_item_id, popularity_order, tie_hash
from service.bundle.manifest import (
    EMBEDDINGS,
    ENCODER,
    FORMAT,
    GOLDEN,
    ITEMS,
    MANIFEST,
    REQUIRED,
    SCALES,
    TIE_RULE,
    Manifest,
    bundle_version,
    fingerprint,
    parse_manifest,
    read_manifest,
)
from service.bundle.table import Float32, Int64, ItemTable, pad_histories

__all__ = [
    "EMBEDDINGS", "ENCODER", "FORMAT", "GOLDEN", "ITEMS", "MANIFEST", "MAX_ID_LENGTH", "REQUIRED", "SCALES", "TIE_RULE",
    "Bundle", "BundleCorruptError", "BundleError", "BundleFormatError", "BundleMissingError", "Float32", "Golden",
    "Int64", "Item", "ItemTable", "Items", "Manifest", "bundle_version", "check_item_id", "fingerprint", "open_bundle",
    "pad_histories", "parse_manifest", "popularity_order", "read_manifest", "tie_hash", "write_bundle",
]  # fmt: skip
