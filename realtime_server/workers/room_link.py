"""RoomLink: a worker's way to the other workers, and with NATS_URL to other machines.

It is a link of its own beside the one that brings changes: that one is not read while a worker is
behind with them, and rooms do not wait for the database.
"""

from __future__ import annotations

import asyncio
from typing import Final

from realtime_core.errors import ServerError

from ..cluster.carrier import NotSent, TakeMessage
from .pieces import MAX_FRAME, Pieces
from .room_frames import (
    IGNORE,
    LAST,
    LISTEN,
    MESSAGE,
    STANDING,
    decode_room_frame,
    decode_standing,
    encode_room_frame,
)
from .room_writer import RoomWriter

__all__ = ["RoomLink"]

_READ_BYTES: Final = 256 * 1024
_MOST_BYTES: Final = MAX_FRAME - 1024


class RoomLink:
    """A carrier from a worker to others.

    Args:
        reader: the link.
        writer: the link's other direction.
        is_away: whether others cannot be reached until the supervisor says that they can: true with
            NATS_URL.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_away: bool = False
    ) -> None:
        self.max_bytes = _MOST_BYTES
        """How many bytes a message may have."""
        self._reader = reader
        self._writer = RoomWriter(writer)
        self._is_away = is_away
        self.lost = 0
        """Nothing is lost here: a supervisor that has gone takes its workers along."""
        self._take: TakeMessage = lambda subject, data: None

    def begin(self, take: TakeMessage) -> None:
        self._take = take

    def send(self, subject: str, data: bytes) -> NotSent | None:
        if len(data) > self.max_bytes:
            return NotSent.TOO_LARGE
        if self._writer.is_full:
            return NotSent.FULL
        # The other workers get it, although other machines do not.
        self._writer.write(encode_room_frame(MESSAGE, subject, data))
        return NotSent.AWAY if self._is_away else None

    def listen(self, subject: str) -> None:
        self._writer.write(encode_room_frame(LISTEN, subject))

    def ignore(self, subject: str) -> None:
        self._writer.write(encode_room_frame(IGNORE, subject))

    def leave(self, subject: str, data: bytes) -> None:
        self._writer.write(encode_room_frame(LAST, subject, data))

    async def run(self) -> None:
        """Carry, until the supervisor has ended.

        Raises:
            ServerError: then, and if the supervisor runs another version.
        """
        pieces = Pieces()
        try:
            while data := await self._reader.read(_READ_BYTES):
                for content in pieces.feed(data):
                    frame = decode_room_frame(content)
                    if frame.kind == MESSAGE:
                        self._take(frame.subject, frame.data)
                    elif frame.kind == STANDING:
                        self._is_away, self.max_bytes = decode_standing(frame.data)
        except OSError as exc:
            raise ServerError(f"the supervisor has ended ({exc})") from exc
        finally:
            self._writer.close()
        raise ServerError("the supervisor has ended")
