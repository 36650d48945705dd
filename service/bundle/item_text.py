"""What is said of an item, as numbers of features: the input of the item encoder, the same in training and serving.

A feature is a word, a character n-gram of a word, or a value of an attribute. Its number is a hash, so that no list of
words travels with a bundle and every text has features. Words count in titles and descriptions alike, and once more as
words of the title. The order is by weight of what they say: values of attributes, words of the title, their n-grams,
words of the description, their n-grams; an item has at most MOST_FEATURES, the first ones.

HASHING numbers the rules below. A bundle says which it was trained with, and another is refused.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from zlib import crc32

import numpy as np

from service.bundle.array import Int64

HASHING = 1
MOST_FEATURES = 512
MOST_CHARACTERS = 4096
"""Of a title, of a description and of each value of an attribute; the rest is not read."""
MOST_VALUES = 128
"""Of all attributes of an item together."""
MOST_WORD = 32
"""Characters of a word; the rest of it is not read."""
GRAMS = (3, 4)
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class ItemText:
    """What is said of an item in words. attributes: {"genre": ["noir", "crime"], ...}."""

    title: str | None = None
    description: str | None = None
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)


def hash_text(text: ItemText, buckets: int) -> list[int]:
    """Return the numbers of an item's features, each once, from 1 to buckets; none where nothing is said of it."""
    title, description = _words(text.title), _words(text.description)
    pairs = list(islice(_pairs(text.attributes), MOST_VALUES))
    said = chain(
        (f"a{name}={value.strip().lower()}" for name, value in pairs),
        (f"w{word}" for _, value in pairs for word in _words(value)),
        (f"t{word}" for word in title),
        (f"w{word}" for word in title),
        _grams(title),
        (f"w{word}" for word in description),
        _grams(description),
    )
    found: dict[int, None] = {}
    for feature in said:
        found[1 + crc32(feature.encode(errors="replace")) % buckets] = None
        if len(found) == MOST_FEATURES:
            break
    return list(found)


def pad_features(features: Sequence[Sequence[int] | Int64], width: int | None = None) -> Int64:
    """Return features as int64 [len(features), width], with zeros on the right of shorter ones.

    width: None takes the length of the longest, and at least 1.
    """
    longest = max(1, *(len(row) for row in features)) if features else 1
    padded = np.zeros((len(features), longest if width is None else width), dtype=np.int64)
    for row, numbers in zip(padded, features, strict=True):
        row[: len(numbers)] = numbers
    return padded


def _pairs(attributes: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of every value, the names in ascending order, so that the order of a caller is nothing."""
    for name in sorted(attributes):
        for value in attributes[name]:
            yield name, value[:MOST_CHARACTERS]


def _words(text: str | None) -> list[str]:
    """Return the words of a text in lower case, without accents that can be written apart."""
    plain = unicodedata.normalize("NFKD", (text or "")[:MOST_CHARACTERS]).lower()
    bare = "".join(each for each in plain if not unicodedata.combining(each)) if not plain.isascii() else plain
    return [word[:MOST_WORD] for word in _WORD.findall(bare)]


def _grams(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        marked = f"<{word}>"
        for length in GRAMS:
            for start in range(len(marked) - length + 1):
                yield f"g{marked[start : start + length]}"
