"""The options that may stand in RETORT_REDIS_URL, after the question mark; every other is refused.

redis-py takes many more there. Some would break what is built on it (decode_responses, protocol), others are decided
elsewhere (timeouts, retries, connections), and one that is misspelt would have no effect.
"""

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from redis.asyncio.connection import parse_ssl_verify_flags

from service.errors import StartError

_YES, _NO = frozenset({"1", "true", "yes", "on", "y", "t"}), frozenset({"0", "false", "no", "off", "n", "f"})
_DECIDED_HERE = frozenset({
    "socket_timeout", "socket_connect_timeout", "socket_read_size", "timeout", "max_connections", "retry",
    "retry_on_timeout", "retry_on_error", "health_check_interval", "protocol", "decode_responses", "encoding",
    "encoding_errors", "legacy_responses", "single_connection_client", "auto_close_connection_pool", "parser_class",
    "connection_class", "connection_pool", "driver_info", "lib_name", "lib_version", "credential_provider",
    "client_cache", "read_from_replicas", "dynamic_startup_nodes", "require_full_coverage", "command_packer",
    "cluster_error_retry_attempts", "min_other_sentinels", "check_connection", "event_dispatcher", "redis_connect_func",
})  # fmt: skip


def _is_yes(text: str) -> bool:
    if text.lower() not in _YES | _NO:
        raise ValueError("1 or 0")
    return text.lower() in _YES


def _readable(text: str) -> str:
    try:
        with Path(text).open("rb"):
            return text
    except OSError as exc:
        raise ValueError(f"the file cannot be read: {exc.strerror}") from exc


def _directory(text: str) -> str:
    if not Path(text).is_dir():
        raise ValueError("there is no such directory")
    return text


def _requirement(text: str) -> str:
    if text not in ("none", "optional", "required"):
        raise ValueError("none, optional or required")
    return text


def _tls_version(text: str) -> ssl.TLSVersion:
    """Read 1.2, TLSv1.2 or 771, the number that redis-py takes."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        name = version.name.lower().replace("_", ".")
        if text.lower() in (name, name.removeprefix("tlsv"), str(int(version))):
            return version
    raise ValueError("1.2 or 1.3")


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise ValueError("a number")
    return int(text)


Readers = Mapping[str, Callable[[str], Any]]
SINGLE: Readers = {
    "username": str, "password": str, "db": _number, "client_name": str, "socket_keepalive": _is_yes,
}  # fmt: skip
SENTINEL: Readers = {"sentinel_username": str, "sentinel_password": str}
TLS: Readers = {
    "ssl_cert_reqs": _requirement, "ssl_check_hostname": _is_yes, "ssl_ca_certs": _readable, "ssl_ca_path": _directory,
    "ssl_ca_data": str, "ssl_certfile": _readable, "ssl_keyfile": _readable, "ssl_password": str,
    "ssl_min_version": _tls_version, "ssl_ciphers": str, "ssl_include_verify_flags": parse_ssl_verify_flags,
    "ssl_exclude_verify_flags": parse_ssl_verify_flags,
}  # fmt: skip


def read_options(query: str, taken: Readers) -> dict[str, Any]:
    """Return the options of a URL's query. taken: those that this URL may have, and how each is read.

    Raises StartError, which names an option only if it is a known one: what looks like another may be a part of a
    password. Of several of one name the first counts.
    """
    options: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise StartError("RETORT_REDIS_URL: its options are not name=value, joined by &") from None
    for name, value in pairs:
        if name not in taken:
            raise StartError(f"RETORT_REDIS_URL: {_refusal(name)}; it takes {', '.join(sorted(taken)) or 'none'}")
        if name not in options:
            try:
                options[name] = taken[name](value)
            except ValueError as exc:
                raise StartError(f"RETORT_REDIS_URL: {name}: {exc}") from None
    return options


def _refusal(name: str) -> str:
    if name in TLS:
        return f"the option {name} needs rediss"
    if name in _DECIDED_HERE:
        return f"the option {name} is not taken: the service decides it"
    if name in SINGLE or name in SENTINEL:
        return f"the option {name} does not belong to this kind of address"
    return "it has an option that is not known"
