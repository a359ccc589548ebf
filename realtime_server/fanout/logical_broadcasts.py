"""What messages of ``pg_logical_emit_message`` broadcast, and to which room.

Any role of the database may write such a message, and PostgreSQL does not say which one has. So it
goes to the public room of its topic alone, whatever it says.
"""

from __future__ import annotations

from typing import Any, Final

from ..phoenix.broadcasts import Broadcast, RoomName, is_name
from ..phoenix.json_text import check_json, members, start_of
from ..phoenix.messages import CHANNEL_PREFIX

__all__ = ["LOGICAL_PREFIX", "read_logical_broadcast"]

LOGICAL_PREFIX: Final = "realtime:broadcast"
"""The prefix of messages that are broadcast."""


def read_logical_broadcast(content: bytes) -> tuple[RoomName, Broadcast]:
    """Read the content of a message: an object with ``topic``, ``event``, ``payload`` and ``id``.

    The last two may be missing, and there may be no others.

    Raises:
        ValueError: if it is something else.
    """
    check_json(content)
    text = content.decode()
    at = start_of(text)
    if text[at] != "{":
        raise ValueError("it is no object")
    texts: dict[str, Any] = {}
    payload = "{}"
    meta = ""
    try:
        for name, value, begin, end in members(text, at):
            if name == "payload":
                payload = text[begin:end]
            elif name in ("topic", "event", "id") and is_name(value):
                texts[name] = value
                if name == "id":
                    meta = f'{{"id":{text[begin:end]}}}'
            else:
                raise ValueError("it has something that is not understood")
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if "topic" not in texts or "event" not in texts:
        raise ValueError("it lacks a topic or an event")
    room = RoomName(CHANNEL_PREFIX + texts["topic"])
    return room, Broadcast(texts["event"], payload.encode(), meta=meta.encode())
