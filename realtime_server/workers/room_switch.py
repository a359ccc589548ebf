"""RoomSwitch: a supervisor's part in rooms that span its workers.

What a worker sends to a subject goes to the other workers that listen to it, and with NATS_URL to
other machines; what comes from there goes to the workers that listen. It is passed on unread.
A worker that does not read what comes loses it, and holds nobody up.
"""

from __future__ import annotations

import asyncio
from typing import Final

import attrs

from realtime_core.errors import ServerError

from ..cluster.carrier import Outside
from ..fanout.room_stats import BusStats, RoomStats
from .pieces import Pieces
from .room_frames import (
    IGNORE,
    LAST,
    LISTEN,
    MESSAGE,
    RoomFrame,
    decode_room_frame,
    encode_room_frame,
    encode_standing,
)
from .room_writer import RoomWriter

__all__ = ["RoomSwitch"]

_READ_BYTES: Final = 256 * 1024


@attrs.define(eq=False)
class _Link:
    """A worker's link."""

    writer: RoomWriter
    subjects: set[str] = attrs.field(factory=set)
    """What the worker listens to."""
    last: RoomFrame | None = None
    """What goes to the others when the worker has ended."""


class RoomSwitch:
    """Passes messages on between workers, and to other machines.

    Args:
        outside: the way to other machines; None: there are none.
    """

    def __init__(self, outside: Outside | None = None) -> None:
        self._lost = 0
        # How many messages did not go on to a worker or outside, because too much waited or the way
        # was broken; one for each that missed it.
        self._outside = outside
        self._links: set[_Link] = set()
        # Who listens to each subject.
        self._listeners: dict[str, set[_Link]] = {}
        if outside is not None:
            outside.begin(self._from_outside)
            outside.changed = self._tell_all

    def stats(self) -> RoomStats:
        """Return what is counted here, besides what workers count."""
        outside = 0 if self._outside is None else self._outside.lost
        return RoomStats(bus=BusStats(lost=self._lost + outside))

    async def run(self) -> None:
        """Carry what goes to other machines and comes from there, until this is cancelled."""
        if self._outside is not None:
            await self._outside.run()
        else:
            await asyncio.Event().wait()

    async def serve(
        self, worker: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one worker, until its link ends.

        Args:
            worker: the worker's number.
            reader: the link.
            writer: the link's other direction.

        Raises:
            ServerError: if the worker runs another version.
        """
        link = _Link(RoomWriter(writer))
        self._links.add(link)
        self._tell(link)
        pieces = Pieces()
        try:
            while data := await reader.read(_READ_BYTES):
                for content in pieces.feed(data):
                    self._take(worker, link, decode_room_frame(content))
        except OSError:
            # It has ended, which the link for changes tells.
            return
        finally:
            self._links.discard(link)
            for subject in [*link.subjects]:
                self._ignore(link, subject)
            if link.last is not None:
                self._send(link, link.last)
            link.writer.close()

    def _take(self, worker: int, link: _Link, frame: RoomFrame) -> None:
        if frame.kind == MESSAGE:
            self._send(link, frame)
        elif frame.kind == LAST:
            link.last = frame
        elif frame.kind == LISTEN:
            listeners = self._listeners.setdefault(frame.subject, set())
            if not listeners and self._outside is not None:
                self._outside.listen(frame.subject)
            listeners.add(link)
            link.subjects.add(frame.subject)
        elif frame.kind == IGNORE:
            self._ignore(link, frame.subject)
        else:
            raise ServerError(f"worker {worker} has sent a frame of rooms of kind {frame.kind}")

    def _send(self, link: _Link, frame: RoomFrame) -> None:
        self._pass_on(link, frame.subject, frame.data)
        outside = self._outside
        if outside is not None and outside.send(frame.subject, frame.data) is not None:
            self._lost += 1

    def _ignore(self, link: _Link, subject: str) -> None:
        link.subjects.discard(subject)
        listeners = self._listeners.get(subject)
        if listeners is None:
            return
        listeners.discard(link)
        if not listeners:
            del self._listeners[subject]
            if self._outside is not None:
                self._outside.ignore(subject)

    def _from_outside(self, subject: str, data: bytes) -> None:
        self._pass_on(None, subject, data)

    def _pass_on(self, sender: _Link | None, subject: str, data: bytes) -> None:
        """Send a message to the workers that listen, but for the one that it is from."""
        listeners = self._listeners.get(subject, ())
        frame = b""
        for link in listeners:
            if link is sender:
                continue
            if link.writer.is_full:
                self._lost += 1
                continue
            frame = frame or encode_room_frame(MESSAGE, subject, data)
            link.writer.write(frame)

    def _tell_all(self) -> None:
        for link in self._links:
            self._tell(link)

    def _tell(self, link: _Link) -> None:
        """Tell a worker whether other machines can be reached; without others it need not know."""
        outside = self._outside
        if outside is not None:
            link.writer.write(encode_standing(outside.max_bytes, is_away=outside.is_away))
