"""MessageRows: what the rows of ``realtime.messages`` say that is broadcast, and to which room.

A row is broadcast when it is inserted, if its ``extension`` is ``broadcast``, it has an ``event``,
it is said whether it is ``private``, and it has no ``skip_broadcast``. Its payload is sent as
PostgreSQL writes it, or its ``binary_payload`` as bytes; and beside it the row's id.

The row comes under the name of the table, or under that of a partition, as its publication says.
"""

from __future__ import annotations

import logging
import re
from typing import Final

import attrs

from realtime_core import Insert, Relation
from realtime_core.records import Field

from ..logs import LineLimit
from ..phoenix.binary import MAX_NAME_BYTES
from ..phoenix.broadcasts import Broadcast, RoomName
from ..phoenix.messages import BROADCAST, CHANNEL_PREFIX
from .allowed_topics import OWN_SCHEMA

__all__ = ["DatabaseBroadcastStats", "MessageRows", "has_messages"]

logger = logging.getLogger("realtime.messages")

_TABLE: Final = re.compile(r"messages(?:_\d{4}_\d\d_\d\d|_default)?")
_COLUMNS: Final = (
    *("topic", "extension", "event", "private", "skip_broadcast", "id", "payload"),
    "binary_payload",
)
_TRUE: Final = ("t", "true")
TOO_LARGE: Final = "too_large"
MALFORMED: Final = "malformed"
_LONG_NAMES: Final = "long_names"
_COLUMNS_MISSING: Final = "columns_missing"


@attrs.frozen
class DatabaseBroadcastStats:
    """What is counted of broadcasts from the database."""

    broadcasts: int = 0
    """Messages that were broadcast, whether anybody was in their room or not."""
    refused: tuple[tuple[str, int], ...] = ()
    """How many were not, by the reason."""


def has_messages(schema: str, table: str) -> bool:
    """Return whether a table is ``realtime.messages``, or one of its partitions."""
    return schema == OWN_SCHEMA and _TABLE.fullmatch(table) is not None


class MessageRows:
    """Reads rows of ``realtime.messages``, and counts them.

    Args:
        max_payload_bytes: of a payload (MAX_PAYLOAD_BYTES); what is larger is not broadcast.
    """

    def __init__(self, max_payload_bytes: int) -> None:
        self._max_payload_bytes = max_payload_bytes
        self._count = 0
        self._refused = dict.fromkeys((TOO_LARGE, _LONG_NAMES, _COLUMNS_MISSING, MALFORMED), 0)
        self._lines = LineLimit()
        # Where the columns are in the rows of the last relation; None if it lacks any.
        self._relation: Relation | None = None
        self._places: tuple[int, ...] | None = None

    def stats(self) -> DatabaseBroadcastStats:
        """Return the counts, as they are now."""
        return DatabaseBroadcastStats(self._count, tuple(self._refused.items()))

    def read(self, change: Insert) -> tuple[RoomName, Broadcast] | None:
        """Return what a row broadcasts, and to which room; None if it broadcasts nothing."""
        relation = change.relation
        if relation is not self._relation:
            self._relation = relation
            index = relation.shape.index
            self._places = None
            if all(name in index for name in _COLUMNS):
                self._places = tuple(index[name] for name in _COLUMNS)
        if self._places is None:
            self.refuse(_COLUMNS_MISSING)
            return None
        fields = change.record.fields
        topic, extension, event, private, skipped, id_, payload, data = map(
            _text, [fields[place] for place in self._places]
        )
        if extension != BROADCAST or event is None or private is None or topic is None:
            return None
        if skipped in _TRUE:
            return None
        # Two digits a byte, where it is bytes; else a byte a character at least.
        if self.is_too_large(len(payload or "") if data is None else len(data) // 2 - 1):
            return None
        name = f"{CHANNEL_PREFIX}{topic}"
        meta = b'{"id":"%b"}' % (id_ or "").encode()
        if data is not None:
            # bytea_output is hex.
            content, is_json = bytes.fromhex(data.removeprefix("\\x")), False
            if max(len(name.encode()), len(event.encode())) > MAX_NAME_BYTES:
                self.refuse(_LONG_NAMES)
                return None
        else:
            content, is_json = b"{}" if payload is None else payload.encode(), True
        broadcast = Broadcast(event, content, is_json, meta)
        return (RoomName(name, private in _TRUE), broadcast) if self.count(broadcast) else None

    def count(self, broadcast: Broadcast) -> bool:
        """Count what is to be broadcast; return whether it is small enough."""
        if self.is_too_large(broadcast.size):
            return False
        self._count += 1
        return True

    def is_too_large(self, size: int) -> bool:
        """Return whether so many bytes are too many to be broadcast, which is counted."""
        if size <= self._max_payload_bytes:
            return False
        self.refuse(TOO_LARGE)
        return True

    def refuse(self, reason: str) -> None:
        """Count what is not broadcast, and say so once in a while."""
        self._refused[reason] += 1
        others = self._lines.take()
        if others is not None:
            # Without the topic, which may say who talks to whom.
            logger.warning(
                "a message of the database is not broadcast (%s; %d more since the last such line)",
                reason,
                others,
            )


def _text(field: Field) -> str | None:
    return field if isinstance(field, str) else None
