"""The keys under which the store keeps what it knows of users.

    {namespace}:{user}:h    the history, see history
    {namespace}:{user}:x    the marks: events that hide items or undo events, see history
    {namespace}:{user}:n    the notes: which events that only go to the stream have come, see history
    {namespace}:{user}:t    the types of events in history and marks
    {namespace}:{user}:e    the record: the cached embedding, see record
    {namespace}:{user}:s    the ids of the user's entries in the stream, see entry_index
    {namespace}:events      the stream of accepted events of all users, see stream
    {namespace}:erasures    the erasures that every process hears of, see erasure

The braces are a Cluster's hash tag: all keys of a user lie on one node. So do the stream and what is noted of it, whose
keys have the stream's key as their tag; no encoded user has a colon, so no user shares it.
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
        self.account = f"{namespace}:{{{self.stream}}}:account"
        self.strays = f"{namespace}:{{{self.stream}}}:strays"
        self.trend = f"{namespace}:{{{self.stream}}}:trend"
        self.tally = f"{namespace}:{{{self.stream}}}:tally"
        self.tallied = f"{namespace}:{{{self.stream}}}:tallied"
        self.erasures = f"{namespace}:erasures"
        self.listeners = f"{namespace}:{{{self.erasures}}}:listeners"
        of_stream = (self.stream, self.account, self.strays, self.trend, self.tally, self.tallied)
        self.shared = (*of_stream, self.erasures, self.listeners)

    def history(self, user_id: str) -> str:
        """Return the key of a user's history."""
        return f"{self._namespace}:{{{encode_user(user_id)}}}:h"

    def looked_at(self, user_id: str) -> tuple[str, str, str]:
        """Return the keys of a user's history, record and marks, for each request: a user is encoded once."""
        own = f"{self._namespace}:{{{encode_user(user_id)}}}:"
        return own + "h", own + "e", own + "x"

    def marks(self, user_id: str) -> str:
        """Return the key of the events of a user that hide items or undo events."""
        return f"{self._namespace}:{{{encode_user(user_id)}}}:x"

    def notes(self, user_id: str) -> str:
        """Return the key that says which events have come of those of a user that only go to the stream."""
        return f"{self._namespace}:{{{encode_user(user_id)}}}:n"

    def types(self, user_id: str) -> str:
        """Return the key of the types of a user's events."""
        return f"{self._namespace}:{{{encode_user(user_id)}}}:t"

    def of_user(self, user_id: str) -> tuple[str, ...]:
        """Return all keys of a user but that of the entries, which is deleted with these."""
        keys = (self.history, self.marks, self.notes, self.types, self.record)
        return tuple(key(user_id) for key in keys)

    def record(self, user_id: str) -> str:
        """Return the key of a user's record."""
        return f"{self._namespace}:{{{encode_user(user_id)}}}:e"

    def entries(self, user_id: str) -> str:
        """Return the key of the ids of a user's entries in the stream."""
        return f"{self._namespace}:{{{encode_user(user_id)}}}:s"
