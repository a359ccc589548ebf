"""SharedPresence: who is present in rooms that have members at several processes.

Each process owns what its own members track, and tells the others what each flush has changed of
it. So nothing can contradict, and a room's state is what all of them have, put together.

What a process tells of a room is numbered, and names the number before. Who misses one asks that
process for all it has in the room. That may never be seen in a room where nothing changes any more:
so each says every one and a half seconds that it is there, how often it has said so, and the
numbers that have changed since. Whoever misses one of these compares all rooms. Whoever is not
heard for half a minute is gone, and with it its members, in one flush.

It does no I/O, and the time is passed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final, TypeVar

import attrs

from ..fanout.presence import Presence
from ..fanout.presence_state import Entry
from ..phoenix.broadcasts import RoomName
from .carrier import Carrier
from .presence_messages import (
    BEATS,
    Beat,
    Bye,
    Change,
    Check,
    Message,
    RoomId,
    Snapshot,
    decode_presence,
    encode_presence,
    entry_size,
    node_subject,
    room_id,
    room_subject,
)

__all__ = ["BEAT", "SILENT", "SharedPresence"]

BEAT: Final = 1.5
"""Seconds from one time that a process says that it is there to the next."""
SILENT: Final = 30.0
"""Seconds after which a process is gone that is not heard."""
_ASK_AGAIN: Final = 3.0
"""Seconds after which a snapshot that was asked for and has not come is asked for again."""
_ROOMS: Final = 250
"""How many rooms one message names, and ..."""
_ENTRIES_BYTES: Final = 24 * 1024
"""... how many bytes of entries it has: the event loop is held for so long with each."""

_Value = TypeVar("_Value")


@attrs.define
class _Here:
    """A room whose presence concerns members here."""

    name: RoomName
    number: int = 0
    """The number of the last change of what this process' own members track; 0: none so far."""
    entries: dict[int, Entry] = attrs.field(factory=dict)
    """What they track, as the others were told it."""


@attrs.define
class _There:
    """What was heard of another process in one room."""

    number: int = 0
    asked_at: float | None = None
    """When a snapshot was asked for, which has not come."""
    parts: dict[int, Entry] = attrs.field(factory=dict)
    """The parts of it that have come."""


@attrs.define
class _Peer:
    """Another process."""

    heard_at: float
    beats: int | None = None
    """How often it has said that it is there; None: it was not heard saying so."""
    rooms: dict[RoomId, _There] = attrs.field(factory=dict)


class SharedPresence:
    """Tells other processes who is present here, and takes what they tell.

    Args:
        presence: of this process, whose ``others`` this becomes.
        carrier: the way to them.
        node: this process' name, as bytes, which no other one has.
        now: the time, in seconds.
    """

    def __init__(self, presence: Presence, carrier: Carrier, node: bytes, now: float) -> None:
        self.sent = self.received = self.lost = 0
        """How many messages went to others, came from them, and did not go to all; with what came
        and was left out."""
        self._presence = presence
        self._carrier = carrier
        self._node = node
        self._now = self._ticked_at = now
        self._rooms: dict[RoomId, _Here] = {}
        self._peers: dict[bytes, _Peer] = {}
        # The last number; how often this has said that it is there; and which rooms' numbers have
        # changed since.
        self._number = self._beats = 0
        self._changed: dict[RoomId, int] = {}
        presence.others = self
        carrier.listen(BEATS)
        carrier.listen(node_subject(node))
        carrier.leave(BEATS, encode_presence(Bye(node)))

    # What happens here

    def begin(self, name: RoomName) -> None:
        """Take what others tell of a room, and ask them for what there is."""
        room = room_id(name)
        self._rooms[room] = _Here(name)
        self._carrier.listen(room_subject(room))
        self._send(room_subject(room), Check(self._node, {room: 0}))

    def end(self, name: RoomName) -> None:
        """Take nothing more of a room."""
        room = room_id(name)
        del self._rooms[room]
        self._carrier.ignore(room_subject(room))
        for peer in self._peers.values():
            peer.rooms.pop(room, None)

    def tell(self, name: RoomName, changes: Mapping[int, Entry | None]) -> None:
        """Tell the others what has changed of this process' members in a room."""
        room = room_id(name)
        here = self._rooms[room]
        for membership, entry in changes.items():
            if entry is None:
                here.entries.pop(membership, None)
            else:
                here.entries[membership] = entry
        for part in self._parts(changes):
            before, self._number = here.number, self._number + 1
            here.number = self._number
            change = Change(self._node, room, before, here.number, part)
            self._send(room_subject(room), change)
        self._changed[room] = here.number

    def tick(self, now: float) -> None:
        """Say that this process is there, and look who is gone. To be called every ``BEAT``."""
        # Where this process has stood still, nobody is to blame.
        late = now - self._ticked_at - BEAT
        for peer in self._peers.values() if late > BEAT else ():
            peer.heard_at += late
        self._now = self._ticked_at = now
        changed, self._changed = self._changed, {}
        for some in _pieces(changed, _ROOMS) or [{}]:
            self._send(BEATS, Beat(self._node, self._beats, some))
            self._beats += 1
        for node, peer in [*self._peers.items()]:
            if now - peer.heard_at > SILENT:
                self._drop(node)
                continue
            again = {
                room: there.number
                for room, there in peer.rooms.items()
                if there.asked_at is not None and now - there.asked_at > _ASK_AGAIN
            }
            self._ask(node, peer, again)

    # What others say

    def take(self, subject: str, data: bytes, now: float) -> None:
        """Take a message of another process.

        Raises:
            ValueError: if no process writes it.
        """
        message = decode_presence(data)
        if message.node == self._node:
            return
        self._now = now
        self.received += 1
        if isinstance(message, Bye):
            self._drop(message.node)
            return
        peer = self._peers.get(message.node)
        if peer is None:
            peer = self._peers[message.node] = _Peer(now)
        peer.heard_at = now
        match message:
            case Change():
                self._change(message, peer)
            case Snapshot():
                self._replace(message, peer)
            case Check():
                self._answer(message)
            case Beat():
                self._hear(message, peer)

    def _change(self, change: Change, peer: _Peer) -> None:
        here = self._rooms.get(change.room)
        if here is None:
            return
        there = peer.rooms.setdefault(change.room, _There())
        if change.before != there.number:
            if change.number > there.number and there.asked_at is None:
                self._ask(change.node, peer, {change.room: there.number})
            return
        there.number = change.number
        self.lost += self._presence.put(here.name, _named(change.node), change.entries)

    def _replace(self, snapshot: Snapshot, peer: _Peer) -> None:
        here = self._rooms.get(snapshot.room)
        if here is None:
            return
        there = peer.rooms.setdefault(snapshot.room, _There())
        if snapshot.is_first:
            there.parts = {}
        there.parts |= {key: entry for key, entry in snapshot.entries.items() if entry is not None}
        if not snapshot.is_last:
            return
        entries, there.parts = there.parts, {}
        there.number, there.asked_at = snapshot.number, None
        self.lost += self._presence.replace(here.name, _named(snapshot.node), entries)
        if not snapshot.number:
            del peer.rooms[snapshot.room]

    def _answer(self, check: Check) -> None:
        for room, number in check.rooms.items():
            here = self._rooms.get(room)
            current = 0 if here is None else here.number
            if current == number:
                continue
            parts = [*self._parts({} if here is None else here.entries)] or [{}]
            for place, part in enumerate(parts):
                is_last = place == len(parts) - 1
                snapshot = Snapshot(self._node, room, current, not place, is_last, part)
                self._send(node_subject(check.node), snapshot)

    def _hear(self, beat: Beat, peer: _Peer) -> None:
        missed_some = peer.beats is None or beat.number != peer.beats + 1
        peer.beats = beat.number
        rooms: Mapping[RoomId, int] = beat.rooms
        if missed_some and beat.number:
            # All that is known here is compared.
            self._ask(beat.node, peer, {room: _number(peer, room) for room in self._rooms})
            return
        odd = {
            room: _number(peer, room)
            for room, number in rooms.items()
            if room in self._rooms and number != _number(peer, room)
        }
        self._ask(beat.node, peer, odd)

    def _ask(self, node: bytes, peer: _Peer, rooms: Mapping[RoomId, int]) -> None:
        for some in _pieces(rooms, _ROOMS):
            for room in some:
                if room in peer.rooms:
                    peer.rooms[room].asked_at = self._now
            self._send(node_subject(node), Check(self._node, some))

    def _drop(self, node: bytes) -> None:
        peer = self._peers.pop(node, None)
        for room in () if peer is None else peer.rooms:
            self._presence.replace(self._rooms[room].name, _named(node), {})

    def _parts(self, entries: Mapping[int, _Value]) -> Iterator[dict[int, _Value]]:
        """Yield entries in pieces, as one message has them."""
        part: dict[int, _Value] = {}
        size = 0
        for membership, entry in entries.items():
            more = entry_size(entry)  # type: ignore[arg-type]
            if part and size + more > _ENTRIES_BYTES:
                yield part
                part, size = {}, 0
            part[membership] = entry
            size += more
        if part:
            yield part

    def _send(self, subject: str, message: Message) -> None:
        if self._carrier.send(subject, encode_presence(message)) is None:
            self.sent += 1
        elif isinstance(message, Change):
            # That it is missing is seen when the others hear of this process again.
            self.lost += 1


def _named(node: bytes) -> tuple[str, int]:
    return node.hex(), 0


def _number(peer: _Peer, room: RoomId) -> int:
    there = peer.rooms.get(room)
    return 0 if there is None else there.number


def _pieces(rooms: Mapping[RoomId, int], most: int) -> list[dict[RoomId, int]]:
    """Return rooms in pieces of so many at most."""
    items = iter(rooms.items())
    found = []
    while piece := dict(islice(items, most)):
        found.append(piece)
    return found
