"""Presence: who is present in the rooms, and the members that are told of it.

A member that asks for it, or tracks itself, gets its room's state, and from then on diffs. A room
is flushed (:mod:`.presence_state`) as soon as something changes, but not again before an interval
has passed, which is longer for large rooms. So a room's members get so many frames a second at
most, however many come, go, and change what they track; and each frame's payload is made once for
all of them. The flushes have one order with the room's broadcasts. Those of large rooms are made in
pieces before, so that nobody waits for them.

What a member tracked stays for one interval after it has left, and for two at most where others
leave meanwhile: they go together (:mod:`.departures`). If it is back by then, its key does not
vanish in between.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from itertools import count
from typing import Final, Protocol

import attrs

from ..phoenix.broadcasts import RoomName
from ..phoenix.messages import PRESENCE_DIFF, PRESENCE_STATE
from ..phoenix.reasons import PresenceReason
from ..phoenix.serializers import Serializer
from .audience import Audience
from .departures import Departures
from .dispatch import Members
from .frames import Frame, TextFrame
from .presence_state import PIECE, Entry, Node, PresenceState
from .room import Member
from .room_stats import PresenceStats
from .room_turns import Later
from .rooms import Rooms

__all__ = ["Others", "Presence", "PresenceLimits"]

_HERE: Final[Node] = ("", 0)
"""This server."""
_FRAMES_PER_SECOND: Final = 4000
"""How many frames a second a room's members get together, at most."""


class Others(Protocol):
    """The other servers that have members of the same rooms."""

    def begin(self, name: RoomName) -> None:
        """Note that a room has members here whom its presence concerns."""
        ...

    def end(self, name: RoomName) -> None:
        """Note that it has none any more, and what others told of it was forgotten."""
        ...

    def tell(self, name: RoomName, changes: Mapping[int, Entry | None]) -> None:
        """Tell the others what a flush changed of this server's own entries; None: gone."""
        ...


@attrs.frozen(kw_only=True)
class PresenceLimits:
    """How much there may be of presence in one room."""

    interval: float
    """Seconds from one flush to the next, at least."""
    members: int
    """Members that track themselves."""
    state_bytes: int
    """Bytes of the state."""


class _Audiences:
    """Those members of a room with one serializer that are told who is present."""

    __slots__ = ("diff", "seeing", "state", "waiting")

    def __init__(self, topic: str, serializer: Serializer) -> None:
        # What goes before and after the payload.
        self.diff = serializer.envelope(topic, PRESENCE_DIFF)
        self.state = serializer.envelope(topic, PRESENCE_STATE)
        self.seeing = Audience()
        self.waiting = Audience()

    def __len__(self) -> int:
        return len(self.seeing) + len(self.waiting)


class _Room:
    __slots__ = ("audiences", "departures", "is_flushing", "next_flush", "state", "tracked")

    def __init__(self) -> None:
        self.state = PresenceState(_HERE)
        self.audiences: dict[Serializer, _Audiences] = {}
        # The memberships of those who track themselves, and of those who have left.
        self.tracked: dict[Member, int] = {}
        self.departures = Departures()
        self.is_flushing = False
        """Whether a flush is going to come."""
        self.next_flush = 0.0
        """When it may come, at the earliest."""

    def __len__(self) -> int:
        return sum(map(len, self.audiences.values()))

    @property
    def is_waited_for(self) -> bool:
        """Whether there are members that have no state yet."""
        return any(len(audiences.waiting) for audiences in self.audiences.values())


class Presence:
    """Who is present in all rooms of a server.

    Args:
        rooms: of the server, whose order the flushes are in.
        limits: of each room.
        later: calls a function later.
        clock: seconds of any clock that only goes forward.
        new_ref: returns 16 characters that no other entry has, on any server, at any time.
    """

    def __init__(
        self,
        rooms: Rooms,
        limits: PresenceLimits,
        *,
        later: Later,
        clock: Callable[[], float],
        new_ref: Callable[[], str],
    ) -> None:
        self.limits = limits
        """The limits of each room."""
        self.others: Others | None = None
        """The other servers; None if there are none."""
        self._all_rooms = rooms
        self._later = later
        self._clock = clock
        self._new_ref = new_ref
        self._rooms: dict[RoomName, _Room] = {}
        self._memberships = count()
        self._tracked = 0
        self._flushes = 0
        self._rendered = 0

    def stats(self) -> PresenceStats:
        """Return the counts, as they are now."""
        return PresenceStats(self._tracked, self._flushes, self._rendered)

    def watch(self, member: Member) -> None:
        """Send a member its room's state, and then diffs. One that gets them already is ignored."""
        room = self._room(member.room)
        audiences = room.audiences.get(member.serializer)
        if audiences is None:
            audiences = _Audiences(member.room.topic, member.serializer)
            room.audiences[member.serializer] = audiences
        if member not in audiences.seeing and member not in audiences.waiting:
            audiences.waiting.add(member)
            self._flush_soon(member.room, room)

    def track(
        self, member: Member, key: bytes, meta: bytes, *, sees: bool = True
    ) -> PresenceReason | None:
        """Show a member to its room, or show something else of it.

        Args:
            member: of a room.
            key: as JSON; always the same for the same member.
            meta: a JSON object without refs.
            sees: whether it is told who is present.

        Returns:
            Why it is not shown; None if it is.
        """
        room = self._room(member.room)
        state = room.state
        membership = room.tracked.get(member)
        former = None if membership is None else state.get(membership)
        if former is None or former.meta != meta:
            # Who is back is not there twice.
            for departed in room.departures.back(key):
                state.put(departed, None)
            entry = Entry(key, meta, self._new_ref())
            size = state.size - (0 if former is None else former.size) + entry.size
            why = None
            if former is None and state.members >= self.limits.members:
                why = PresenceReason.MEMBERS
            elif size > self.limits.state_bytes:
                why = PresenceReason.STATE
            else:
                if membership is None:
                    membership = room.tracked[member] = next(self._memberships)
                    self._tracked += 1
                state.put(membership, entry)
            self._flush_soon(member.room, room)
            if why is not None:
                return why
        if sees:
            self.watch(member)
        return None

    def untrack(self, member: Member) -> None:
        """Show a member no more; it is still told of others."""
        room = self._rooms.get(member.room)
        membership = None if room is None else room.tracked.pop(member, None)
        if room is not None and membership is not None:
            self._tracked -= 1
            room.state.put(membership, None)
            self._flush_soon(member.room, room)

    def leave(self, member: Member) -> None:
        """End a member's part in its room's presence, if it has any."""
        room = self._rooms.get(member.room)
        if room is None:
            return
        audiences = room.audiences.get(member.serializer)
        if audiences is not None:
            audiences.seeing.remove(member)
            audiences.waiting.remove(member)
            if not audiences:
                del room.audiences[member.serializer]
        membership = room.tracked.pop(member, None)
        entry = None if membership is None else room.state.get(membership)
        if membership is None or entry is None:
            self._forget(member.room, room)
            return
        self._tracked -= 1
        until = self._clock() + self.limits.interval
        if room.departures.add(until, entry.key, membership):
            self._later(self.limits.interval, partial(self._depart, member.room, room))

    def _depart(self, name: RoomName, room: _Room) -> None:
        """Have those go who have left, as soon as all of them may."""
        until = room.departures.last()
        if until is None:
            return
        let_go = partial(self._let_go, name, room, until)
        within = until - self._clock()
        if within > 0:
            self._later(within, let_go)
        else:
            let_go()

    def _let_go(self, name: RoomName, room: _Room, until: float) -> None:
        for membership in room.departures.take(until):
            room.state.put(membership, None)
        self._flush_soon(name, room)
        first = room.departures.first()
        if first is not None:
            self._later(max(first - self._clock(), 0.0), partial(self._depart, name, room))

    # Other servers

    def put(self, name: RoomName, node: Node, changes: Mapping[int, Entry | None]) -> int:
        """Note what has changed of another server's entries in a room.

        A room whose presence concerns nobody here is ignored. Each server bounds what its own
        members track; what all of them together have beyond twice the bound is left out, as no
        client could be sent it.

        Args:
            name: the room.
            node: the other server.
            changes: what its members track, by membership; None: nothing any more.

        Returns:
            How many entries were left out.
        """
        room = self._rooms.get(name)
        if room is None:
            return 0
        most = 2 * self.limits.state_bytes
        left_out = 0
        for membership, entry in changes.items():
            former = room.state.get(membership, node)
            replaced = 0 if former is None else former.size
            if entry is not None and room.state.size - replaced + entry.size > most:
                left_out += 1
                # Nor is it there as it was.
                entry = None
            room.state.put(membership, entry, node)
        self._flush_soon(name, room)
        return left_out

    def replace(self, name: RoomName, node: Node, entries: Mapping[int, Entry]) -> int:
        """Note all of another server's entries in a room; none: it is gone. See :meth:`put`."""
        room = self._rooms.get(name)
        if room is None:
            return 0
        room.state.keep(node, entries)
        return self.put(name, node, entries)

    # Flushes

    def _room(self, name: RoomName) -> _Room:
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = _Room()
            if self.others is not None:
                self.others.begin(name)
        return room

    def _forget(self, name: RoomName, room: _Room) -> None:
        """Keep nothing of a room where nothing is left, and nothing is going to happen."""
        if room.is_flushing or room.state.own or len(room) or self._rooms.get(name) is not room:
            return
        del self._rooms[name]
        if self.others is not None:
            self.others.end(name)

    def _flush_soon(self, name: RoomName, room: _Room) -> None:
        """Flush a room as soon as it may be."""
        if room.is_flushing:
            return
        room.is_flushing = True
        within = room.next_flush - self._clock()
        flush = partial(self._all_rooms.write, name, partial(self._flush, name, room))
        if within > 0:
            self._later(within, flush)
        else:
            flush()

    def _flush(self, name: RoomName, room: _Room) -> Iterable[tuple[Members, Frame]]:
        """Flush a room; return the frames, or have them written later."""
        if room.state.changes >= PIECE or (room.state.members >= PIECE and room.is_waited_for):
            self._go_on(self._in_pieces(name, room))
            return ()
        making = self._making(name, room)
        while True:
            try:
                next(making)
            except StopIteration as end:
                return self._written(name, room, *end.value)

    def _in_pieces(self, name: RoomName, room: _Room) -> Iterator[None]:
        diff, state = yield from self._making(name, room)
        self._all_rooms.write(name, partial(self._written, name, room, diff, state))

    def _go_on(self, pieces: Iterator[None]) -> None:
        """Make one piece in each round of the event loop."""
        for _ in pieces:
            self._later(0.0, partial(self._go_on, pieces))
            return

    def _making(self, name: RoomName, room: _Room) -> Generator[None, None, tuple[bytes, bytes]]:
        """Show what there is, in pieces; return the payloads of the diff and the state, if there
        are such."""
        try:
            diff, own = yield from room.state.flushing()
            if own and self.others is not None:
                self.others.tell(name, own)
            state = b""
            if room.is_waited_for:
                state = yield from room.state.rendering()
        except Exception:
            # This flush is lost, and the next one is not.
            room.is_flushing = False
            raise
        return diff, state

    def _written(
        self, name: RoomName, room: _Room, diff: bytes, state: bytes
    ) -> Iterator[tuple[Members, Frame]]:
        """Yield the frames of a flush, each with the members that get it."""
        room.is_flushing = False
        room.next_flush = self._clock() + max(self.limits.interval, len(room) / _FRAMES_PER_SECOND)
        if not any(len(audiences.seeing) for audiences in room.audiences.values()):
            diff = b""
        self._flushes += bool(state or diff)
        self._rendered += len(state) + len(diff)
        for audiences in room.audiences.values():
            if diff and len(audiences.seeing):
                before, behind = audiences.diff
                yield audiences.seeing.members, TextFrame(b"".join((before, diff, behind)))
            if state and len(audiences.waiting):
                before, behind = audiences.state
                frame = TextFrame(b"".join((before, state, behind)))
                yield audiences.waiting.members, frame
                audiences.seeing.take_over(audiences.waiting)
        if room.state.changes or room.is_waited_for:
            # Since it was made.
            self._flush_soon(name, room)
        self._forget(name, room)
