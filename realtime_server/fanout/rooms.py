"""Rooms: all that are of a server, and what is broadcast in them.

Public and private channels of a topic are in two rooms, which never hear each other.

All members of a room see its broadcasts in one order, and so one sender's in the order sent. In
which one rooms, and senders, have their turns is said in :mod:`.room_turns`. Nobody waits for a
slow client, whose outbox cuts it off.

A broadcast is delivered once at most, to those who are members when it is written. It has no
ordinal, and no ping goes behind it: only changes are brought to clients that were away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from ..phoenix.broadcasts import Broadcast, RoomName
from ..phoenix.reasons import BroadcastReason
from .bus import Bus
from .dispatch import Members, Outbox
from .frames import Frame
from .room import Member, Room
from .room_holds import Hold
from .room_stats import RoomStats
from .room_turns import Done, Later, Published, RoomTurns, Writing
from .turns import Steps

__all__ = ["Rooms"]

_NOBODY: Final = "nobody here"
"""The sender of all that is published by no member."""


class _Batch:
    """Broadcasts of which somebody is told when the last one has been written."""

    def __init__(self, count: int, done: Done) -> None:
        self._left = count
        self._done = done
        self._problem: BroadcastReason | None = None

    def one_done(self, problem: BroadcastReason | None) -> None:
        self._left -= 1
        self._problem = self._problem or problem
        if not self._left:
            self._done(self._problem)


class Rooms:
    """All rooms of a server.

    Args:
        bus: the way to the other processes; it begins with this.
        later: calls a function later.
        clock: seconds of any clock that only goes forward, for giving way in time.
    """

    def __init__(self, bus: Bus, *, later: Later, clock: Callable[[], float]) -> None:
        self._bus = bus
        self._rooms: dict[RoomName, Room] = {}
        self._members = 0
        # Puts what is written in order.
        self._turns = RoomTurns(self._frames_of, later=later, clock=clock)
        self._count = 0
        bus.begin(self._take)

    def stats(self) -> RoomStats:
        """Return the counts, as they are now."""
        return RoomStats(len(self._rooms), self._members, self._count)

    def size(self, name: RoomName) -> int:
        """Return how many members a room has."""
        room = self._rooms.get(name)
        return 0 if room is None else len(room)

    def join(self, member: Member) -> None:
        """Send a member what is broadcast in its room from now on, if it hears."""
        room = self._room(member.room)
        member.room = room.name
        member.is_open = True
        room.add(member)
        self._members += 1

    def hold(self, name: RoomName, outbox: Outbox) -> Hold:
        """Hold what is broadcast in a room for a channel that is going to join it.

        Call :meth:`.Hold.drop` when it has joined, or does not.
        """
        room = self._room(name)

        def drop(hold: Hold) -> None:
            if hold in room.holds:
                room.holds.remove(hold)
                self._forget(name, room)

        hold = Hold(outbox, drop)
        room.holds.add(hold)
        return hold

    def _room(self, name: RoomName) -> Room:
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(name)
            self._bus.subscribe(name)
        return room

    def _forget(self, name: RoomName, room: Room) -> None:
        """Keep nothing of a room that nobody is in."""
        if not len(room):
            del self._rooms[name]
            self._bus.unsubscribe(name)

    def hear(self, member: Member) -> None:
        """Have a member hear that did not. One that has not joined, or has left, is ignored."""
        if member.is_open and not member.hears:
            room = self._rooms[member.room]
            room.remove(member)
            member.hears = True
            room.add(member)

    def leave(self, member: Member) -> None:
        """Send a member nothing more. One that has not joined, or has left, is ignored."""
        if not member.is_open:
            return
        member.is_open = False
        room = self._rooms[member.room]
        room.remove(member)
        self._members -= 1
        self._forget(member.room, room)

    def publish(
        self,
        messages: Sequence[tuple[RoomName, Broadcast]],
        sender: Member | None = None,
        done: Done | None = None,
    ) -> BroadcastReason | None:
        """Write broadcasts to the members of their rooms, those of one room in this order, when
        these have their turns.

        Args:
            messages: rooms, each with what is broadcast there.
            sender: the member that sends them, which gets them only if it asked for that.
            done: called when they have been written to all members, here.

        Returns:
            Why they go to nobody; None if they are going to be written.
        """
        who: object = _NOBODY if sender is None else sender.outbox
        left_out = None if sender is None or sender.hears_itself else sender.outbox
        if len(messages) == 1:
            [(name, broadcast)] = messages
            size, count = broadcast.size, self.size(name)
            if not self._turns.has_room_for(who, size, name, count):
                return BroadcastReason.WAITING
            if not self._bus.fits(name, broadcast):
                return BroadcastReason.TOO_LARGE_TO_CARRY
            self._put(Published(who, name, broadcast, size, count, left_out, done, None))
            return None
        bytes_of = [broadcast.size for _, broadcast in messages]
        sizes = [self.size(name) for name, _ in messages]
        deliveries: dict[RoomName, int] = {}
        for (name, _), count in zip(messages, sizes, strict=True):
            deliveries[name] = deliveries.get(name, 0) + count
        if not self._turns.has_room(who, sum(bytes_of), deliveries):
            return BroadcastReason.WAITING
        for name, broadcast in messages:
            if not self._bus.fits(name, broadcast):
                return BroadcastReason.TOO_LARGE_TO_CARRY
        if done is not None:
            done = _Batch(len(messages), done).one_done
        for (name, broadcast), size, count in zip(messages, bytes_of, sizes, strict=True):
            self._put(Published(who, name, broadcast, size, count, left_out, done, None))
        return None

    def _put(self, published: Published) -> None:
        self._count += 1
        published.problem = self._bus.publish(published.room, published.broadcast)
        self._turns.publish(published)

    def _take(self, node: bytes, name: RoomName, broadcast: Broadcast) -> bool:
        """Write what another process has broadcast, unless too much of its waits already."""
        size, count = broadcast.size, self.size(name)
        if not self._turns.has_room_for(node, size, name, count):
            return False
        self._turns.publish(Published(node, name, broadcast, size, count, None, None, None))
        return True

    def write(self, name: RoomName, writing: Writing) -> None:
        """Write what a function returns when a room has its turn, in one order with all of its
        broadcasts."""
        self._turns.write(name, writing)

    def frames(self, name: RoomName, broadcast: Broadcast) -> Iterator[tuple[Members, Frame]]:
        """Yield a broadcast's frames, each with the members of the room that get it.

        To write them without disorder is up to the caller, see :meth:`holding`.
        """
        room = self._rooms.get(name)
        if room is not None:
            yield from room.frames(broadcast)

    def holding(self, name: RoomName) -> Steps:
        """Write what is being written to a room, and nothing more until :meth:`release`: the caller
        writes to it meanwhile."""
        return self._turns.holding(name)

    def release(self, name: RoomName) -> None:
        """Write what was published in a room meanwhile."""
        self._turns.release(name)

    def _frames_of(self, item: Published) -> Iterable[tuple[Members, Frame]]:
        room = self._rooms.get(item.room)
        return () if room is None else room.frames(item.broadcast, item.left_out)
