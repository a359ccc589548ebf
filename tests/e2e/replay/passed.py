"""What passed on a client's connections, and why rows passed again."""

from __future__ import annotations

import re
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tests.e2e.replay.frames import Frame, FrameSplitter

__all__ = ["REPEATED_FOR_NOTHING", "Passed", "Repetition", "repetitions"]

REPEATED_FOR_NOTHING: Final = "repeated though proven"

_ROW: Final = re.compile(rb'"record":\{"id":(\d+)')
_COMPRESSED: Final = 0x40
"""RSV1 of permessage-deflate: RFC 7692, section 6."""
_CLOSE, _PING, _PONG = 8, 9, 10
_NORMAL: Final = struct.pack("!H", 1000)

_ASKED_WITHIN: Final = 2.0
"""Seconds in which a server asks for a proof of what it has sent, with one second between two."""
_READ_WITHIN: Final = 1.0
"""Seconds in which a server reads a pong: one that comes right before a reset may be lost."""
_LATE: Final = 4.5
"""Seconds after which the answer to a join may be late: what its client proves does not count."""
_JOURNAL: Final = 4.0
"""Seconds before a server's kill of which the journal may not know."""
_KILLED_WITHIN: Final = 1.0
"""Seconds that it may take until a server has been killed."""


class Passed:
    """The rows that were passed to the client of one connection, and its proofs.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.rows: list[int] = []
        self.is_closed_by_client = False
        """Whether the client has closed the connection by itself."""
        self.has_answered_close = False
        """Whether the client has answered the server's close frame, and so has got all before."""
        self.is_late = False
        """Whether the answer to a join may have come late."""
        self.ended: float | None = None
        """When nothing passed any more; None: it has not ended."""
        # The first place of each row in the list, and when it was passed.
        self._places: dict[int, int] = {}
        self._times: list[float] = []
        # When a pong was passed to the server, and how many of the rows it has proven.
        self._proofs: list[tuple[float, int]] = []
        # How many rows there were before a ping.
        self._asked: dict[bytes, int] = {}
        self._most_asked = 0
        self._joined: float | None = None
        # The server's close frame's payload; None: it has not come.
        self._closing: bytes | None = None
        self._from_server = FrameSplitter()
        self._from_client = FrameSplitter()
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)

    def to_client(self, data: bytes) -> None:
        """Take bytes that the client is sent."""
        for frame in self._from_server.feed(data):
            if frame.is_message:
                for found in _ROW.findall(self._text(frame)):
                    self._places.setdefault(int(found), len(self.rows))
                    self.rows.append(int(found))
                    self._times.append(self._clock())
            elif frame.opcode == _PING:
                self._asked[frame.payload] = self._most_asked = len(self.rows)
            elif frame.opcode == _CLOSE:
                self._closing = frame.payload

    def to_server(self, data: bytes) -> None:
        """Take bytes that the server is sent."""
        for frame in self._from_client.feed(data):
            if frame.is_message and b"phx_join" in frame.payload:
                self._joined = self._clock()
            elif frame.opcode == _PONG and frame.payload in self._asked:
                self._prove(self._asked[frame.payload])
            elif frame.opcode == _CLOSE:
                self.has_answered_close = self._is_answer(frame.payload)
                self.is_closed_by_client = not self.has_answered_close
                if self.has_answered_close:
                    self._prove(len(self.rows))

    def end(self) -> None:
        """Note that nothing passes any more."""
        self.ended = self.ended or self._clock()

    def why_not_proven(self, row: int) -> str:
        """Return why a row that has no proof has none."""
        place = self._places[row]
        if place < self._most_asked:
            return "not answered"
        end = self.ended or self._times[-1]
        return "passed just before" if end - self._times[place] < _ASKED_WITHIN else "not asked"

    def proven_at(self, row: int) -> float | None:
        """Return when a row was proven so that the server must know it; None: it was not."""
        place = self._places[row]
        for at, count in self._proofs:
            if place < count:
                is_read = self.ended is None or at < self.ended - _READ_WITHIN
                return at if is_read or self.has_answered_close else None
        return None

    def _is_answer(self, payload: bytes) -> bool:
        """Return whether a client's close frame answers the server's, and has not crossed it."""
        if self._closing is None:
            return False
        # Version 1.7.5 under Node answers with 1000, and has answered the ping before.
        has_all = bool(self._proofs) and self._proofs[-1][1] == len(self.rows)
        return payload[:2] == self._closing[:2] or (payload == _NORMAL and has_all)

    def _prove(self, count: int) -> None:
        now = self._clock()
        if self._joined is not None:
            self.is_late |= now - self._joined > _LATE
            self._joined = None
        self._proofs.append((now, count))

    def _text(self, frame: Frame) -> bytes:
        if frame.data[0] & _COMPRESSED:
            # RFC 7692, section 7.2.1, has the sender leave these bytes out.
            return self._inflate.decompress(frame.payload + b"\x00\x00\xff\xff")
        return frame.payload


class Repetition(NamedTuple):
    """A row that was passed to a client again."""

    row: int
    reason: str
    former: Passed
    """The connection on which the row had been passed."""

    @property
    def proven(self) -> float | None:
        """When the client had proven that it has the row; None: it had not."""
        return self.former.proven_at(self.row)


def repetitions(connections: Sequence[Passed], kills: Sequence[float]) -> list[Repetition]:
    """Return the rows that were passed to a client again.

    Args:
        connections: of the client, in order.
        kills: when a server was killed.
    """
    found: list[Repetition] = []
    last: dict[int, Passed] = {}
    for connection in connections:
        for row in connection.rows:
            former = last.get(row)
            last[row] = connection
            if former is not None:
                reason = _reason(row, former, connection, kills)
                found.append(Repetition(row, reason, former))
    return found


def _reason(row: int, former: Passed, connection: Passed, kills: Sequence[float]) -> str:
    if former is connection:
        return "on one connection"
    proven = former.proven_at(row)
    if proven is None:
        return former.why_not_proven(row)
    if former.is_closed_by_client:
        return "closed by the client"
    if former.is_late:
        return "late answer"
    if any(kill - _JOURNAL < proven < kill + _KILLED_WITHIN for kill in kills):
        return "killed server"
    return REPEATED_FOR_NOTHING
