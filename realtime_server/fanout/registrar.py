"""Registrar: the interface of the two modes, STREAM and RLS, to joins, new tokens and leaves.

Both modes check a join against the database: its table, or a column of a filter, may not exist. In
RLS mode the database decides who may see which rows, so each channel has a row in its table
``realtime.subscription``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

from ..auth.grant import Grant
from ..errors import RefusedError
from ..phoenix.joins import Binding
from .topic_parser import Topic

__all__ = ["Registered", "Registrar"]


class Registered(Protocol):
    """A registered channel."""

    @property
    def viewer(self) -> Hashable:
        """The role and claims that rows are checked for; None: everybody sees them."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Notices for the channel's client about its bindings, for when they are in place."""
        ...


class Registrar(Protocol):
    """What a mode implements: it is called when a channel joins, gets a new token, and ends."""

    async def register(
        self, topic: Topic, bindings: tuple[Binding, ...] | None, grant: Grant
    ) -> Registered:
        """Check a join, and register its channel, before the join is answered.

        Args:
            topic: the topic that the client joins.
            bindings: of a join with ``config``; None: the topic itself says what it asks for.
            grant: what its token allows.

        Raises:
            RefusedError: if the channel cannot get the changes that the join asks for.
        """
        ...

    def watch(self, registered: Registered, tell: Callable[[RefusedError], None]) -> None:
        """Report later if a joined channel turns out to get no changes, such as of a missing table.

        Args:
            registered: the channel, whose join was answered.
            tell: called with the reason, at once if it is known already.
        """
        ...

    async def renew(self, registered: Registered, grant: Grant) -> Hashable:
        """Register a channel again, after its client has sent a new token.

        Args:
            registered: the channel.
            grant: what the new token allows.

        Returns:
            The viewer that rows are checked for from now on.

        Raises:
            RefusedError: if the channel may not stay joined with the new token.
        """
        ...

    def remove(self, registered: Registered) -> None:
        """Remove a channel that has ended."""
        ...
