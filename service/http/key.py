"""The keys that open the API, and the paths that need none or the admin key."""

import hmac
from collections.abc import Sequence

from service.errors import RequestError
from service.http.message import RawHeaders

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
DOCUMENT_PATHS = frozenset(
    {
        "/openapi.json", "/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css",
        "/docs/favicon-32x32.png",
    }
)  # fmt: skip
"""The API's description and the page that shows it. A browser that opens a page sends no key, and they say nothing of
any user: they need none, but unlike the open paths they are limited like every other."""
_KEYLESS_PATHS = OPEN_PATHS | DOCUMENT_PATHS
ADMIN_PATHS = frozenset({"/model/activate", "/model/rollback"})


class Keys:
    """The keys that open the API; none set: everybody may."""

    def __init__(self, keys: Sequence[str], admin_key: str) -> None:
        self._keys = [key.encode() for key in keys]
        self._admin = admin_key.encode()

    @property
    def is_on(self) -> bool:
        """Whether there are keys at all."""
        return bool(self._keys or self._admin)

    def is_asked_for(self, path: str) -> bool:
        """Whether the path needs a key, so that the one given, once checked, is a known one."""
        return self.is_on and path not in _KEYLESS_PATHS

    def check(self, path: str, headers: RawHeaders) -> None:
        """Raises RequestError unless the headers open the path. Compares every key, in constant time."""
        if path in ADMIN_PATHS and not self._admin:
            raise RequestError("admin_key_needed", "this path needs the admin key, and RETORT_ADMIN_KEY is not set")
        if path in _KEYLESS_PATHS or not self.is_on:
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
