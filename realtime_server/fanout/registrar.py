"""Registrar: who is told of joins, besides the hub: what is asked for may not be there.

Where the database decides who sees what, it has to know who listens, too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

from ..auth.grant import Grant
from ..errors import RefusedError
from ..phoenix.joins import Binding
from .topics import Topic

__all__ = ["Registered", "Registrar"]


class Registered(Protocol):
    """A channel that was registered."""

    @property
    def viewer(self) -> Hashable:
        """In whose eyes rows are looked at; None: everybody sees them."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What its client should know of its bindings once they are in place."""
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

    def watch(self, registered: Registered, tell: Callable[[RefusedError], None]) -> None:
        """Take what tells a channel, which is joined now, that nothing comes of what it asks for.

        It is called with the reason, at once if that is known.
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
