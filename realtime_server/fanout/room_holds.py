"""Hold: what is broadcast in a room while a channel that is going to join it reads what was stored.

So nothing is missed between what was stored and what comes from then on, and nothing comes twice:
a message that is both has the same ``meta``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from ..phoenix.broadcasts import Broadcast
from .dispatch import Outbox

__all__ = ["MAX_HELD_BYTES", "Hold"]

MAX_HELD_BYTES: Final = 1024 * 1024
"""Bytes of events and payloads that are held for one channel."""
_EACH: Final = 256
"""Bytes that one counts at least."""


class Hold:
    """What a channel is going to get that was broadcast before it joined.

    Args:
        outbox: the channel's; what it has sent itself is not held.
        drop: called when nothing is to be held any more.
    """

    __slots__ = ("_drop", "_size", "held", "outbox", "stored")

    def __init__(self, outbox: Outbox, drop: Callable[[Hold], None]) -> None:
        self.outbox = outbox
        self.held: list[Broadcast] = []
        """What was broadcast meanwhile, in order."""
        self.stored: list[Broadcast] = []
        """What was stored, oldest first."""
        self._size = 0
        self._drop = drop

    @property
    def is_full(self) -> bool:
        """Whether more was broadcast than is held."""
        return self._size > MAX_HELD_BYTES

    def add(self, broadcast: Broadcast) -> None:
        """Hold a broadcast, if there is room for it."""
        self._size += max(broadcast.size, _EACH)
        if self.is_full:
            self.held.clear()
        else:
            self.held.append(broadcast)

    def drop(self) -> None:
        """Hold nothing more."""
        self._drop(self)

    def metas(self) -> Collection[bytes]:
        """Return the ``meta`` of what was stored and has not come from the stream yet."""
        come = {broadcast.meta for broadcast in self.held}
        return {broadcast.meta for broadcast in self.stored} - come

    def broadcasts(self) -> list[Broadcast]:
        """Return all that the channel is to get: first what was stored, then the rest."""
        stored = {broadcast.meta for broadcast in self.stored}
        replayed = [one._replace(meta=one.meta[:-1] + b',"replayed":true}') for one in self.stored]
        return [*replayed, *(one for one in self.held if not one.meta or one.meta not in stored)]
