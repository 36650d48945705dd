"""Whether a request may come in at all: the host it asks for, its key and scope, its caller's rate.

Deny by default: where keys are set every path needs one, whether it exists or not, but the probes, /metrics (unless a
key is for it), the API's description and the page that shows it.
"""

from service.access.account import Account
from service.access.caller import Client, Hosts, Proxies
from service.access.key import OPEN_PATHS, Keys, given_key
from service.access.rate import Rates
from service.errors import RequestError
from service.wire.reply import RawHeaders

GUESSES_PER_S = 10.0
"""Wrong keys a second from one address that are told so; beyond, they are only told to wait."""


class Guard:
    """Checks requests by their heads."""

    def __init__(self, hosts: Hosts, keys: Keys, proxies: Proxies, rates: Rates, account: Account) -> None:
        """rates: of all requests of one caller."""
        self._hosts, self._keys, self._proxies, self._rates, self._account = hosts, keys, proxies, rates, account
        self._guesses = Rates(GUESSES_PER_S)

    def check(self, path: str, method: str, headers: RawHeaders, client: Client) -> bytes:
        """Return the caller, as limits and rates know it: its key, else its address. Raises RequestError."""
        self._hosts.check(path, headers)
        try:
            self._keys.check(path, method, headers)
        except RequestError as exc:
            if exc.code == "wrong_key" and self._guesses.is_over(self._address(headers, client)):
                raise self._over_rate() from exc
            raise
        if path in OPEN_PATHS:
            return b""
        key = given_key(headers) if self._keys.is_asked_for(path) else None  # without keys, anything could be made up
        caller = key or self._address(headers, client)
        if self._rates.is_on and self._rates.is_over(caller):
            raise self._over_rate()
        return caller

    def charge(self, caller: bytes, weight: float) -> None:
        """Count a request that turned out to be worth several."""
        self._rates.charge(caller, weight)

    def _address(self, headers: RawHeaders, client: Client) -> bytes:
        return self._proxies.address_of(headers, client).encode()

    def _over_rate(self) -> RequestError:
        self._account.shed("rate")
        return RequestError("rate_limited", "too many requests a second", headers={"Retry-After": "1"})
