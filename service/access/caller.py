"""Who asks: the caller's address, also behind proxies, and whether the name it asks for is one of ours."""

import ipaddress
import re
from collections.abc import Sequence

from service.errors import RequestError
from service.wire.reply import RawHeaders

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Client = tuple[str, int] | None
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:]+))(?::\d+)?")
_MOST_KNOWN = 64
_PROBES = frozenset({"/livez", "/readyz"})


def parse_networks(text: str) -> list[Network]:
    """Return the networks of a comma-separated list of addresses and CIDR blocks. Raises ValueError."""
    return [ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip()]


class Proxies:
    """The proxies whose word is taken for the address of a caller."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = trusted

    def address_of(self, headers: RawHeaders, client: Client) -> str:
        """Return the caller's address: that of the connection, or what a trusted proxy says in X-Forwarded-For.

        The list is read from its end, past all trusted proxies; what stands before that anybody may have written.
        """
        address = client[0] if client else "-"
        if not self._trusted or not self._is_trusted(address):
            return address
        listed = b",".join(value for name, value in headers if name == b"x-forwarded-for").decode("latin-1")
        for part in reversed(listed.split(",")):
            said = part.strip()
            if not _is_address(said):
                return address
            address = said
            if not self._is_trusted(said):
                return address
        return address

    def _is_trusted(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._trusted)


class Hosts:
    """The names that this service answers to where no key tells friends from strangers.

    Without keys, a page in a browser on this machine could reach the service under a name of the page's own (DNS
    rebinding). Addresses cannot be rebound, so they are always ours.
    """

    def __init__(self, names: Sequence[str], *, is_on: bool) -> None:
        """names: further ones, beside localhost; `*` for any. is_on: whether they are looked at."""
        self._names = {name.lower() for name in names} | {"localhost"}
        self._is_on = is_on and "*" not in self._names
        self._known: set[bytes] = set()  # what was found to be ours, as it was sent

    def check(self, path: str, headers: RawHeaders) -> None:
        """Raises RequestError for a request that asks for a host which is not ours."""
        if not self._is_on or path in _PROBES:
            return
        sent = b""
        for name, value in headers:
            if name == b"host":
                sent = value
                break
        if sent not in self._known:
            self._look_at(sent)
            if len(self._known) < _MOST_KNOWN:
                self._known.add(sent)

    def _look_at(self, sent: bytes) -> None:
        host = sent.decode("latin-1").strip().lower()
        found = _HOST.fullmatch(host)
        name = "" if found is None else (found[1] or found[2]).removesuffix(".")
        if not (name in self._names or name.endswith(".localhost") or _is_address(name)):
            raise RequestError("wrong_host", "this host is not served; RETORT_ALLOWED_HOSTS lists those that are")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
