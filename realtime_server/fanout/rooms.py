"""Rooms: the channels that have joined one topic with ``config``, and what is broadcast to them.

Public and private channels of a topic are in two rooms, which never hear each other.

All members of a room see its broadcasts in one order, that in which they were published here, and
so one sender's in the order sent. What is published within one turn of the event loop is written
together, with one write for each member, whatever rooms it is in: see
:class:`~realtime_server.fanout.dispatch.Dispatch`. Nobody waits for a slow client, whose outbox
cuts it off.

A broadcast is delivered once at most, to those who are members when it is written. It has no
ordinal, and no ping goes behind it: only changes are brought to clients that were away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

import attrs

from ..phoenix.binary import encode_binary
from ..phoenix.broadcasts import Broadcast, RoomName, broadcast_json
from ..phoenix.messages import BROADCAST
from ..phoenix.reasons import BroadcastReason
from ..phoenix.serializers import Serializer
from .audience import Audience
from .bus import Bus
from .dispatch import Dispatch, Members, Outbox
from .frames import BinaryFrame, Frame, TextFrame
from .room_holds import Hold
from .room_stats import RoomStats
from .turns import Steps

__all__ = ["MAX_WAITING_BYTES", "Done", "Later", "Member", "Rooms", "Writing", "frame_of"]

MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Bytes of events and payloads that may wait to be written, of all rooms together."""

Done: TypeAlias = Callable[[BroadcastReason | None], None]
"""Is told when broadcasts have been written to all members here, and why not to those of other
processes; None: they were handed on to these."""

Later = Callable[[float, Callable[[], None]], object]
"""Calls a function after so many seconds; 0: in the next turn of the event loop."""


@attrs.define(eq=False)
class Member:
    """A channel's membership of a room."""

    room: RoomName
    serializer: Serializer
    outbox: Outbox
    takes_bytes: bool
    """Whether it gets broadcasts whose payload is not JSON."""
    hears_itself: bool
    """Whether it gets its own broadcasts."""
    hears: bool = True
    """Whether it gets broadcasts at all: a private channel may be let in for presence alone."""
    replayed: Collection[bytes] = ()
    """The ``meta`` of messages that it has got from where they are stored, and that the stream may
    bring later: it gets none of them twice."""
    is_open: bool = attrs.field(default=False, init=False)
    """Whether it has joined, and not left."""


class _Group(Audience):
    """The members of a room that get the same bytes of its broadcasts."""

    __slots__ = ("before", "behind", "takes_bytes")

    def __init__(self, topic: str, serializer: Serializer, *, takes_bytes: bool) -> None:
        super().__init__()
        self.before, self.behind = serializer.envelope(topic, BROADCAST)
        self.takes_bytes = takes_bytes


class _Room:
    """The members of one room."""

    __slots__ = ("_deaf", "_groups", "_replayed", "_topic", "holds")

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._groups: dict[tuple[Serializer, bool], _Group] = {}
        # How many do not hear.
        self._deaf = 0
        # By meta, which members have got that message already.
        self._replayed: dict[bytes, set[Outbox]] = {}
        self.holds: set[Hold] = set()
        """Of the channels that are going to join."""

    def __len__(self) -> int:
        return self._deaf + len(self.holds) + sum(map(len, self._groups.values()))

    def add(self, member: Member) -> None:
        if not member.hears:
            self._deaf += 1
            return
        key = member.serializer, member.takes_bytes
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(
                member.room.topic, member.serializer, takes_bytes=member.takes_bytes
            )
        group.add(member)
        for meta in member.replayed:
            self._replayed.setdefault(meta, set()).add(member.outbox)

    def remove(self, member: Member) -> None:
        if not member.hears:
            self._deaf -= 1
            return
        key = member.serializer, member.takes_bytes
        group = self._groups[key]
        group.remove(member)
        if not len(group):
            del self._groups[key]
        for meta in member.replayed:
            outboxes = self._replayed.get(meta, set())
            outboxes.discard(member.outbox)
            if not outboxes:
                self._replayed.pop(meta, None)

    def frames(
        self, broadcast: Broadcast, left_out: Outbox | None = None
    ) -> Iterator[tuple[Members, Frame]]:
        """Yield a broadcast's frames, each with the members that get it, and hold it for others."""
        for hold in self.holds:
            if hold.outbox is not left_out:
                hold.add(broadcast)
        if broadcast.meta and (outboxes := self._replayed.pop(broadcast.meta, None)):
            for members, frame in self._frames(broadcast):
                others = {key: one for key, one in members.items() if key not in outboxes}
                yield Members(others), frame
        else:
            yield from self._frames(broadcast)

    def _frames(self, broadcast: Broadcast) -> Iterator[tuple[Members, Frame]]:
        frame: Frame
        if not broadcast.is_json:
            takers = [group for group in self._groups.values() if group.takes_bytes]
            if takers:
                event, payload, _, meta = broadcast
                frame = BinaryFrame(encode_binary(self._topic, event, payload, meta))
                for group in takers:
                    yield group.members, frame
            return
        payload = broadcast_json(broadcast)
        for group in self._groups.values():
            frame = TextFrame(b"".join((group.before, payload, group.behind)))
            yield group.members, frame


def frame_of(member: Member, broadcast: Broadcast) -> Frame:
    """Return a broadcast as one member gets it, which takes its payload."""
    if not broadcast.is_json:
        event, payload, _, meta = broadcast
        return BinaryFrame(encode_binary(member.room.topic, event, payload, meta))
    before, behind = member.serializer.envelope(member.room.topic, BROADCAST)
    return TextFrame(b"".join((before, broadcast_json(broadcast), behind)))


class _Published(NamedTuple):
    """A broadcast that waits to be written."""

    room: RoomName
    broadcast: Broadcast
    left_out: Outbox | None
    done: Done | None
    problem: BroadcastReason | None
    """What ``done`` is told."""


Writing: TypeAlias = Callable[[], Iterable[tuple[Members, Frame]]]
"""Makes frames when they are to be written, each with the members that get it."""


class Rooms:
    """All rooms of a server.

    Args:
        bus: the way to the other processes; it begins with this.
        later: calls a function later.
        clock: seconds of any clock that only goes forward, for giving way in time.
    """

    def __init__(self, bus: Bus, *, later: Later, clock: Callable[[], float]) -> None:
        self._bus = bus
        self._later = later
        self._clock = clock
        self._rooms: dict[RoomName, _Room] = {}
        self._members = 0
        # What waits to be written, in order.
        self._queue: deque[_Published | Writing] = deque()
        self._waiting_bytes = 0
        # What is being written; None while nothing is.
        self._steps: Steps | None = None
        # Whether what is published waits, as somebody else writes to the rooms.
        self._is_held = False
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

    def _room(self, name: RoomName) -> _Room:
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = _Room(name.topic)
            self._bus.subscribe(name)
        return room

    def _forget(self, name: RoomName, room: _Room) -> None:
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
        """Write broadcasts to the members of their rooms, in this order, in the next turn.

        Args:
            messages: rooms, each with what is broadcast there.
            sender: the member that sends them, which gets them only if it asked for that.
            done: called when they have been written to all members, here.

        Returns:
            Why they go to nobody; None if they are going to be written.
        """
        if not self._has_room(sum(broadcast.size for _, broadcast in messages)):
            return BroadcastReason.WAITING
        for name, broadcast in messages:
            if not self._bus.fits(name, broadcast):
                return BroadcastReason.TOO_LARGE_TO_CARRY
        left_out = None if sender is None or sender.hears_itself else sender.outbox
        last = len(messages) - 1
        problem: BroadcastReason | None = None
        for place, (name, broadcast) in enumerate(messages):
            self._count += 1
            problem = self._bus.publish(name, broadcast) or problem
            done_now = done if place == last else None
            self._add(_Published(name, broadcast, left_out, done_now, problem))
        return None

    def _take(self, name: RoomName, broadcast: Broadcast) -> bool:
        """Write what another process has broadcast, unless too much waits already."""
        if not self._has_room(broadcast.size):
            return False
        self._add(_Published(name, broadcast, None, None, None))
        return True

    def _has_room(self, size: int) -> bool:
        return not self._waiting_bytes or self._waiting_bytes + size <= MAX_WAITING_BYTES

    def _add(self, published: _Published) -> None:
        self._waiting_bytes += published.broadcast.size
        self._queue.append(published)
        self._begin()

    def write(self, writing: Writing) -> None:
        """Write what a function returns when its turn comes, in one order with all broadcasts."""
        self._queue.append(writing)
        self._begin()

    def frames(self, name: RoomName, broadcast: Broadcast) -> Iterator[tuple[Members, Frame]]:
        """Yield a broadcast's frames, each with the members of the room that get it.

        To write them without disorder is up to the caller, see :meth:`holding`.
        """
        room = self._rooms.get(name)
        if room is not None:
            yield from room.frames(broadcast)

    def holding(self) -> Steps:
        """Write what is being written, and nothing more until :meth:`release`: the caller writes to
        rooms meanwhile."""
        self._is_held = True
        while self._steps is not None:
            # The event loop may have no turn in between: see run_steps().
            self._step()
            yield 0.0

    def release(self) -> None:
        """Write what was published meanwhile."""
        self._is_held = False
        self._begin()

    def _begin(self) -> None:
        if self._queue and self._steps is None and not self._is_held:
            self._steps = self._writing()
            self._later(0.0, self._go_on)

    def _go_on(self) -> None:
        # None: whoever holds the rooms has done it.
        seconds = None if self._steps is None else self._step()
        if seconds is not None:
            self._later(seconds, self._go_on)

    def _step(self) -> float | None:
        """Go on with what is being written; return the pause behind it, None at the end."""
        assert self._steps is not None  # says the caller
        try:
            for seconds in self._steps:
                return seconds
        except BaseException:
            # What was to be written together is lost; what comes next is not.
            self._waiting_bytes = sum(
                item.broadcast.size for item in self._queue if isinstance(item, _Published)
            )
            self._steps = None
            if self._queue:
                self._begin()
            raise
        self._steps = None
        return None

    def _writing(self) -> Steps:
        """Write all that waits, in steps, until nothing is left, or somebody else has to write."""
        while self._queue and not self._is_held:
            dispatch = Dispatch(self._clock)
            published: list[_Published] = []
            # What comes meanwhile is written after that.
            for _ in range(len(self._queue)):
                item = self._queue.popleft()
                left_out = None
                frames: Iterable[tuple[Members, Frame]]
                if isinstance(item, _Published):
                    published.append(item)
                    left_out = item.left_out
                    room = self._rooms.get(item.room)
                    frames = () if room is None else room.frames(item.broadcast, left_out)
                else:
                    frames = item()
                for members, frame in frames:
                    dispatch.add(members, frame, left_out)
                if dispatch.is_due():
                    yield from dispatch.hand_out()
                    yield from dispatch.give_way()
            yield from dispatch.hand_out()
            for item in published:
                self._waiting_bytes -= item.broadcast.size
                if item.done is not None:
                    item.done(item.problem)
