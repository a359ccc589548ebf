"""What passed on a client's connections, and why rows passed again."""

from __future__ import annotations

import re
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

_ASKED_WITHIN: Final = 2.0
"""Seconds in which a server asks for a proof of what it has sent, with one second between two."""
_READ_WITHIN: Final = 1.0
"""Seconds in which a server reads a pong: one that comes right before a reset may be lost."""
_LATE: Final = 4.5
"""Seconds after which the answer to a join may be late: what its client proves does not count."""
_JOURNAL: Final = 4.0
"""Seconds before a server's kill of which the journal may not know."""


class Passed:
    """The rows that were passed to the client of one connection, and its proofs.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.rows: list[int] = []
        self.is_closed_by_client = False
        """Whether the client's close frame was the first."""
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
        self._is_closing = False
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
                self._is_closing = True

    def to_server(self, data: bytes) -> None:
        """Take bytes that the server is sent."""
        for frame in self._from_client.feed(data):
            if frame.is_message and b"phx_join" in frame.payload:
                self._joined = self._clock()
            elif frame.opcode == _PONG and frame.payload in self._asked:
                self._prove(self._asked[frame.payload])
            elif frame.opcode == _CLOSE and not self._is_closing:
                self.is_closed_by_client = True

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
                return at if self.ended is None or at < self.ended - _READ_WITHIN else None
        return None

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
    proven: float | None
    """When the client had proven that it has the row, and the connection on which it did ended."""
    ended: float | None


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
                found.append(Repetition(row, reason, former.proven_at(row), former.ended))
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
    if any(proven > kill - _JOURNAL for kill in kills):
        return "killed server"
    return REPEATED_FOR_NOTHING
