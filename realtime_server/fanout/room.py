"""Room: the channels that have joined one topic with ``config``, public or private.

Those with the same serializer get the same bytes of a broadcast, so each is rendered once for all
of them. A broadcast is delivered to those who are members when it is written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import attrs

from ..phoenix.binary import encode_binary
from ..phoenix.broadcasts import Broadcast, RoomName, broadcast_json
from ..phoenix.messages import BROADCAST
from ..phoenix.serializers import Serializer
from .audience import Audience
from .dispatch import Members, Outbox
from .frames import BinaryFrame, Frame, TextFrame
from .room_holds import Hold

__all__ = ["Member", "Room", "frame_of"]


@attrs.define(eq=False, weakref_slot=False)
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


class Room:
    """The members of one room."""

    __slots__ = ("_deaf", "_groups", "_hearing", "_replayed", "holds", "name")

    def __init__(self, name: RoomName) -> None:
        self.name = name
        """The members refer to this one, as each of their own takes memory."""
        self._groups: dict[tuple[Serializer, bool], _Group] = {}
        # How many do, and do not, hear.
        self._hearing = 0
        self._deaf = 0
        # By meta, which members have got that message already.
        self._replayed: dict[bytes, set[Outbox]] = {}
        self.holds: set[Hold] = set()
        """Of the channels that are going to join."""

    def __len__(self) -> int:
        return self._hearing + self._deaf + len(self.holds)

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
        self._hearing -= len(group)
        group.add(member)
        self._hearing += len(group)
        for meta in member.replayed:
            self._replayed.setdefault(meta, set()).add(member.outbox)

    def remove(self, member: Member) -> None:
        if not member.hears:
            self._deaf -= 1
            return
        key = member.serializer, member.takes_bytes
        group = self._groups[key]
        self._hearing -= len(group)
        group.remove(member)
        self._hearing += len(group)
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
                frame = BinaryFrame(encode_binary(self.name.topic, event, payload, meta))
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
