"""Ports for servers that must be told theirs."""

import secrets
import socket

_LEAST, _COUNT = 10_000, 20_000


def free_port() -> int:
    """Return a port that is free now, below those that the system hands out by itself.

    Among these, a connection or a server of another test would sometimes take it before its own server does.
    """
    while True:
        port = _LEAST + secrets.randbelow(_COUNT)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
