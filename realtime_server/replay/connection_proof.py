"""ConnectionProof: up to which ordinal one connection's client has proven to have received writes.

A client proves it by the pongs with which it answers pings: see :mod:`.proofs`.

What a client answered before it closed the connection by itself is worth less. A browser's network
process answers pings, the page may be far behind it, and what arrives after the page has closed is
dropped. So the proof counts that stood when its last message but one came, see
:meth:`ConnectionProof.closed_by_client`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from ..fanout.frames import Frames

if TYPE_CHECKING:
    from .proofs import Proofs

__all__ = ["ConnectionProof", "PingedOutbox", "ping_frame", "ping_payload"]

_PING: Final = Struct("!BBQ")
_FIN_PING: Final = 0x89
_PAYLOAD: Final = Struct("!Q")
"""An ordinal as the payload of a ping."""
_MOST_OUTSTANDING: Final = 128
"""Pings of a connection that are remembered while they are not answered."""
_MOST_QUESTIONS: Final = 1000
"""Questions of a connection that are remembered while they are not answered. Each keeps the
connection alive that has asked."""


class PingedOutbox(Protocol):
    """The outbox of one connection."""

    written: int
    """The ordinal of the last write that was handed to it, whether it could be written or not."""

    def write(self, frames: Frames) -> None:
        """Take frames, in order, without waiting."""
        ...


class ConnectionProof:
    """What one connection's WebSocket is proven to have received.

    Args:
        proofs: of the server.
        outbox: of the connection; nothing has been written to it yet.
    """

    # There are tens of thousands of them.
    __slots__ = (
        "_answers",
        "_asked",
        "_final",
        "_first",
        "_has_ended",
        "_is_closing",
        "_is_thinned",
        "_last_answered",
        "_last_asked",
        "_last_message",
        "_next_ask",
        "_outbox",
        "_proofs",
        "_proven_at_message",
        "_sure",
        "_unread",
        "_writes",
        "arrived",
        "is_overdue",
        "is_unprovable",
        "messages",
        "proven",
        "proven_before_close",
    )

    def __init__(self, proofs: Proofs, outbox: PingedOutbox) -> None:
        self._proofs = proofs
        self._outbox = outbox
        self._first = outbox.written = proofs.ordinal
        self.proven = self._first
        """The ordinal up to which every write to the connection is proven to have arrived."""
        self.proven_before_close = self._first
        """The ordinal that was proven when the client's last message but one came."""
        self.is_unprovable = False
        """Whether a pong was no echo of what the client was sent, so that none proves anything."""
        self.is_overdue = False
        """Whether nobody waits for what the client has still to prove."""
        self._proven_at_message = self._first
        self.arrived = self._last_message = proofs.clock()
        """When the message that is carried out now had arrived at the earliest, in seconds of the
        proofs' clock: it may have waited for those before it."""
        self.messages = 0
        """How many messages have come, whether they are carried out or not."""
        # Messages that have come and were not carried out yet.
        self._unread = 0
        # The ordinals that the client was asked and has not answered, in order, and whether some of
        # them were forgotten.
        self._asked: list[int] = []
        self._is_thinned = False
        self._last_asked = self._last_answered = self._first
        # When a tick may ask it again.
        self._next_ask = proofs.now
        # Up to which ordinal everything was written, if something later may not have been.
        self._sure: int | None = None
        # What the ping right before our close frame asked; None if there was none.
        self._final: int | None = None
        # Whoever waits for an answer, by the ordinal that was asked, and until a write is proven.
        self._answers: dict[int, Callable[[bool], None]] | None = None
        self._writes: dict[int, Callable[[bool], None]] | None = None
        # Whether the client's close frame has come, behind which it proves nothing; and whether the
        # connection has ended, which may take seconds more.
        self._is_closing = False
        self._has_ended = False

    @property
    def written(self) -> int:
        """The ordinal of the last write that the connection was to get. Unless it is higher than
        :attr:`proven`, the client has everything."""
        return self._outbox.written

    @property
    def sure(self) -> int:
        """The ordinal that stays proven even if the client closes the connection now."""
        return min(self.proven, self.proven_before_close)

    def count_write(self) -> int:
        """Give what was written last, and has no ordinal, one of its own; return it."""
        ordinal = self._outbox.written = self._proofs.advance()
        return ordinal

    @property
    def began(self) -> int:
        """The ordinal of the last write to any client when the connection began."""
        return self._first

    @property
    def seen(self) -> int:
        """The ordinal of the last ping that the client has answered; :attr:`began` if none."""
        return self._last_answered

    @property
    def has_answered(self) -> bool:
        """Whether the client has ever answered a ping with the ping's bytes."""
        return self._last_answered > self._first

    # What the outbox tells

    def asked(self, ordinal: int) -> None:
        """Note that a ping with this ordinal is written to the connection."""
        self._last_asked = ordinal
        # If it goes on getting something, a dispatch asks it again before a tick does.
        self._next_ask = self._proofs.now + self._proofs.interval + self._proofs.tick_interval
        self._asked.append(ordinal)
        if len(self._asked) > _MOST_OUTSTANDING:
            del self._asked[1 : _MOST_OUTSTANDING // 2 : 2]
            self._is_thinned = True

    def doubt(self) -> None:
        """Note that what is written from now on may not arrive, though it is numbered: the
        connection is closing, or the library writes it later."""
        if self._sure is None:
            self._sure = self._outbox.written

    # What the connection tells

    def received(self) -> None:
        """Note that a message came from the client."""
        now = self._proofs.clock()
        if not self._unread:
            self.arrived = now
        self._unread += 1
        self.messages += 1
        # Messages that come together were sent together: for each channel a new token, say.
        if now - self._last_message >= self._proofs.apart:
            self._last_message = now
            self.proven_before_close = self._proven_at_message
            self._proven_at_message = self.proven

    def carried_out(self) -> None:
        """Note that the server has done what a message asks for."""
        # One that came with the handshake was not noted.
        if self._unread:
            self._unread -= 1

    def pong(self, payload: bytes) -> bool:
        """Take a pong; return whether it answers a ping of ours.

        A pong that is not eight bytes long is none of ours: the library has pings of its own, and a
        client may send pongs unasked, as heartbeats (RFC 6455, section 5.5.3).
        """
        return len(payload) == _PAYLOAD.size and self.answered(*_PAYLOAD.unpack(payload))

    def answered(self, ordinal: int) -> bool:
        """Take a pong of eight bytes, as a number; return whether it answers a ping of ours."""
        asked = self._asked
        if asked and asked[0] == ordinal:
            del asked[0]
        else:
            place = bisect_left(asked, ordinal)
            if place == len(asked) or asked[place] != ordinal:
                self._consider(ordinal)
                return False
            # A client may answer the last ping only, for all (RFC 6455, section 5.5.3).
            del asked[: place + 1]
        self._last_answered = ordinal
        if not self.is_unprovable and not self._is_closing:
            self.proven = ordinal
            self._proofs.count += 1
        for answers in (self._answers, self._writes):
            if answers:
                for waiting in [waiting for waiting in answers if waiting <= ordinal]:
                    answers.pop(waiting)(True)
        return True

    def when_answered(self, ordinal: int, on_answer: Callable[[bool], None]) -> None:
        """Call a function with True when the client has answered a ping that was behind a write,
        or with False if the connection ends before, unless :meth:`forget` is called."""
        if self._has_ended:
            on_answer(False)
            return
        if self._writes is None:
            self._writes = {}
        self._writes[ordinal] = on_answer

    def forget(self, ordinal: int) -> None:
        """Call nothing any more for a write, since nobody waits for it."""
        if self._writes:
            self._writes.pop(ordinal, None)

    def closed_by_client(self) -> None:
        """Lower what is proven, as a page that closes may not have got the last messages."""
        if not self._is_closing:
            self._is_closing = True
            self.proven = min(self.proven, self.proven_before_close)

    @property
    def has_read_all(self) -> bool:
        """Whether the client has read up to our close frame: it has answered the last ping."""
        return self._final is not None and self._last_answered >= self._final

    def close_answered(self) -> None:
        """Note that everything has arrived, because the client has answered our close frame."""
        if not self._is_closing and not self.is_unprovable:
            self._is_closing = True
            sure = self._outbox.written if self._sure is None else self._sure
            self.proven = max(self.proven, sure)

    def close(self) -> None:
        """Note that the connection has ended. What is proven can still be read."""
        self._is_closing = self._has_ended = True
        self._proofs.disconnect(self)
        answers, self._answers = self._answers or {}, None
        writes, self._writes = self._writes or {}, None
        for answer in (*answers.values(), *writes.values()):
            answer(False)

    # Pings

    def ask(self, on_answer: Callable[[bool], None] | None = None) -> int:
        """Ping the client now, unless it has closed the connection.

        Args:
            on_answer: called with True when it has answered, or with False if the connection ends
                before. It is not called if a thousand more questions come before either. While the
                connection closes, its channels are still there, so it is not called until then.

        Returns:
            The ordinal that :attr:`proven` reaches when the client has answered.
        """
        # One that was not asked before: an earlier answer may be on its way.
        ordinal = self._proofs.advance()
        if on_answer is not None and self._has_ended:
            on_answer(False)
        elif on_answer is not None:
            if self._answers is None:
                self._answers = {}
            self._answers[ordinal] = on_answer
            if len(self._answers) > _MOST_QUESTIONS:
                # Nobody waits for the oldest any more.
                del self._answers[next(iter(self._answers))]
        if not self._is_closing:
            self._write_ping(ordinal)
        return ordinal

    def ask_finally(self) -> None:
        """Ask the client right before our close frame whether it has everything: some answer the
        close frame in a way that proves nothing."""
        if self._is_closing or self.is_unprovable:
            return
        ordinal = self.ask()
        if self._sure is None:
            self._final = ordinal

    def ask_if_due(self) -> None:
        """Ping the client if it was written to since the last ping, once in an interval."""
        written = self._outbox.written
        if (
            written > self._last_asked
            and self._proofs.now >= self._next_ask
            and not self.is_unprovable
            and not self._is_closing
        ):
            self._write_ping(written)
            # Already the next time it is looked at, which is an interval later, or nearly.
            self._next_ask = self._proofs.now + self._proofs.interval / 2

    def _write_ping(self, ordinal: int) -> None:
        self._outbox.write(Frames((), ordinal, ping_frame(ordinal)))

    def _consider(self, ordinal: int) -> None:
        """Decide on a pong that is no answer to a ping that is remembered."""
        # One that was answered before, by itself or with a later one.
        if self._first < ordinal <= self._last_answered:
            return
        if self._is_thinned and self._first < ordinal <= self._last_asked:
            return
        if not self.is_unprovable:
            self.is_unprovable = True
            self._proofs.unprovable += 1


def ping_payload(ordinal: int) -> bytes:
    """Return the eight bytes that a ping with an ordinal contains."""
    return _PAYLOAD.pack(ordinal)


def ping_frame(ordinal: int) -> bytes:
    """Return a ping frame with an ordinal."""
    return _PING.pack(_FIN_PING, _PAYLOAD.size, ordinal)
