"""A transport that closes gently: what its caller is still sending is read and dropped for a while.

A socket that is closed while bytes lie unread in it resets the connection, and the caller never sees the reply that
explains why (413, say). So the sending half is closed first, and the rest is drained, bounded in time and size.
"""

import asyncio
from typing import Any

LINGER_S = 5.0
LINGER_BYTES = 32 << 20
_READ_EVERY_S = 0.005


class LingeringTransport:
    """Wraps a connection's transport. begin_linger() makes the next close() wait for the caller."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.write = transport.write
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading
        self.get_extra_info, self.abort = transport.get_extra_info, transport.abort
        self.is_sending_expected = False
        """The caller has not sent its whole request, so closing waits for it."""
        self._is_lingering = False
        self._n_left = LINGER_BYTES
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_lingering(self) -> bool:
        """Whether what comes is only to be dropped."""
        return self._is_lingering

    def is_closing(self) -> bool:
        """Whether nothing may be written any more."""
        return self._is_lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close now, or after the rest of what the caller sends."""
        if not self.is_sending_expected or self._transport.is_closing() or not self._transport.can_write_eof():
            self._transport.close()
        elif not self._is_lingering:
            self._is_lingering = True
            self._transport.write_eof()
            self._transport.resume_reading()
            self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)

    def drop(self, data: bytes) -> None:
        """Take what came while lingering. What comes next is read a little later: nobody waits for it."""
        self._n_left -= len(data)
        if self._n_left < 0:
            self._transport.abort()
        else:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(_READ_EVERY_S, self._read_on)

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def ended(self) -> None:
        """Note that the connection is gone."""
        if self._timer is not None:
            self._timer.cancel()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
