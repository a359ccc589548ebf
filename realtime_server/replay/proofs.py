"""Proofs: up to where each connection's WebSocket is proven to have received what was written.

Theory of operation. Each write of a dispatch has an ordinal, from one counter for the whole server.
An ordinal is taken right before the writes that have it, so on each connection ordinals only go up,
in the order of the bytes. A ping carries the ordinal of the last write before it, often behind the
frames of that write, in the same bytes, so that it is made once for all clients. A client answers a
ping in its turn among the frames (RFC 6455, section 5.5.2), and repeats its eight bytes. So a pong
with an ordinal that *this* connection was asked proves each write to this connection up to it, and
nothing about any other.

Ordinals become places of the stream through a list of notes: "everything up to this place is in
writes up to this ordinal".

What one connection has proven is in its :class:`~.connection_proof.ConnectionProof`.

No I/O: time is read from a clock that is passed in, and pings are written to the connections'
outboxes, as frames without a message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .connection_proof import ConnectionProof, PingedOutbox, ping_frame
from .places import Place
from .written_places import WrittenPlaces

__all__ = ["Proofs"]

_MOST_PER_SECOND: Final = 1000
"""Connections that are asked in a second. With more connections each is asked less often."""
_MOST_AT_ONCE: Final = 1000
"""Connections that may be asked by one dispatch: each answer takes time, and all come together."""
_TICKS: Final = 8
"""Calls of :meth:`Proofs.tick` in an interval: so many connections are not asked all at once."""
_APART: Final = 5.0
"""Seconds between two messages of a client that count as two."""


class Proofs:
    """The proofs of all connections of a server.

    Args:
        interval: seconds between two pings to a connection that gets something all the time.
        clock: seconds of any clock that only goes forward.
        apart: seconds between two messages of a client that count as two, see
            :meth:`ConnectionProof.received`.
    """

    def __init__(
        self, *, interval: float, clock: Callable[[], float], apart: float = _APART
    ) -> None:
        self._interval = interval
        self.apart = apart
        """Seconds between two messages of a client that count as two."""
        self.clock = clock
        """Seconds of any clock that only goes forward."""
        self.now = clock()
        """When a dispatch was last marked, or :meth:`tick` called."""
        self.ordinal = 0
        """Of the last write."""
        self.count = 0
        """How many pongs have proven something."""
        self.unprovable = 0
        """Connections, also former ones, whose pongs are no echo of what they were sent."""
        # When a dispatch may carry a ping again.
        self._next_ping = self.now
        self._written = WrittenPlaces(interval)
        self._connections: dict[ConnectionProof, None] = {}
        # Those that are looked at before the first one is looked at again, and how many of them
        # are due.
        self._round: dict[ConnectionProof, None] = {}
        self._due = 0.0
        self._ticked = self.now

    @property
    def interval(self) -> float:
        """Seconds between two pings to a connection, with as many connections as there are."""
        return max(self._interval, len(self._connections) / _MOST_PER_SECOND)

    @property
    def tick_interval(self) -> float:
        """Seconds after which to call :meth:`tick` again."""
        return self._interval / _TICKS

    def mark(self, recipients: int) -> tuple[int, bytes]:
        """Begin the writes of a dispatch.

        Whoever gives way between the writes must mark those that are left anew if another ordinal
        has been taken meanwhile: see :attr:`ordinal`.

        Args:
            recipients: how many connections are written to.

        Returns:
            The writes' ordinal, and the ping that goes behind their frames: often none.
        """
        ordinal = self.advance()
        self.now = now = self.clock()
        if now < self._next_ping or recipients > _MOST_AT_ONCE:
            return ordinal, b""
        self._next_ping = now + self.interval
        return ordinal, ping_frame(ordinal)

    def advance(self) -> int:
        """Return the ordinal of a write that is made at once, and is not one of a dispatch."""
        self.ordinal += 1
        return self.ordinal

    def note(self, place: Place) -> None:
        """Note that everything up to a place is in the writes up to :attr:`ordinal`."""
        self._written.note(self.ordinal, place, self.now)

    def begin_anew(self, place: Place) -> None:
        """Note that another stream has begun at a place. Nothing of it was written so far."""
        self._written.begin_anew(place)

    def place_at(self, ordinal: int) -> Place:
        """Return the place up to which everything is in the writes up to ``ordinal``."""
        return self._written.at(ordinal)

    def connect(self, outbox: PingedOutbox) -> ConnectionProof:
        """Begin to track a connection, to which nothing has been written yet."""
        proof = ConnectionProof(self, outbox)
        self._connections[proof] = None
        return proof

    def disconnect(self, proof: ConnectionProof) -> None:
        """Stop tracking a connection that has ended."""
        self._connections.pop(proof, None)
        self._round.pop(proof, None)

    def tick(self) -> None:
        """Ping a part of the connections that were written to since their last ping, so that
        each of them is looked at once in an interval."""
        self.now = now = self.clock()
        interval = self.interval
        # If a call comes late, it does not make up for all that was not asked.
        passed, self._ticked = min(now - self._ticked, 2 * self.tick_interval), now
        self._due += len(self._connections) * passed / interval
        while self._due >= 1:
            if not self._round:
                self._round = self._connections.copy()
                if not self._round:
                    self._due = 0.0
                    break
            self._due -= 1
            self._round.popitem()[0].ask_if_due()
