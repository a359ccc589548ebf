"""OwnProcess: the channels of this server process, as the journal tells others of them.

No I/O.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from .empty_stretches import EmptyStretches
from .places import BEFORE, Place
from .process import Process
from .records import Joined

__all__ = ["OwnProcess"]


@attrs.define
class OwnProcess(Process):
    """This process, and what others are told of its channels."""

    most: int = 0
    """How many channels others are told of, at most."""
    # How many channels are joined, and have no place of their own.
    _joined: int = 0
    # The places of the channels that are joined, and have places of their own.
    _open: dict[int, Place] = attrs.field(factory=dict)
    # The channels whose clients are away, and have to be told of a gap; the oldest first.
    _lost: dict[int, None] = attrs.field(factory=dict)

    def tell(self, channel: Joined) -> bool:
        """Add a channel, or replace it; return whether there is room for it."""
        self.forget(channel.number)
        if len(self.channels) >= self.most:
            return False
        self.channels[channel.number] = channel
        self._joined += channel.since is None
        if channel.is_open and channel.lost is None:
            self._open[channel.number] = channel.place
        elif channel.lost is not None and not channel.is_open:
            self._lost[channel.number] = None
        return True

    def forget(self, number: int) -> bool:
        """Forget a channel; return whether others were told of it."""
        channel = self.channels.pop(number, None)
        if channel is None:
            return False
        self._joined -= channel.since is None
        self._open.pop(number, None)
        self._lost.pop(number, None)
        return True

    def forget_lost(self, before: float) -> None:
        """Forget the channels whose clients have been away for too long to be told of a gap.

        Args:
            before: the time since which a client may have been away, in seconds since 1970.
        """
        while self._lost:
            oldest = next(iter(self._lost))
            if (self.channels[oldest].since or 0.0) >= before:
                return
            self.forget(oldest)

    def begin_anew(self, empty: EmptyStretches) -> None:
        """Forget all places, which belong to a former stream, and the channels that have one of
        their own.

        Args:
            empty: where the present stream has nothing.
        """
        self.channels = {number: one for number, one in self.channels.items() if one.since is None}
        self.low, self.empty = BEFORE, empty
        self._open.clear()
        self._lost.clear()

    @property
    def is_first_joined(self) -> bool:
        """Whether just one channel is joined, and has no place of its own."""
        return self._joined == 1

    def told_low(self) -> Place | None:
        """Return the place from which others take the joined channels to go on that have no place
        of their own; None: there are none."""
        return self.low if self._joined else None

    def told_open(self) -> Iterator[Place]:
        """Yield the places of joined channels that have places of their own. Others may run in
        between."""
        return iter([*self._open.values()])
