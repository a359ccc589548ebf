"""RoomTurns: writes what waits for rooms, in one order in each room, with a turn for each room.

What waits for one room is written together, with one write for each member. To write
to thousands takes longer than others may wait. So a turn is short, and what is left goes on after
the others' turns: a room for which nothing was waiting is served next, whatever waits for large
ones. While anybody else has something to do, there are rounds of the event loop without any between
two turns of rooms that were served before, as a push, or a change, needs several on its way.

Within a room each sender has its turn, too: see :class:`.FairQueue`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

import attrs

from ..phoenix.broadcasts import Broadcast, RoomName
from ..phoenix.reasons import BroadcastReason
from .dispatch import Dispatch, Members, Outbox
from .fair_queue import FairQueue
from .frames import Frame
from .turns import Steps
from .waiting_shares import MAX_WAITING_BYTES, WaitingShares, WritePace

__all__ = ["Done", "FramesOf", "Later", "Published", "RoomTurns", "Writing"]

_TURN: Final = 0.0005
"""Seconds of one room's turn."""
_MOST_WRITES: Final = 250
"""Writes to members in one turn."""
_RESTS: Final = 3
"""Rounds of the event loop between two turns of rooms that were served before, while others have
something to do."""
_IDLE_ROUND: Final = 0.00002
"""Seconds between two turns up to which nobody else had anything to do, as a round takes a fifth of
that by itself. To rest then, too, would have the members' clients fall asleep: to wake them again
takes longer than a write."""

Later: TypeAlias = Callable[[float, Callable[[], None]], object]
"""Calls a function after so many seconds; 0: in the next turn of the event loop."""

Done: TypeAlias = Callable[[BroadcastReason | None], None]
"""Is told when broadcasts have been written to all members here, and why not to those of other
processes; None: they were handed on to these."""

Writing: TypeAlias = Callable[[], Iterable[tuple[Members, Frame]]]
"""Makes frames when they are to be written, each with the members that get it."""

_BESIDES: Final = "besides"
"""Whoever writes what is no broadcast."""


# Not frozen, which would take three times as long.
@attrs.define
class Published:
    """A broadcast that waits to be written."""

    sender: object
    """Who sends it: the outbox of a member, or anything else that no other sender has."""
    room: RoomName
    broadcast: Broadcast
    size: int
    """Of its event and payload, in bytes."""
    deliveries: int
    """To how many members it is to go."""
    left_out: Outbox | None
    """That of the sender, if it does not get it."""
    done: Done | None
    problem: BroadcastReason | None
    """What ``done`` is told."""


FramesOf: TypeAlias = Callable[[Published], Iterable[tuple[Members, Frame]]]
"""Makes a broadcast's frames, each with the members that get it."""


class _Line:
    """What waits for one room."""

    __slots__ = ("deliveries", "is_due", "is_held", "name", "queue", "steps")

    def __init__(self, name: RoomName) -> None:
        self.name = name
        self.queue: FairQueue[Published | Writing] = FairQueue()
        self.deliveries = WaitingShares()
        """How many deliveries wait, and are being written, of each sender."""
        self.is_due = False
        """Whether it is going to have a turn."""
        self.is_held = False
        """Whether somebody else writes to the room meanwhile."""
        self.steps: Steps | None = None
        """What is being written; None while nothing is."""

    @property
    def is_idle(self) -> bool:
        return self.steps is None and not self.queue and not self.is_held


class RoomTurns:
    """The turns of all rooms of a server.

    Args:
        frames_of: makes the frames of a broadcast when it is to be written.
        later: calls a function later.
        clock: seconds of any clock that only goes forward.
    """

    def __init__(self, frames_of: FramesOf, *, later: Later, clock: Callable[[], float]) -> None:
        self._frames_of = frames_of
        self._later = later
        self._clock = clock
        self._pace = WritePace()
        # How many bytes wait of each sender.
        self._bytes = WaitingShares()
        # The rooms for which something waits, is being written, or is held.
        self._lines: dict[RoomName, _Line] = {}
        # Those that have not had a turn since nothing waited for them, and the others.
        self._new: deque[_Line] = deque()
        self._served: deque[_Line] = deque()
        # Rounds of the event loop until one of the latter has its turn.
        self._rests = 0
        # When the last turn ended.
        self._ended = clock()
        self._is_called = False

    def has_room(self, sender: object, size: int, deliveries: Mapping[RoomName, int]) -> bool:
        """Return whether a sender may have more waiting.

        Args:
            sender: of all of it.
            size: of it, in bytes.
            deliveries: by room, how many messages to members it becomes.
        """
        if not self._bytes.fits(sender, size, MAX_WAITING_BYTES):
            return False
        for name, count in deliveries.items():
            line = self._lines.get(name)
            if line is not None and not line.deliveries.fits(
                sender, count, self._pace.most_waiting
            ):
                return False
        return True

    def has_room_for(self, sender: object, size: int, name: RoomName, count: int) -> bool:
        """Return whether a sender may have one more broadcast waiting, see :meth:`has_room`."""
        if not self._bytes.fits(sender, size, MAX_WAITING_BYTES):
            return False
        line = self._lines.get(name)
        return line is None or line.deliveries.fits(sender, count, self._pace.most_waiting)

    def publish(self, published: Published) -> None:
        """Write a broadcast when its room, and its sender, have their turn."""
        sender = published.sender
        line = self._line(published.room)
        self._bytes.add(sender, published.size)
        line.deliveries.add(sender, published.deliveries)
        self._put(line, sender, published)

    def write(self, name: RoomName, writing: Writing) -> None:
        """Write what a function returns when the room has its turn, in one order with all
        broadcasts."""
        self._put(self._line(name), _BESIDES, writing)

    def _put(self, line: _Line, sender: object, item: Published | Writing) -> None:
        line.queue.put(sender, item)
        self._have_served(line)

    def holding(self, name: RoomName) -> Steps:
        """Write what is being written to a room, and nothing more until :meth:`release`: the caller
        writes to it meanwhile."""
        line = self._line(name)
        line.is_held = True
        while line.steps is not None:
            # The event loop may have no turn in between: see run_steps().
            self._step(line)
            yield 0.0

    def release(self, name: RoomName) -> None:
        """Write what was put in line for a room meanwhile."""
        line = self._lines[name]
        line.is_held = False
        if line.is_idle:
            self._forget(line)
        else:
            self._have_served(line)

    def _line(self, name: RoomName) -> _Line:
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line(name)
        return line

    def _forget(self, line: _Line) -> None:
        if not line.is_due:
            del self._lines[line.name]

    def _have_served(self, line: _Line) -> None:
        if not line.is_due and not line.is_held:
            line.is_due = True
            self._new.append(line)
            self._call()

    def _call(self) -> None:
        if not self._is_called:
            self._is_called = True
            self._later(0.0, self._round)

    def _round(self) -> None:
        """Serve rooms in one round of the event loop."""
        self._is_called = False
        try:
            now = self._clock()
            if now - self._ended <= _IDLE_ROUND:
                self._rests = 0
            until = now + _TURN
            others = bool(self._served)
            while self._new:
                self._serve(self._new.popleft())
                if self._clock() >= until:
                    break
            if self._rests:
                self._rests -= 1
            elif others:
                self._rests = _RESTS
                self._serve(self._served.popleft())
        finally:
            if self._new or self._served:
                self._call()
            self._ended = self._clock()

    def _serve(self, line: _Line) -> None:
        """Give a room one turn."""
        try:
            if line.steps is None and line.queue and not line.is_held:
                line.steps = self._writing(line)
            if line.steps is not None:
                self._step(line)
        finally:
            line.is_due = line.steps is not None or (bool(line.queue) and not line.is_held)
            if line.is_due:
                self._served.append(line)
            elif line.is_idle:
                self._forget(line)

    def _step(self, line: _Line) -> None:
        """Go on with what is being written to a room."""
        assert line.steps is not None  # says the caller
        is_over = True
        try:
            for _ in line.steps:
                is_over = False
                break
        finally:
            if is_over:
                # What was to be written together is lost if it failed; what comes next is not.
                line.steps = None

    def _writing(self, line: _Line) -> Steps:
        """Write what waits for a room, in steps, until nothing is left, or somebody else writes."""
        dispatch = Dispatch(self._clock, slice_seconds=_TURN, slice_writes=_MOST_WRITES)
        while line.queue and not line.is_held:
            written: list[Published] = []
            deliveries = 0
            try:
                while True:
                    item = line.queue.take()
                    left_out = None
                    if isinstance(item, Published):
                        written.append(item)
                        deliveries += item.deliveries
                        left_out = item.left_out
                        frames = self._frames_of(item)
                    else:
                        frames = item()
                    for members, frame in frames:
                        dispatch.add(members, frame, left_out)
                    if not line.queue or dispatch.is_due():
                        break
                seconds, began = 0.0, self._clock()
                for pause in dispatch.hand_out():
                    seconds += self._clock() - began
                    yield pause
                    began = self._clock()
                self._pace.wrote(deliveries, seconds + self._clock() - began)
            finally:
                for item in written:
                    self._bytes.remove(item.sender, item.size)
                    line.deliveries.remove(item.sender, item.deliveries)
            for item in written:
                if item.done is not None:
                    item.done(item.problem)
            if line.queue:
                yield from dispatch.give_way()
