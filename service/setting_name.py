"""Which RETORT_ names of an environment are settings, which are a Kubernetes Service's, and which are mistakes.

Kubernetes gives every container the addresses of the Services of its namespace. A Service whose name begins with
"retort" puts RETORT_PORT=tcp://10.0.0.1:8000, RETORT_SERVICE_HOST and the like beside the settings. Those are known by
their name and the form of their value, and are left out. Any other name that is not a setting is a mistake: in silence,
RETORT_API_KEY for RETORT_API_KEYS would leave the API open.
"""

import re
from collections.abc import Collection, Mapping
from difflib import SequenceMatcher

PREFIX = "RETORT_"
_PORT = r"PORT_\d+_(?:TCP|UDP|SCTP)"
_OF_KUBERNETES = [
    (re.compile(rf"{PREFIX}(?:\w+_)?{name}"), re.compile(value))
    for name, value in (
        (rf"(?:PORT|{_PORT})", r"(?:tcp|udp|sctp)://\S+"),
        (rf"(?:SERVICE_HOST|{_PORT}_ADDR)", r"[\w.:%-]+"),
        (rf"(?:SERVICE_PORT(?:_\w+)?|{_PORT}_PORT)", r"\d+"),
        (rf"{_PORT}_PROTO", r"tcp|udp|sctp"),
    )
]
_OF_TESTS = f"{PREFIX}REQUIRE_"
"""RETORT_REQUIRE_PROMETHEUS=1 and the like tell this project's tests that a tool must be there."""
_LIKE = 0.8


def is_of_kubernetes(name: str, value: str) -> bool:
    """Whether a variable has the name and the form of value that Kubernetes gives to the address of a Service."""
    return any(names.fullmatch(name.upper()) and values.fullmatch(value) for names, values in _OF_KUBERNETES)


def find_addresses(environment: Mapping[str, str]) -> list[str]:
    """Return the RETORT_ names that are a Kubernetes Service's, sorted."""
    return sorted(name for name, value in _ours(environment) if is_of_kubernetes(name, value))


def find_mistakes(environment: Mapping[str, str], known: Collection[str]) -> dict[str, str]:
    """Return the RETORT_ names that are neither settings nor Kubernetes', each with the nearest setting's name.

    known: the names of all settings, in capitals, with the prefix.
    """
    mistakes = {}
    for name, value in _ours(environment):
        if name.upper() in known or is_of_kubernetes(name, value):
            continue
        nearest = max(known, key=lambda other: _likeness(name, other))
        if not name.upper().startswith(_OF_TESTS) or _likeness(name, nearest, _OF_TESTS) >= _LIKE:
            mistakes[name] = nearest
    return mistakes


def _ours(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in environment.items() if name.upper().startswith(PREFIX)]


def _likeness(name: str, other: str, prefix: str = PREFIX) -> float:
    """Return how alike two names are, from 0 to 1, without the prefix that both have and without underscores."""
    if not other.startswith(prefix):
        return 0.0
    one, two = (text.upper().removeprefix(prefix).replace("_", "") for text in (name, other))
    return SequenceMatcher(None, one, two, autojunk=False).ratio()
