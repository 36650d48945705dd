"""The keys that open the API, and the paths that need none or the admin key."""

import hmac
from collections.abc import Sequence

from service.errors import RequestError
from service.wire.reply import RawHeaders

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
ADMIN_PATHS = frozenset({"/model/activate", "/model/rollback"})


class Keys:
    """The keys that open the API; none set: everybody may."""

    def __init__(self, keys: Sequence[str], admin_key: str) -> None:
        self._keys = [key.encode() for key in keys]
        self._admin = admin_key.encode()

    @property
    def is_on(self) -> bool:
        """Whether a key is needed, so that the one given is a known one."""
        return bool(self._keys or self._admin)

    def check(self, path: str, headers: RawHeaders) -> None:
        """Raises RequestError unless the headers open the path. Compares every key, in constant time."""
        if path in ADMIN_PATHS and not self._admin:
            raise RequestError("admin_key_needed", "this path needs the admin key, and RETORT_ADMIN_KEY is not set")
        if path in OPEN_PATHS or not self.is_on:
            return
        given = given_key(headers)
        if given is None:
            raise RequestError(
                "no_key",
                "send a key: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
                headers={"WWW-Authenticate": "Bearer"},
            )
        is_admin = bool(self._admin) and hmac.compare_digest(given, self._admin)
        is_known = sum([hmac.compare_digest(given, key) for key in self._keys]) > 0
        if not (is_admin or is_known):
            raise RequestError("wrong_key", "this key does not open this service")
        if path in ADMIN_PATHS and not is_admin:
            raise RequestError("admin_key_needed", "this path needs the admin key")


def given_key(headers: RawHeaders) -> bytes | None:
    """Return the key that a request brings, from `Authorization: Bearer` or `X-API-Key`; None where it brings none."""
    given = dict(reversed(headers))  # of two alike the first counts
    scheme, _, token = given.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip()
    return given.get(b"x-api-key") or None
