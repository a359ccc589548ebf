"""LiveStream: one connection that streams from a slot, with its decoder and its status updates.

It reads what the server sends, decodes it, and tells the server how far the consumer is. After the
connection broke there is a new LiveStream, which continues the same :class:`StreamHistory`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any, Final

from .._implementation import IMPLEMENTATION
from ..changes import Event, Idle, RawRows
from ..lsn import LSN
from ..positions import Position
from ..replication.protocol import (
    TAG_KEEPALIVE,
    TAG_XLOG_DATA,
    XLOG_DATA_HEADER,
    Keepalive,
    Payload,
    parse_copy_data,
)
from ._attach import AttachedStream
from ._feedback import Feedback
from ._history import StreamHistory
from ._plugin import PayloadDecoder
from .stream_options import StreamSettings

__all__ = ["LiveStream"]

_STABLE: Final = 5.0
"""Seconds after which a stream that ends is known to have worked."""
_SILENCE: Final = 60.0
"""Seconds of silence after which a connection without wal_sender_timeout is given up."""
_TAG: Final = itemgetter(0)


class LiveStream:
    """Reads the stream of one connection.

    Args:
        attachment: the running stream.
        slot: name of the slot that it streams from.
        decoder: a new decoder, for this connection.
        history: what was taken from the slot so far; the attachment is noted there already.
        settings: the source's settings.
    """

    def __init__(
        self,
        attachment: AttachedStream,
        slot: str,
        decoder: PayloadDecoder,
        history: StreamHistory,
        settings: StreamSettings,
    ) -> None:
        self.slot = slot
        """Name of the slot."""
        self.connection = attachment.connection
        """The connection that streams."""
        self._decoder = decoder
        self._history = history
        # The sequence that this connection continues. The history begins another one at a gap.
        self._sequence = history.sequence
        # Whether the consumer keeps its own checkpoint, and gets Idle positions.
        self._own_checkpoint = settings.own_checkpoint
        # Seconds between two of these.
        self._idle_interval = settings.status_interval
        # Whether nothing may be sent any more.
        self._is_closed = False
        self._loop = asyncio.get_running_loop()
        # When the stream began.
        self._began_at = self._loop.time()
        # How many changes had been taken by then.
        self._changes_before = self._sequence.changes
        timeout, interval = attachment.sender_timeout, settings.status_interval
        # Sends status updates until the stream ends.
        self._feedback = Feedback(
            attachment.connection,
            self._sequence.progress,
            interval=min(interval, timeout / 3) if timeout else interval,
            patience=2 * timeout or _SILENCE,
        )

    @property
    def in_transaction(self) -> bool:
        """Whether the Begin of a transaction was read, and its Commit was not."""
        return self._decoder.in_transaction

    @property
    def has_worked(self) -> bool:
        """Whether changes have come, or the stream has lasted for some seconds."""
        has_changes = self._sequence.changes > self._changes_before
        return has_changes or self._loop.time() - self._began_at > _STABLE

    def take(self, payloads: list[Payload]) -> Iterator[Event | RawRows | None]:
        """Take the payloads that a read of the connection has returned.

        Returns:
            An iterator that decodes them as it goes. It yields new events that pass, and None for
            all others, and raises a RealtimeError if a payload cannot be decoded, or a spilled
            transaction cannot be read back.
        """
        self._feedback.heard()
        # Only the last of several keepalives counts, because its LSN is the highest. If one wants
        # an answer it is the last one: PostgreSQL sends no other before it has the answer.
        last = bytes(map(_TAG, payloads)).rfind(TAG_KEEPALIVE)
        return self._events(payloads) if last < 0 else self._with_keepalive(payloads, last)

    def _with_keepalive(
        self, payloads: list[Payload], last: int
    ) -> Iterator[Event | RawRows | None]:
        behind = payloads[last + 1 :]
        yield from self._events(payloads[:last])
        message = parse_copy_data(payloads[last])
        if isinstance(message, Keepalive) and self._sequence is self._history.sequence:
            yield from self._keepalive(message)
        yield from self._events(behind)

    def _events(self, payloads: list[Payload]) -> Iterator[Event | RawRows | None]:
        events = self._decoder.decode(_messages(payloads))
        sequence = self._sequence
        accept = self._history.accepting(sequence)
        if IMPLEMENTATION == "c" and accept == sequence.accept:
            from realtime_core_c.stream import Accepted

            return Accepted(events, sequence)
        return _accepted(events, accept)

    def _keepalive(self, message: Keepalive) -> Iterator[Idle]:
        """Let a keepalive move the slot where it may, and answer it if the server wants that."""
        progress = self._sequence.progress
        if not self.in_transaction and self._history.skips.keepalive(message.wal_end):
            if self._own_checkpoint:
                progress.arrived(message.wal_end)
                yield from self._idle(message)
            else:
                moved_from = progress.flushed
                progress.keepalive(message.wal_end)
                if progress.flushed > moved_from:
                    self.acknowledge_soon()
        if message.reply_requested and not self._is_closed:
            self._feedback.send()

    def _idle(self, message: Keepalive) -> Iterator[Idle]:
        """Yield an Idle position now and then, when no other position is still to be stored."""
        progress = self._sequence.progress
        now = self._loop.time()
        due = message.reply_requested or now - self._history.idle_at >= self._idle_interval
        # The position stands before the end of the WAL, where the next commit may begin.
        lsn = LSN(message.wal_end - 1)
        is_new = lsn >= progress.flushed and (lsn, 0) > self._sequence.last
        if due and is_new and self._sequence.all_done:
            self._history.idle_at = now
            progress.transaction_ended((lsn, 0), message.wal_end)
            yield Idle(Position(lsn, 0, self._history.stream))

    def acknowledge_soon(self) -> None:
        """Tell the server, within 50 ms, how far the consumer has acknowledged."""
        if not self._is_closed:
            self._feedback.send_soon()

    def ask(self) -> None:
        """Have the server tell soon how far it has come, which wakes a read that waits."""
        if not self._is_closed:
            self._feedback.send(reply_requested=True)

    def close(self) -> None:
        """Close the connection at once."""
        self.connection.close()
        self._end()

    async def stop(self, within: float) -> None:
        """Send the last acknowledgement, release the slot and close the connection.

        If that takes longer than ``within`` seconds, the connection is just closed.
        """
        self._feedback.send()
        self._end()
        await self.connection.stop(within)

    def _end(self) -> None:
        self._is_closed = True
        self._feedback.stop()
        self._decoder.close()


def _accepted(
    events: Iterable[Any], accept: Callable[[Any], bool]
) -> Iterator[Event | RawRows | None]:
    """Yield the events that are accepted, and None for all others."""
    for event in events:
        yield event if accept(event) else None


def _messages(payloads: list[Payload]) -> Iterator[bytes]:
    """Yield the output plugin's messages, without the keepalives among them; empty the list.

    What was read is freed as it is decoded: so fewer objects are alive at a time than make Python
    look for cycles among them.
    """
    if IMPLEMENTATION == "c":
        from realtime_core_c.stream import Messages

        return Messages(payloads, parse_copy_data)
    return _popped(payloads)


def _popped(payloads: list[Payload]) -> Iterator[bytes]:
    payloads.reverse()
    while payloads:
        payload = payloads.pop()
        if payload[0] == TAG_XLOG_DATA:
            # The message is copied once, because bytes are decoded faster than a memoryview.
            yield bytes(payload[XLOG_DATA_HEADER:])
        elif payload[0] != TAG_KEEPALIVE:
            # This raises the error that says what is wrong.
            parse_copy_data(payload)
