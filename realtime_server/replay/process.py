"""Process: the channels of one server process, as its records in the journal tell of them.

What their lowest place is, is asked often, and takes the same time however many there are. No I/O.
"""

from __future__ import annotations

import enum
from heapq import heapify, heappop, heappush
from typing import Final

import attrs

from .places import BEFORE, Place
from .records import Entry, Joined, ProcessState

__all__ = ["Kind", "OtherChannel", "Process", "kind_of"]

_SPARE: Final = 1000
"""Outdated items that a heap may have, besides as many as there are channels."""


@attrs.frozen
class OtherChannel:
    """A channel of another process, or of one that has ended."""

    server: bytes
    """The process."""
    number: int
    """The channel's number there."""
    key: bytes
    """Who it is for, and what it asks for."""
    ref: int | None
    """The client's last known ref; None if it sends none."""
    place: Place
    """Up to where it has everything: this is not above what the client has."""
    since: float | None
    """When it went away, in seconds since 1970; None: it is joined there, as far as is known."""
    is_open: bool = False
    """Whether it is joined there although ``since`` says something."""

    @property
    def may_be_there(self) -> bool:
        """Whether its client may be on a connection of its process."""
        return self.since is None or self.is_open


class Kind(enum.Enum):
    """What a channel's place says."""

    AWAY = enum.auto()
    """Up to there its client has everything that is away."""
    OPEN = enum.auto()
    """Likewise, of a client that is there."""
    JOINED = enum.auto()
    """From there on it has everything up to its process's ``Low``."""


def kind_of(channel: Joined) -> Kind:
    if channel.since is None:
        return Kind.JOINED
    return Kind.OPEN if channel.is_open else Kind.AWAY


@attrs.define
class Process:
    """The channels of one process, as far as they are known."""

    slot: bytes
    number: int = -1
    """The number of the last record that was taken."""
    time: float = 0.0
    """The time of that record."""
    low: Place = BEFORE
    channels: dict[int, Joined] = attrs.field(factory=dict)
    is_silent: bool = False
    """Whether it has written nothing for long. It may be idle, or have ended."""
    # The places of its channels, with their numbers, for each kind; some are outdated.
    _places: dict[Kind, list[tuple[Place, int]]] = attrs.field(
        factory=lambda: {kind: [] for kind in Kind}, repr=False
    )

    def place_of(self, channel: Joined) -> Place:
        return channel.place if channel.since is not None else max(channel.place, self.low)

    def put(self, channel: Joined) -> None:
        self.channels[channel.number] = channel
        kind = kind_of(channel)
        heap = self._places[kind]
        heappush(heap, (channel.place, channel.number))
        if len(heap) > 2 * len(self.channels) + _SPARE:
            heap[:] = [
                (one.place, one.number) for one in self.channels.values() if kind_of(one) is kind
            ]
            heapify(heap)

    def lowest(self) -> Place | None:
        """Return the lowest place of its channels; None if there are none that count."""
        places = [self._first(Kind.AWAY)]
        if not self.is_silent:
            joined = self._first(Kind.JOINED)
            places += self._first(Kind.OPEN), None if joined is None else max(joined, self.low)
        return min((place for place in places if place is not None), default=None)

    def _first(self, kind: Kind) -> Place | None:
        heap = self._places[kind]
        while heap:
            place, number = heap[0]
            channel = self.channels.get(number)
            if channel is not None and channel.place == place and kind_of(channel) is kind:
                return place
            heappop(heap)
        return None

    def snapshot(self, server: bytes) -> list[Entry]:
        """Return all that is known of it; ``server`` is its name."""
        state = ProcessState(server, self.slot, self.number, self.time, self.low)
        return [state, *self.channels.values()]

    def lift(self, handed: Place, place: Place) -> None:
        """Note that there is nothing between two places, see :meth:`.Journal.lift`."""
        if handed <= self.low < place:
            self.low = place
        for channel in list(self.channels.values()):
            if handed <= channel.place < place:
                self.put(attrs.evolve(channel, place=place))
