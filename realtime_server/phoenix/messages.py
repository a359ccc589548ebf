"""The one message of the Phoenix protocol, and its well-known names."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import attrs

__all__ = [
    "ACCESS_TOKEN",
    "CHANNEL_PREFIX",
    "CLOSE",
    "ERROR",
    "HEARTBEAT",
    "JOIN",
    "LEAVE",
    "PHOENIX",
    "REPLY",
    "SYSTEM",
    "Message",
    "Ref",
]

PHOENIX: Final = "phoenix"
"""Topic of heartbeats."""
HEARTBEAT: Final = "heartbeat"
JOIN: Final = "phx_join"
LEAVE: Final = "phx_leave"
REPLY: Final = "phx_reply"
CLOSE: Final = "phx_close"
ERROR: Final = "phx_error"
ACCESS_TOKEN: Final = "access_token"
SYSTEM: Final = "system"

CHANNEL_PREFIX: Final = "realtime:"
"""What every topic that can be joined begins with; the rest is the channel's name."""

Ref: TypeAlias = str | int | float | None
"""A client's reference. Stock clients send strings, numbers or null; it is echoed as it came."""


@attrs.frozen
class Message:
    """A message in either direction."""

    topic: str
    event: str
    payload: Any
    """Any JSON value."""
    ref: Ref = None
    join_ref: Ref = None
    """``ref`` of the join that made the channel; V2 only."""

    def reply(self, status: str, response: dict[str, Any]) -> Message:
        """Answer this message."""
        payload = {"status": status, "response": response}
        return Message(self.topic, REPLY, payload, self.ref, self.join_ref)
