"""The bundle: the contract between training and serving. Import its names from here, never from the files below.

Both packages import it, so it needs the standard library and numpy, and nothing else of either package.
"""

from service.bundle.array import Float32, Int64
from service.bundle.directory import Bundle, Golden, open_bundle, write_bundle
from service.bundle.error import BundleCorruptError, BundleError, BundleFormatError, BundleMissingError
from service.bundle.history_type import BUILT_IN, MOST_TYPE_LENGTH, Effect, HistoryTypes, combine_types, settle
from service.bundle.item import MAX_ID_LENGTH, Item, Items, check_item_id, popularity_order, tie_hash
from service.bundle.item_encoding import ITEM_TOLERANCE, ItemEncoding, ItemGolden
from service.bundle.item_text import HASHING, MOST_FEATURES, ItemText, hash_text, pad_features
from service.bundle.manifest import (
    EMBEDDINGS,
    ENCODER,
    FORMAT,
    GOLDEN,
    ITEMS,
    MANIFEST,
    NEIGHBOUR_SCALES,
    NEIGHBOUR_WEIGHTS,
    NEIGHBOURS,
    REQUIRED,
    SCALES,
    SUM_FORMAT,
    TIE_RULE,
    TREND_COUNTS,
    Manifest,
    bundle_version,
    fingerprint,
    parse_manifest,
    read_manifest,
)
from service.bundle.score import (
    PARTS,
    Gap,
    NeighbourRule,
    Neighbours,
    Parts,
    ScoreRule,
    Scores,
    TrendRule,
    add_up,
    parse_score,
    sum_up,
)
from service.bundle.similar import LARGEST_WEIGHT, Relations, SimilarRule, parse_similar, usual_rule
from service.bundle.table import Gathered, ItemTable, pad_histories

__all__ = [
    "BUILT_IN", "EMBEDDINGS", "ENCODER", "FORMAT", "GOLDEN", "HASHING", "ITEMS", "ITEM_TOLERANCE",
    "LARGEST_WEIGHT", "MANIFEST", "MAX_ID_LENGTH", "MOST_FEATURES", "MOST_TYPE_LENGTH", "NEIGHBOURS",
    "NEIGHBOUR_SCALES", "NEIGHBOUR_WEIGHTS", "PARTS", "REQUIRED", "SCALES", "SUM_FORMAT", "TIE_RULE",
    "TREND_COUNTS", "Bundle", "BundleCorruptError", "BundleError", "BundleFormatError", "BundleMissingError",
    "Effect", "Float32", "Gap", "Gathered", "Golden", "HistoryTypes", "Int64", "Item", "ItemEncoding",
    "ItemGolden", "ItemTable", "ItemText", "Items", "Manifest", "NeighbourRule", "Neighbours", "Parts",
    "Relations", "ScoreRule", "Scores", "SimilarRule", "TrendRule", "add_up", "bundle_version", "check_item_id",
    "combine_types", "fingerprint", "hash_text", "open_bundle", "pad_features", "pad_histories",
    "parse_manifest", "parse_score", "parse_similar", "popularity_order", "read_manifest", "settle", "sum_up",
    "tie_hash", "usual_rule", "write_bundle",
]  # fmt: skip
