"""The scenarios of a file, JSON or TOML: an object of name to fields, as PUT /scenarios/{name} takes them."""

import tomllib
from pathlib import Path
from typing import Any

import orjson

from service.errors import RequestError, StartError
from service.request.field import check_name
from service.request.scenario import parse_scenario
from service.scenario.shelf import MOST_BYTES, MOST_SCENARIOS


def read_scenarios(path: Path | None) -> dict[str, bytes]:
    """Return the scenarios of a file by name, each as JSON; none without a file. Raises StartError that names both."""
    if path is None:
        return {}
    found = _parse(path)
    if not isinstance(found, dict) or len(found) > MOST_SCENARIOS:
        raise StartError(f"{path}: not an object of up to {MOST_SCENARIOS:,} scenarios by name")
    scenarios = {}
    for name, fields in found.items():
        try:
            check_name(name.encode(errors="surrogatepass"))
            scenarios[name] = parse_scenario(orjson.dumps(fields)).dump()
        except RequestError as exc:
            raise StartError(f"{path}: scenario {name!r}: {exc.message}") from exc
        except TypeError as exc:  # a date of TOML's
            raise StartError(f"{path}: scenario {name!r}: {exc}") from exc
    return scenarios


def _parse(path: Path) -> Any:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise StartError(f"{path}: larger than {MOST_BYTES:,} bytes")
        text = path.read_bytes()
        return tomllib.loads(text.decode()) if path.suffix == ".toml" else orjson.loads(text)
    except (OSError, ValueError) as exc:  # of both parsers and of decoding
        raise StartError(f"{path}: {exc}") from exc
