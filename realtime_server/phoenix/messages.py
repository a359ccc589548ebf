"""Message: the message of the Phoenix protocol, and its well-known topics and events."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import attrs

__all__ = [
    "ACCESS_TOKEN",
    "BROADCAST",
    "CHANNEL_PREFIX",
    "CLOSE",
    "ERROR",
    "HEARTBEAT",
    "JOIN",
    "LEAVE",
    "PHOENIX",
    "POSTGRES_CHANGES",
    "PRESENCE",
    "PRESENCE_DIFF",
    "PRESENCE_STATE",
    "REF",
    "REF_BEFORE",
    "REPLY",
    "SYSTEM",
    "Message",
    "Ref",
    "notice",
    "number_of",
    "stream_established",
    "subscribed",
    "subscription_failed",
]

PHOENIX: Final = "phoenix"
"""The topic of heartbeats."""
HEARTBEAT: Final = "heartbeat"
JOIN: Final = "phx_join"
LEAVE: Final = "phx_leave"
REPLY: Final = "phx_reply"
CLOSE: Final = "phx_close"
ERROR: Final = "phx_error"
ACCESS_TOKEN: Final = "access_token"
BROADCAST: Final = "broadcast"
POSTGRES_CHANGES: Final = "postgres_changes"
PRESENCE: Final = "presence"
PRESENCE_DIFF: Final = "presence_diff"
PRESENCE_STATE: Final = "presence_state"
REF: Final = "phx_ref"
"""The member of a presence's metadata that names this version of it."""
REF_BEFORE: Final = "phx_ref_prev"
"""The member that names the version before it."""
SYSTEM: Final = "system"

CHANNEL_PREFIX: Final = "realtime:"
"""The beginning of every topic that can be joined; the rest is the channel's name."""

Ref: TypeAlias = str | int | float | None
"""A reference that a client puts into a message, and that its reply repeats as it came. Stock
clients send strings, numbers or null."""


_MOST_DIGITS: Final = 15
"""Digits of a ref that counts as a number."""


def number_of(ref: Ref) -> int | None:
    """Return a ref as a number, since stock clients count their messages; None if it is none."""
    if isinstance(ref, str):
        is_number = len(ref) <= _MOST_DIGITS and ref.isdigit() and ref.isascii()
        return int(ref) if is_number else None
    return ref if isinstance(ref, int) and 0 <= ref < 10**_MOST_DIGITS else None


# Not frozen, which would take three times as long: one is made of each push.
@attrs.define
class Message:
    """A message of the client or of the server."""

    topic: str
    event: str
    payload: Any
    """Any JSON value; of a broadcast that was read with its frame, a
    :class:`~.broadcasts.Broadcast`, and of a binary frame what :mod:`.binary` makes of it."""
    ref: Ref = None
    join_ref: Ref = None
    """The ``ref`` of the join that made the channel. With ``vsn=1.0.0`` not all clients send it,
    and the server sends none."""

    def reply(self, status: str, response: dict[str, Any]) -> Message:
        """Return the reply to this message."""
        payload = {"status": status, "response": response}
        return Message(self.topic, REPLY, payload, self.ref, self.join_ref)


def subscribed(channel: str) -> dict[str, Any]:
    """Return the ``system`` payload that tells a channel that its bindings are in place."""
    return _system(channel, "ok", "Subscribed to PostgreSQL")


def notice(channel: str, note: str) -> dict[str, Any]:
    """Return the ``system`` payload with a remark about bindings that are in place.

    Its status is not "error", at which clients would join again.
    """
    return _system(channel, "ok", note)


def subscription_failed(channel: str, reason: str) -> dict[str, Any]:
    """Return the ``system`` payload that tells a channel that it gets no changes, and why."""
    return _system(channel, "error", reason)


def stream_established(channel: str) -> dict[str, Any]:
    """Return the ``system`` payload that tells a channel that the database's changes are read."""
    told = _system(channel, "ok", "Replication connection established")
    return {**told, "extension": SYSTEM}


def _system(channel: str, status: str, message: str) -> dict[str, Any]:
    return {
        "channel": channel,
        "extension": POSTGRES_CHANGES,
        "status": status,
        "message": message,
    }
