"""The keys under which the store keeps what it knows of users.

    {namespace}:{user}:h    the history, see history
    {namespace}:{user}:e    the record: the cached embedding, see record
    {namespace}:events      the stream of accepted events of all users, see stream

The braces are a Cluster's hash tag: both keys of a user lie on one node.
"""

import re
from urllib.parse import quote

_SAFE_USER = re.compile(r"[A-Za-z0-9_.-]*")


def encode_user(user_id: str) -> str:
    """Return the user's part of a key: no two users share one, and no brace or colon is left in it."""
    return user_id if _SAFE_USER.fullmatch(user_id) else quote(user_id, safe="").replace("~", "%7E")


class UserKeys:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self.stream = f"{namespace}:events"

    def history(self, user_id: str) -> str:
        """Return the key of a user's history."""
        return f"{self._namespace}:{{{encode_user(user_id)}}}:h"

    def record(self, user_id: str) -> str:
        """Return the key of a user's record."""
        return f"{self._namespace}:{{{encode_user(user_id)}}}:e"
