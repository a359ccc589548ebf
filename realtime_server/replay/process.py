"""Process: the channels of one server process, as its records in the journal tell of them.

No I/O.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from itertools import chain

import attrs

from .empty_stretches import EmptyStretches
from .lost_reasons import LostReason
from .needed_places import NeededPlaces
from .places import BEFORE, Place
from .records import Entry, Joined, ProcessState

__all__ = ["Kind", "OtherChannel", "Process", "kind_of"]


@attrs.frozen
class OtherChannel:
    """A channel of another process, or of one that has ended."""

    server: bytes
    """The name of the channel's process."""
    number: int
    """The channel's number in that process."""
    key: bytes
    """The digest of the channel's key."""
    ref: int | None
    """The client's last known ref; None if it sends none."""
    place: Place
    """A place up to which the client has everything."""
    since: float | None
    """The time at which the client went away, in seconds since 1970; None if the channel is joined
    there, as far as is known."""
    is_open: bool = False
    """Whether the channel is joined there although ``since`` has a time."""
    lost: LostReason | None = None
    """Why the client has to be told of a gap when it comes back; None if it can go on."""
    is_anew: bool = False
    """Whether the channel began anew, and its client may not know that."""
    is_asked_about: bool = False
    """Whether its process was asked if the client is still there, and has not answered yet."""

    @property
    def may_be_there(self) -> bool:
        """Whether the client may be on a connection of that process."""
        return self.since is None or self.is_open


class Kind(enum.Enum):
    """The meaning of a channel's place."""

    AWAY = enum.auto()
    """The client is away, and has everything up to the place."""
    OPEN = enum.auto()
    """The client is there, and has everything up to the place."""
    JOINED = enum.auto()
    """The client is there, needs nothing before the place, and has everything up to its process's
    ``Low``."""
    LOST = enum.auto()
    """The client has to be told of a gap, so nothing is kept for it."""


def kind_of(channel: Joined) -> Kind:
    """Return the meaning of a channel's place."""
    if channel.lost is not None:
        return Kind.LOST
    if channel.since is None:
        return Kind.JOINED
    return Kind.OPEN if channel.is_open else Kind.AWAY


@attrs.define
class Process:
    """The channels of one process, as far as they are known."""

    slot: bytes
    empty: EmptyStretches = attrs.field(repr=False)
    """Where the stream has nothing, so that whoever has what is before it has all of it."""
    number: int = -1
    """The number of the last record that was taken."""
    time: float = 0.0
    """The time of that record."""
    low: Place = BEFORE
    """The place up to which all joined channels have everything."""
    channels: dict[int, Joined] = attrs.field(factory=dict)
    is_silent: bool = False
    """Whether the process has written nothing for long. It may be idle, or have ended."""
    has_ended: bool = False
    """Whether all of its channels are away, as it has written nothing for very long."""
    is_whole: bool = True
    """Whether nothing is missing of what it has told: all of its records were read, or everything
    that a snapshot has and all behind that."""
    asked: dict[int, bool] = attrs.field(factory=dict)
    """The channels whose clients may have come to other processes, which have asked this one; and
    whether a client has certainly come to the process that knows this."""
    # The channels' places, for each kind.
    _places: dict[Kind, NeededPlaces] = attrs.field(
        factory=lambda: {kind: NeededPlaces() for kind in Kind}, repr=False
    )

    def place_of(self, channel: Joined) -> Place:
        place = channel.place if channel.since is not None else max(channel.place, self.low)
        return self.empty.lifted(place)

    def other_channel(self, server: bytes, channel: Joined) -> OtherChannel:
        """Return a channel as it is known to other processes.

        Args:
            server: the name of this process.
            channel: one of its channels.
        """
        return OtherChannel(
            server,
            channel.number,
            channel.key,
            channel.ref,
            self.place_of(channel),
            channel.since,
            channel.is_open,
            channel.lost,
            channel.is_anew,
            channel.number in self.asked,
        )

    def put(self, channel: Joined) -> None:
        """Add a channel, or replace what is known of it."""
        former = self.channels.get(channel.number)
        if former is not None:
            self._places[kind_of(former)].remove(former.place)
        self.channels[channel.number] = channel
        self._places[kind_of(channel)].add(channel.place)

    def drop(self, number: int) -> None:
        """Forget a channel, which must be known."""
        channel = self.channels.pop(number)
        self.asked.pop(number, None)
        self._places[kind_of(channel)].remove(channel.place)

    def with_place(self, channel: Joined) -> Joined:
        """Return a channel with the place up to which it has everything so far, for which a later
        ``Low`` does not count."""
        if kind_of(channel) is not Kind.JOINED:
            return channel
        place = self.place_of(channel)
        return attrs.evolve(channel, place=place, since=self.time, is_open=True)

    @property
    def has_joined(self) -> bool:
        """Whether any channel is joined, as far as is known."""
        kinds = (Kind.JOINED, Kind.OPEN)
        return any(self._places[kind].lowest() is not None for kind in kinds)

    def lowest(self) -> Place | None:
        """Return the lowest place of the channels, or one below it if many have just gone; None if
        there are none that count."""
        places = [self._places[Kind.AWAY].lowest()]
        if not self.is_silent:
            joined = self._places[Kind.JOINED].lowest()
            places += (
                self._places[Kind.OPEN].lowest(),
                None if joined is None else max(joined, self.low),
            )
        lowest = min((place for place in places if place is not None), default=None)
        return None if lowest is None else self.empty.lifted(lowest)

    def tidying(self) -> Iterator[None]:
        """Give up what is kept of channels that have gone, in steps."""
        for places in self._places.values():
            yield from places.tidying()

    def snapshot(self, server: bytes) -> Iterable[Entry]:
        """Return everything that is known of the process, as entries of a record.

        Args:
            server: the process's name.
        """
        # Whoever knows more keeps that, and whoever knows nothing begins with this.
        number = self.number if self.is_whole else 0
        state = ProcessState(server, self.slot, number, self.time, self.low)
        return chain((state,), self.channels.values())
