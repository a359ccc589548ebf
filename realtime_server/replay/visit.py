"""Visit: what replay knows of one connection: its client and its channels."""

from __future__ import annotations

from collections.abc import Callable

from ..fanout.groups import Subscription
from .cursors import ConnectionCursor
from .identity import Visitor
from .standing import Standing

__all__ = ["Visit"]


class Visit:
    """One connection.

    Args:
        visitor: who the connection's client is.
        cursor: what the connection's client is proven to have received.
        last_ref: returns the highest ref that the client has sent.
    """

    __slots__ = ("__weakref__", "_last_ref", "cursor", "messages", "standings", "visitor")

    def __init__(
        self, visitor: Visitor, cursor: ConnectionCursor, last_ref: Callable[[], int]
    ) -> None:
        self._last_ref = last_ref
        self.visitor = visitor
        """Who the connection's client is."""
        self.cursor = cursor
        """What the client is proven to have received."""
        self.messages = 0
        """How many messages have come from the client."""
        self.standings: dict[Subscription, Standing] = {}
        """The standings of the joined channels that have a key."""

    @property
    def last_ref(self) -> int:
        """The highest ref that the client has sent; 0 if it has sent none."""
        return self._last_ref()

    @property
    def has_answered(self) -> bool:
        """Whether the client has answered a ping."""
        return self.cursor.has_answered

    @property
    def heard(self) -> tuple[int, int]:
        """A value that changes whenever the client sends a message or proves a write."""
        return self.messages, self.cursor.proven
