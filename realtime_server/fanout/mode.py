"""Registrar: what a mode (STREAM or RLS) does with each channel, besides the hub.

Both modes check a join against the database's tables: the table, or a column of a filter, may not
exist. In RLS mode the database decides who sees what, so each channel is registered there.
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
    """The mode, which is told of every channel from its join to its end."""

    async def register(
        self, topic: Topic, bindings: tuple[Binding, ...] | None, grant: Grant
    ) -> Registered:
        """Register a channel, before its join is answered.

        Args:
            topic: that it joins.
            bindings: of a join with ``config``; None: the topic itself says what it asks for.
            grant: what its token allows.

        Raises:
            RefusedError: if it cannot get what it asks for.
        """
        ...

    def watch(self, registered: Registered, tell: Callable[[RefusedError], None]) -> None:
        """Have a channel, which is joined now, told if it turns out that it gets no changes.

        ``tell`` is called with the reason, at once if that is known already.
        """
        ...

    async def renew(self, registered: Registered, grant: Grant) -> Hashable:
        """Register a channel anew with the grant of another token; return its viewer from now on.

        Raises:
            RefusedError: if the channel may not stay with it.
        """
        ...

    def remove(self, registered: Registered) -> None:
        """Forget a channel: it has ended."""
        ...
