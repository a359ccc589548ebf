"""RecordLimit: how large a change may be that is told whole (MAX_RECORD_BYTES)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Final

from realtime_core import Relation

from .groups import AnyDelivery

__all__ = ["RecordLimit"]

logger = logging.getLogger("realtime.hub")

_MESSAGE_BYTES: Final = 1024 * 1024
"""Of a message that every stock client takes: with one byte more, PyPI's ``realtime`` and npm's
``@supabase/realtime-js`` 1 close the connection (code 1009)."""
_MOST_AROUND: Final = 32 * 1024
"""Bytes that come to a rendered change in a message, at most: a topic, each of its characters
escaped, and the ids of bindings."""
_MOST_TABLES: Final = 1000
"""Of which it is known that their changes have been too large."""


class RecordLimit:
    """Says what becomes of large changes, and counts those that are too large.

    Two things make one too large: its values, and the message with it, in which names and
    escapes come to them.

    Args:
        max_record_bytes: of the values as text.
    """

    def __init__(self, max_record_bytes: int) -> None:
        self.max_record_bytes = max_record_bytes
        self.max_message_bytes = max(max_record_bytes, _MESSAGE_BYTES)
        self.always_fits = min(max_record_bytes, self.max_message_bytes - _MOST_AROUND)
        """Bytes of a rendered change that cannot be too large: its values have less as text."""
        self.exceeded = 0
        """Changes that were told without their long values."""
        self._tables: set[str] = set()

    def was_exceeded_by(self, relation: Relation) -> bool:
        """Say whether a change of a table was too large before: more of them may be."""
        return str(relation) in self._tables

    def messages(self, deliveries: Iterable[AnyDelivery]) -> Iterator[tuple[AnyDelivery, bytes]]:
        """Yield each delivery of a change with its message, and render no large one whole.

        To render a hundred megabytes takes a second or more. To measure the values first costs a
        few percent of what a small change does, so that is for tables that have had a large one.
        """
        too_large: dict[tuple[int, frozenset[str] | None], bool] = {}
        for delivery in deliveries:
            payload, select = delivery.payload, delivery.select
            key = (id(payload), select)
            if key not in too_large:
                too_large[key] = payload.is_larger(self.max_record_bytes, select)
            if too_large[key]:
                yield delivery, self._short(delivery)
            else:
                yield delivery, self.message(delivery, delivery.render())

    def message(self, delivery: AnyDelivery, data: bytes) -> bytes:
        """Return a change as a message, without its long values if it is too large with them.

        One that is small as it is rendered need not be looked at.

        Args:
            delivery: of the change.
            data: all of it, rendered.
        """
        payload, most = delivery.payload, self.max_message_bytes
        if len(data) <= most and not payload.is_larger(self.max_record_bytes, delivery.select):
            message = delivery.message(data)
            if len(message) <= most:
                return message
        return self._short(delivery)

    def _short(self, delivery: AnyDelivery) -> bytes:
        if not delivery.payload.is_shortened:
            self.note(delivery.payload.plan.relation)
        return delivery.message(delivery.render_short())

    def note(self, relation: Relation) -> None:
        """Count a change that is told without its long values; log the first of each table."""
        self.exceeded += 1
        table = str(relation)
        if table in self._tables:
            return
        if len(self._tables) >= _MOST_TABLES:
            self._tables.clear()
        self._tables.add(table)
        logger.warning(
            "a change of %s is too large and is told without its long values "
            "(MAX_RECORD_BYTES is %d); further ones of this table are only counted",
            table,
            self.max_record_bytes,
        )
