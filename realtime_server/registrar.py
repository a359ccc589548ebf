"""Registrar: who is told of joins, besides the hub.

Where the database decides who sees what, it has to know who listens, and a join can fail
there; where everybody sees everything, nobody needs to know.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

import attrs

from .grants import Grant
from .phoenix.joins import Binding
from .topics import Topic

__all__ = ["Nobody", "Registered", "Registrar"]


class Registered(Protocol):
    """A channel that was registered."""

    @property
    def viewer(self) -> Hashable:
        """In whose eyes rows are looked at; None: everybody sees them."""
        ...


class Registrar(Protocol):
    """Is told of every channel from its join to its end."""

    async def register(
        self, topic: Topic, bindings: tuple[Binding, ...] | None, grant: Grant
    ) -> Registered:
        """Take a join, before it is answered.

        Raises:
            RefusedError: if it cannot be.
        """
        ...

    async def renew(self, registered: Registered, grant: Grant) -> Hashable:
        """Take another grant for a channel; return its viewer from now on.

        Raises:
            RefusedError: if the channel may not stay with it.
        """
        ...

    def remove(self, registered: Registered) -> None:
        """Take the end of a channel."""
        ...


@attrs.frozen
class _Unseen:
    viewer: None = None


class Nobody:
    """The registrar where everybody sees everything."""

    async def register(
        self, topic: Topic, bindings: tuple[Binding, ...] | None, grant: Grant
    ) -> Registered:
        return _Unseen()

    async def renew(self, registered: Registered, grant: Grant) -> Hashable:
        return None

    def remove(self, registered: Registered) -> None:
        return None
