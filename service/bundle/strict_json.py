"""JSON as the bundle's files may hold it: without NaN and infinity, which Python's own parser accepts."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from service.bundle.error import BundleCorruptError


def parse_json(where: object, text: bytes) -> Any:
    """Return the parsed text. where: the file, and the line if there are many, for the message.

    Raises BundleCorruptError unless the text is UTF-8 and valid JSON without NaN and infinity.
    """
    try:
        return _DECODER.decode(text.decode())
    except (ValueError, RecursionError) as exc:
        raise BundleCorruptError(f"{where}: not JSON: {exc}") from exc


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (number, parsed value) of each line of a file; the first line is number 1. Raises BundleCorruptError."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield number, parse_json(f"{path}:{number}", line)


def finite(value: Any) -> float:
    """Return value as a float. Raises ValueError if it is NaN or infinite, such as 1e999 in JSON."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is not finite")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)  # made once: json.loads would make one for every line
