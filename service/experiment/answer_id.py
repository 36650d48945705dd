"""The ids of answers. An id says which version answered, so that an event that names it can be told to belong to that.

An id has 32 hexadecimal digits. The first 8 are those of the version's name, which is a part of the bundle's own sum;
the others are random. Of two versions the first 8 digits are the same once in four thousand million pairs.
"""

import random

PREFIX_DIGITS = 8
_RANDOM_BITS = 96


def prefix_of(version: str) -> str:
    """Return the first 8 digits of the ids of all answers of a version."""
    return version[:PREFIX_DIGITS]


def new_answer_id(version: str) -> str:
    """Return the id of one more answer of a version: a name, not a secret."""
    return f"{version[:PREFIX_DIGITS]}{random.getrandbits(_RANDOM_BITS):024x}"
