"""DatabaseBroadcasts: puts what the database broadcasts into the order of rooms.

Rows of ``realtime.messages``, and logical messages, come with the stream, in commit order. They go
to the members of their rooms here, and to no other server: each reads the same stream.

What a dispatch has of a room must be written before anything else is, or else two members might see
two broadcasts in different orders. So what is pushed to a room waits from the first row that a
dispatch takes for it until that dispatch has written what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from realtime_core import Insert, LogicalMessage, RowChange

from ..phoenix.broadcasts import Broadcast, RoomName
from .dispatch import Dispatch
from .logical_broadcasts import LOGICAL_PREFIX, read_logical_broadcast
from .message_rows import MALFORMED, DatabaseBroadcastStats, MessageRows
from .recent_commits import RecentCommits
from .rooms import Rooms
from .turns import Steps

__all__ = ["DatabaseBroadcasts"]

_MOST_BESIDES: Final = 65536
"""Bytes of a logical message, besides what MAX_PAYLOAD_BYTES counts, up to which it is read."""


class DatabaseBroadcasts:
    """Sends what the database broadcasts to the members of its rooms.

    Args:
        rooms: of this server.
        max_payload_bytes: of a payload (MAX_PAYLOAD_BYTES); what is larger is not broadcast.
        clock: seconds of any clock that only goes forward, for giving way in time.
        sends_rows: whether rows of ``realtime.messages`` are broadcast (BROADCAST_FROM_DATABASE).
        sends_logical: whether logical messages are (BROADCAST_MESSAGES).
    """

    def __init__(
        self,
        rooms: Rooms,
        *,
        max_payload_bytes: int,
        clock: Callable[[], float],
        sends_rows: bool = True,
        sends_logical: bool = False,
    ) -> None:
        self._rooms = rooms
        self._rows = MessageRows(max_payload_bytes)
        self._clock = clock
        self._sends_rows = sends_rows
        self._sends_logical = sends_logical
        # The rooms that wait until a dispatch has written what it has.
        self._held: set[RoomName] = set()
        self.commits = RecentCommits(clock)
        """Of which transactions members have got messages in private rooms lately."""

    def stats(self) -> DatabaseBroadcastStats:
        """Return the counts, as they are now."""
        return self._rows.stats()

    def adding(self, event: RowChange | LogicalMessage, dispatch: Dispatch) -> Steps:
        """Add what a row, or a message, broadcasts to a dispatch, when what is being written to its
        room has been written.

        The caller must have the dispatch write soon, and then call :meth:`release`.
        """
        found: tuple[RoomName, Broadcast] | None = None
        if isinstance(event, Insert):
            found = self._rows.read(event) if self._sends_rows else None
            if found is not None and found[0].is_private:
                # Whether anybody is in the room or not: somebody may join in the next moment.
                self.commits.add(event.transaction.xid)
        elif isinstance(event, LogicalMessage) and self._sends_logical:
            found = self._read_logical(event)
        if found is None:
            return
        room, broadcast = found
        if not self._rooms.size(room):
            return
        if room not in self._held:
            self._held.add(room)
            yield from self._rooms.holding(room)
        for members, frame in self._rooms.frames(room, broadcast):
            dispatch.add(members, frame)

    def _read_logical(self, message: LogicalMessage) -> tuple[RoomName, Broadcast] | None:
        if message.prefix != LOGICAL_PREFIX:
            return None
        if self._rows.is_too_large(len(message.content) - _MOST_BESIDES):
            # To read it might take seconds.
            return None
        try:
            found = read_logical_broadcast(message.content)
        except ValueError:
            self._rows.refuse(MALFORMED)
            return None
        return found if self._rows.count(found[1]) else None

    def release(self) -> None:
        """Let the rooms write again, after a dispatch has written everything."""
        for room in self._held:
            self._rooms.release(room)
        self._held.clear()

    def sending(self, events: Iterable[RowChange | LogicalMessage]) -> Steps:
        """Send rows by themselves, without changes between them, and yield now and then."""
        dispatch = Dispatch(self._clock)
        for event in events:
            yield from self.adding(event, dispatch)
            if dispatch.is_due():
                yield from dispatch.hand_out()
                self.release()
                yield from dispatch.give_way()
        yield from dispatch.hand_out()
        self.release()
