"""Which users an experiment takes: a share of them, by a salted hash, so that nobody needs to remember who is in.

Every process gives the same answer for the same user and salt, also after a restart. A user who is in at one share is
in at every larger one, and one who is out is out at every smaller one. A request without a user is never in.
"""

from hashlib import blake2b

_BYTES = 8
_WHOLE = 1 << (8 * _BYTES)


class Assignment:
    """The share of users that one experiment takes."""

    def __init__(self, salt: str, share: float) -> None:
        """salt: of the experiment, at most 64 bytes of UTF-8. share: percent of the users, 0 to 100."""
        self._salt = salt.encode()
        self._end = round(_WHOLE * share / 100)

    def takes(self, user_id: str | None) -> bool:
        """Return whether a user is in."""
        return user_id is not None and self._place(user_id) < self._end

    def _place(self, user_id: str) -> int:
        """Return where in 0 .. 2**64 - 1 a user lies, evenly and without regard to other salts."""
        digest = blake2b(user_id.encode(errors="surrogatepass"), key=self._salt, digest_size=_BYTES).digest()
        return int.from_bytes(digest, "big")
