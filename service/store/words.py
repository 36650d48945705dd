"""What servers say, made fit for a log: short, on one line, and without what must not stand there.

An error of the server is told in its own words, because its kind alone does not say what to do. A password or the
address that the URL holds is taken out, and so is what is in braces: the user of a key.
"""

import re
from collections.abc import Iterable
from ssl import SSLCertVerificationError, SSLError

MAX_WORDS = 200
_LOOKED_AT = 4 * MAX_WORDS
_ARGUMENTS = re.compile(r",? with args beginning with:.*|^Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
_USER = re.compile(r"\{[^{}]*\}")


def printable(text: str, most: int = MAX_WORDS) -> str:
    """Return the first characters of a text; those that are no letters or signs, as line ends, become escapes."""
    short = text[:most].strip()
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in short)[: 2 * most]


def words_of(exc: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return what an error says: the server's reply, or what the system said of the connection.

    secrets: texts that must not stand in it.
    """
    cause = _cause_of(exc)
    if isinstance(cause, SSLCertVerificationError):
        text = f"certificate verify failed: {cause.verify_message}"
    elif isinstance(cause, SSLError):
        text = f"TLS failed: {getattr(cause, 'reason', None) or 'no reason given'}"
    elif isinstance(cause, OSError):
        text = cause.strerror or ""
    else:
        text = _said(exc)
    text = text[:_LOOKED_AT]
    for secret in secrets:
        text = text.replace(secret, "***")
    return printable(_USER.sub("{...}", _ARGUMENTS.sub("", text)))


def _cause_of(exc: BaseException) -> BaseException:
    """Return the error of the system behind a client's error, if there is one."""
    seen: BaseException | None = exc
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return seen or exc


def _said(exc: BaseException) -> str:
    """Return the server's reply with its first word, which redis-py takes off."""
    code, text = getattr(exc, "status_code", None), str(exc)
    return f"{code} {text}" if isinstance(code, str) and not text.startswith(code) else text
