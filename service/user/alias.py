"""What stands in the log in the place of a user's id: a keyed hash, which tells nobody without the key who it was.

Who has the key finds a user's lines, until the key is replaced. So an erased user's lines name nobody once the key is
gone.
"""

import hashlib
import os
import secrets
from pathlib import Path

from service.private_directory import open_private

_KEY_FILE = "log.key"
_KEY_BYTES = 32
_ALIAS_BYTES = 8


class Aliases:
    """The aliases that one key gives to users."""

    def __init__(self, key: bytes) -> None:
        """key: any bytes; no two keys give the same aliases."""
        own = hashlib.blake2b(key, digest_size=_KEY_BYTES).digest()
        self._start = hashlib.blake2b(digest_size=_ALIAS_BYTES, key=own)

    def of(self, user_id: str) -> str:
        """Return a user's alias, 16 hex digits."""
        hashed = self._start.copy()
        hashed.update(user_id.encode())
        return hashed.hexdigest()


class UserNames:
    """How the log names users."""

    def __init__(self, form: str, aliases: Aliases) -> None:
        """form: alias, id, or none for not at all."""
        self._form, self._aliases = form, aliases

    def in_log(self, user_id: str) -> dict[str, str]:
        """Return the fields of a line that name a user."""
        if self._form == "alias":
            return {"user": self._aliases.of(user_id)}
        return {"user_id": user_id} if self._form == "id" else {}

    def to_find(self, user_id: str) -> str | None:
        """Return what to look for in the log to find a user's lines; None where no line names anybody."""
        return next(iter(self.in_log(user_id).values()), None)


def kept_key(data_dir: Path) -> bytes:
    """Return the key that is kept in a data directory, and make it there first if need be.

    Where that cannot be, the key is a new one, which is gone with this process.
    """
    path = data_dir / _KEY_FILE
    try:
        return _read(path) or _make(path)
    except OSError:
        return secrets.token_bytes(_KEY_BYTES)


def _read(path: Path) -> bytes | None:
    try:
        with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
            key = file.read(_KEY_BYTES + 1)
    except FileNotFoundError:
        return None
    return key if len(key) == _KEY_BYTES else None


def _make(path: Path) -> bytes:
    """Write a new key, unless another process comes first; return the one that is there then."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(open_private(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(secrets.token_bytes(_KEY_BYTES))
    try:
        path.hardlink_to(aside)
    except FileExistsError:
        if _read(path) is None:  # cut short: nobody has used it
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    key = _read(path)
    if key is None:
        raise OSError(f"{path}: cannot be written")
    return key
