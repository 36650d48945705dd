"""Random filters of the items with attributes."""

import random
from typing import Any

TEXTS = {"brand": ["A", "B", "C", "nobody's"], "tag": ["new", "red", "é"]}


def random_filter(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """Return a filter of one condition to four, also nested."""
    names = rng.sample(["brand", "tag", "price", "in_stock", *["not", "any"] * (depth < 3)], rng.choice([1, 1, 2, 4]))
    return {name: random_condition(rng, name, depth) for name in names}


def random_condition(rng: random.Random, name: str, depth: int) -> Any:
    if name == "not":
        return random_filter(rng, depth + 1)
    if name == "any":
        return [random_filter(rng, depth + 1) for _ in range(rng.choice([1, 2, 3]))]
    if rng.random() < 0.3:
        return random_member(rng, name)
    return [random_member(rng, name) for _ in range(rng.choice([1, 2, 3]))]


def random_member(rng: random.Random, name: str) -> Any:
    if rng.random() < 0.15:
        return None
    if name == "in_stock":
        return rng.random() < 0.5
    if name in TEXTS:
        return rng.choice(TEXTS[name])
    if rng.random() < 0.4:
        return rng.choice([1.5, 20.5, 7, -3])
    least, most = sorted(rng.sample(range(-5, 65), 2))
    bounds = {rng.choice(["gt", "gte"]): least + 0.5, rng.choice(["lt", "lte"]): most + 0.5}
    return rng.choice([bounds, dict([rng.choice([*bounds.items()])]), {"eq": most + 0.5}])
