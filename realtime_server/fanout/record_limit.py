"""RecordLimit: leaves long values out of changes that are larger than MAX_RECORD_BYTES."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Final

from realtime_core import Relation

from .groups import AnyDelivery

__all__ = ["RecordLimit"]

logger = logging.getLogger("realtime.hub")

_MESSAGE_BYTES: Final = 1024 * 1024
"""Size of the largest message that every stock client takes: with one byte more, PyPI's
``realtime`` and npm's ``@supabase/realtime-js`` 1 close the connection (code 1009)."""
_MOST_AROUND: Final = 32 * 1024
"""Bytes that a message has besides the rendered change, at most: a topic of which each character is
escaped, and the ids of bindings."""
_MOST_TABLES: Final = 1000
"""Tables that are remembered because a change of theirs was too large."""


class RecordLimit:
    """Makes messages of changes, and leaves the long values out of changes that are too large.

    A change is too large if its values are, or the whole message, which has names and escapes
    besides the values.

    Args:
        max_record_bytes: how many bytes the values may have as text.
    """

    def __init__(self, max_record_bytes: int) -> None:
        self.max_record_bytes = max_record_bytes
        """How many bytes a change's values may have as text."""
        self.max_message_bytes = max(max_record_bytes, _MESSAGE_BYTES)
        """How many bytes a message may have."""
        self.always_fits = min(max_record_bytes, self.max_message_bytes - _MOST_AROUND)
        """A change that has at most so many bytes when it is rendered cannot be too large."""
        self.exceeded = 0
        """How many changes were sent without their long values."""
        self._tables: set[str] = set()

    def was_exceeded_by(self, relation: Relation) -> bool:
        """Return whether the table has had a change that was too large."""
        return str(relation) in self._tables

    def messages(self, deliveries: Iterable[AnyDelivery]) -> Iterator[tuple[AnyDelivery, bytes]]:
        """Yield each delivery of a change with its message, without rendering a large change whole.

        To render a hundred megabytes takes a second or more. To measure the values first makes a
        small change take a few percent longer, so this is used only for tables that have had a
        large change.
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
        """Return a change as a message, without its long values if it is too large.

        Args:
            delivery: of the change.
            data: the whole change, rendered. Up to :attr:`always_fits` bytes of it need no check.
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
        """Count a change that is sent without its long values; log the first one of each table."""
        self.exceeded += 1
        table = str(relation)
        if table in self._tables:
            return
        if len(self._tables) >= _MOST_TABLES:
            self._tables.clear()
        self._tables.add(table)
        logger.warning(
            "a change of %s is too large and is sent without its long values "
            "(MAX_RECORD_BYTES is %d); further ones of this table are only counted",
            table,
            self.max_record_bytes,
        )
