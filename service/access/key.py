"""The keys that open the API, what each of them opens, and the paths that need none or the admin key.

RETORT_API_KEYS lists keys, each alone or with scopes before it: `recommend+events:KEY`. A key without scopes opens all
routes but those of the admin key, and those that change what everybody is shown: they need a key that names the scope.
"""

import hmac
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from service.errors import RequestError
from service.wire.reply import RawHeaders

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
ADMIN_PATHS = frozenset({"/model/activate", "/model/rollback", "/model/compare"})
SCOPES = ("recommend", "events", "users.read", "users.erase", "model", "metrics", "items", "scenarios")
NAMED_SCOPES = frozenset({"items", "scenarios"})
"""Only the admin key, and keys that name such a scope, open what needs it."""
LEAST_KEY = 16
"""The shortest key, in characters, that may stand between this service and more than this machine."""
_GROUPS = {"users": {"users.read", "users.erase"}, **{scope: {scope} for scope in SCOPES}}
_OF_PATH = {
    "/recommend": "recommend", "/recommend/batch": "recommend", "/similar": "recommend", "/page": "recommend",
    "/events": "events", "/model": "model", "/model/versions": "model", "/metrics": "metrics",
    "/metrics/hour": "metrics",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Key:
    """One key. scopes: what it opens; None for everything but the admin routes."""

    secret: bytes
    scopes: frozenset[str] | None = None

    def opens(self, scope: str | None) -> bool:
        """Whether the key opens what needs a scope; None: any key will do."""
        if self.scopes is None:
            return scope not in NAMED_SCOPES
        return scope is None or scope in self.scopes


def parse_key(text: str) -> Key:
    """Return the key of one entry: KEY, or SCOPE+SCOPE:KEY. What is no scope before a colon belongs to the key."""
    listed, colon, secret = text.partition(":")
    names = listed.split("+")
    if not colon or not secret or not set(names) <= set(_GROUPS):
        return Key(text.encode())
    return Key(secret.encode(), frozenset(scope for name in names for scope in _GROUPS[name]))


def scope_of(path: str, method: str) -> str | None:
    """Return the scope that a request needs; None where any key will do."""
    if path.startswith("/users/"):
        return "users.erase" if method == "DELETE" else "users.read"
    if path == "/items" or path.startswith("/items/"):
        is_read = method in ("GET", "HEAD") or (method == "POST" and path == "/items/search")
        return None if is_read else "items"
    if path == "/scenarios" or path.startswith("/scenarios/"):
        return None if method in ("GET", "HEAD") else "scenarios"
    return _OF_PATH.get(path)


class Keys:
    """The keys of one service; where none are set, everybody may do everything but what needs the admin key."""

    def __init__(self, keys: Sequence[Key], admin_key: str, open_paths: Collection[str] = ()) -> None:
        """open_paths: further ones that need no key, as those of the page."""
        self._keys, self._admin = keys, admin_key.encode()
        guards_metrics = any(key.scopes is not None and "metrics" in key.scopes for key in keys)
        self._keyless = _KEYLESS_PATHS.union(open_paths) - ({"/metrics"} if guards_metrics else set())

    @property
    def is_on(self) -> bool:
        """Whether there are keys at all."""
        return bool(self._keys or self._admin)

    def is_asked_for(self, path: str) -> bool:
        """Whether the path needs a key, so that the one given, once checked, is a known one."""
        return self.is_on and path not in self._keyless

    def check(self, path: str, method: str, headers: RawHeaders) -> None:
        """Raises RequestError unless the headers open the path. Compares every key, in constant time."""
        if path in ADMIN_PATHS and not self._admin:
            raise RequestError("admin_key_needed", "this path needs the admin key, and RETORT_ADMIN_KEY is not set")
        if path in self._keyless or not self.is_on:
            return
        given = given_key(headers)
        if given is None:
            raise RequestError(
                "no_key",
                "send a key: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
                headers={"WWW-Authenticate": "Bearer"},
            )
        is_admin = hmac.compare_digest(given, self._admin) and bool(self._admin)
        known = [key for key in self._keys if hmac.compare_digest(given, key.secret)]
        if not (is_admin or known):
            raise RequestError("wrong_key", "this key does not open this service")
        if is_admin:
            return
        if path in ADMIN_PATHS:
            raise RequestError("admin_key_needed", "this path needs the admin key")
        scope = scope_of(path, method)
        if not any(key.opens(scope) for key in known):
            raise RequestError("wrong_scope", f"this key is not for this; it lacks the scope {scope}")


def given_key(headers: RawHeaders) -> bytes | None:
    """Return the key that a request brings, from `Authorization: Bearer` or `X-API-Key`; None where it brings none."""
    given = dict(reversed(headers))  # of two alike the first counts
    scheme, _, token = given.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip()
    return given.get(b"x-api-key") or None
