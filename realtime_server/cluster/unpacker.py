"""Unpacker: makes the events of envelopes that a PgoutputSource would have yielded.

It may begin at any envelope. It hands over what stands behind the last place that it has, once, and
never passes over a hole: each envelope says at which place the one before it has ended.

It does no I/O and reads no clock.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from struct import Struct, error
from typing import Final, TypeAlias

from realtime_core import (
    LSN,
    DecodeError,
    Event,
    Gap,
    GapReason,
    Idle,
    StreamIdentity,
)
from realtime_core.pgoutput import ChangeDecoder
from realtime_core.positions import LAST_INDEX

from .chain import Chain
from .envelope import (
    Envelope,
    EnvelopeError,
    Kind,
    Place,
    Run,
    parts_of,
    position_at,
)

__all__ = ["Unpacker", "Wants"]

Wants: TypeAlias = Callable[[str, str], bool]
"""Returns whether anybody wants the rows of a table, which is named by its schema and its name."""

_BEGIN: Final = ord("B")
_ORIGIN: Final = ord("O")
_COMMIT: Final = ord("C")
_MESSAGE: Final = ord("M")
_RELATION: Final = ord("R")
_DESCRIPTIONS: Final = frozenset(b"RY")
_BEFORE_ALL: Final[Place] = (0, 0, -1)
_OUTSIDE: Final = -1
"""The index of the next change where there is no transaction."""
_u64_at: Final = Struct("!Q").unpack_from
_oid_of: Final = Struct("!xI").unpack_from
_NAMES: Final = 5
"""Where the names of a relation begin in its description."""
_message_head: Final = Struct("!xBQ").unpack_from


class Unpacker:
    """Reads one chain of envelopes, in order.

    Args:
        last: the place up to which the reader has everything; None to begin at whichever envelope
            comes first.
        stream: the stream of that place.
    """

    def __init__(self, last: Place | None = None, stream: StreamIdentity | None = None) -> None:
        self._chain = Chain(last, stream)
        self.stream = stream = _another(stream)
        """The stream of the last envelope; None before the first one. From one gap to the next the
        positions of all events of one timeline have this object, and behind a gap another one."""
        # As it stood in the last envelope.
        self._read_from: StreamIdentity | None = None
        self._decoder = ChangeDecoder(stream)
        # The commit LSN of the transaction that the decoder is in; None if it is in none.
        self._open: int | None = None
        # What the decoder was told of relations and types, by tag and OID.
        self._described: dict[tuple[int, int], bytes] = {}
        # The messages of the envelope that were not decoded yet.
        self._batch: list[bytes] = []
        # Schema and name of each relation that was described, by OID; and those of which no row was
        # decoded since.
        self._names: dict[int, tuple[str, str]] = {}
        self._unseen: set[int] = set()

    @property
    def last(self) -> Place | None:
        """The place up to which everything was read; None if nothing was."""
        return self._chain.last

    def begin_anew(self) -> None:
        """Begin at whichever envelope comes next: behind a hole, or behind an unreadable one.

        Call this when the consumer was told of the gap.
        """
        self._chain.begin_anew()
        # Behind a hole there may be another log, with lower places of the same stream.
        self._renew(None)

    def describe_anew(self) -> None:
        """Have the decoder told of all tables anew, so that their relations are other objects."""
        self._described.clear()

    def feed(self, envelope: Envelope, sequence: int, wants: Wants | None = None) -> list[Event]:
        """Take the next envelope; return the events that it completes.

        Rows that nobody wants are passed over, except for the first ones behind a description of
        their table. Where an envelope ends with such rows, or with a transaction that has no
        others, an Idle event says so.

        Args:
            envelope: the envelope.
            sequence: its number where it was read from, for errors.
            wants: whose rows to decode; None: those of all tables.

        Raises:
            EnvelopeError: if its body cannot be read. Nothing of it is handed over; call
                :meth:`begin_anew` before the next one.
            HoleError: if something before it is missing. The same envelope may be fed again behind
                :meth:`begin_anew`.
        """
        chain = self._chain
        whole = chain.feed(envelope, sequence)
        if whole is None:
            return []
        if whole.kind is Kind.GAP:
            return [self._gap(whole, sequence)]
        if whole.stream is not self._read_from:
            self._change_stream(whole.stream, sequence)
        if whole.kind is Kind.MARK:
            events: list[Event] = [Idle(position_at(whole.last, self.stream or whole.stream))]
        else:
            try:
                events = self._changes(whole, sequence, wants)
            except EnvelopeError:
                self._renew(self.stream)
                raise
            except (DecodeError, error, IndexError, ValueError) as exc:
                self._renew(self.stream)
                raise EnvelopeError(str(exc), sequence) from exc
        chain.last, chain.stream = whole.last, self.stream
        return events

    def _gap(self, envelope: Envelope, sequence: int) -> Gap:
        try:
            reason = GapReason(envelope.body.decode())
        except ValueError as exc:
            raise EnvelopeError(str(exc), sequence) from None
        last, stream = self.last, self.stream
        after = None if last is None or stream is None else position_at(last, stream)
        self._renew(_another(envelope.stream))
        self._chain.last, self._chain.stream = envelope.last, envelope.stream
        generation, lsn, index = envelope.last
        # The place before an LSN stands for all that commits there, or later.
        until = (generation, lsn + 1, 0) if index == LAST_INDEX else envelope.last
        return Gap(after, position_at(until, envelope.stream), reason)

    def _change_stream(self, stream: StreamIdentity, sequence: int) -> None:
        """Note which stream the envelopes are of; make another decoder if it is a new one.

        The decoder puts the stream's timeline into the positions of changes.
        """
        known = self.stream
        if known is not None and stream != known and self.last is not None:
            raise EnvelopeError(f"it is of {stream}, without a gap behind {known}", sequence)
        if known is None or known.timeline != stream.timeline or known != stream:
            self._renew(_another(stream))
        self._read_from = stream

    def _renew(self, stream: StreamIdentity | None) -> None:
        self.stream, self._read_from = stream, None
        self._decoder = ChangeDecoder(stream)
        self._described = {}
        self._names = {}
        self._open = None

    # Changes

    def _changes(self, envelope: Envelope, sequence: int, wants: Wants | None) -> list[Event]:
        """Decode an envelope with changes; leave out those that the reader has."""
        generation, first_lsn, first_index = envelope.first
        last = self.last or _BEFORE_ALL
        # Where the next change stands, and the transaction's frame as long as it was not decoded.
        lsn, index = 0, _OUTSIDE
        frame: list[bytes] = []
        first: Place | None = None
        end = last
        events: list[Event] = []
        # What is to be decoded next. It is decoded at once, which takes a third of the time that
        # it takes message by message where transactions have one row each.
        batch: list[bytes] = []
        self._batch = batch
        # Whether what came last was passed over.
        is_passed = False
        for part in parts_of(envelope.body, sequence):
            if type(part) is Run:
                if index < 0:
                    raise EnvelopeError("it has rows outside of a transaction", sequence)
                start = (generation, lsn, index)
                first = first or start
                count, left_out = part.count, 0
                end = (generation, lsn, index + count - 1)
                if start <= last:
                    left_out = min(count, last[2] + 1 - index) if last[1] == lsn else count
                if left_out < count:
                    is_passed = self._passes_over(part.relation_oid, wants)
                    if not is_passed:
                        self._enter(frame, lsn, index + left_out, events)
                        rows = part.messages(sequence)
                        batch += rows[left_out:] if left_out else rows
                    elif self._open == lsn:
                        events += self._decoder.decode(batch)
                        batch.clear()
                        self._decoder.skip(count - left_out)
                index += count
                continue
            assert isinstance(part, bytes)
            tag = part[0]
            if tag in _DESCRIPTIONS:
                self._describe(part)
            elif tag == _BEGIN:
                (lsn,) = _u64_at(part, 1)
                index = first_index if lsn == first_lsn else 0
                if index == LAST_INDEX:
                    raise EnvelopeError("it begins with the end of a transaction", sequence)
                frame = [part]
            elif tag == _ORIGIN:
                frame.append(part)
            elif tag == _COMMIT:
                if index < 0:
                    raise EnvelopeError("it has a Commit outside of a transaction", sequence)
                end = (generation, lsn, LAST_INDEX)
                first = first or end
                if end > last:
                    # What has no change that anybody wants has no frame either.
                    is_passed = wants is not None and self._open is None
                    if not is_passed:
                        self._enter(frame, lsn, index, events)
                        batch.append(part)
                        self._open = None
                lsn, index = 0, _OUTSIDE
            else:
                flags, at = _message_head(part) if tag == _MESSAGE else (1, 0)
                is_within, before = flags & 1, end
                if not is_within:
                    end = (generation, max(at - 1, 0), 0)
                elif index < 0:
                    raise EnvelopeError("it has a change outside of a transaction", sequence)
                else:
                    end = (generation, lsn, index)
                first = first or end
                if end > last:
                    if is_passed:
                        # Whoever counts only changes knows of no place behind a message.
                        events += self._decoder.decode(batch)
                        batch.clear()
                        events.append(Idle(position_at(before, self.stream or envelope.stream)))
                    if is_within:
                        self._enter(frame, lsn, index, events)
                    batch.append(part)
                    is_passed = False
                index += is_within
        if (first, end) != (envelope.first, envelope.last):
            raise EnvelopeError("its changes stand at other places than it says", sequence)
        events += self._decoder.decode(batch)
        if is_passed:
            events.append(Idle(position_at(end, self.stream or envelope.stream)))
        return events

    def _passes_over(self, oid: int, wants: Wants | None) -> bool:
        """Return whether rows of a relation are passed over."""
        if wants is None:
            return False
        if oid in self._unseen:
            # Whoever keeps what the database says of a table learns from a row that it has changed.
            self._unseen.discard(oid)
            return False
        names = self._names.get(oid)
        # The decoder says that it does not know the relation.
        return names is not None and not wants(*names)

    def _enter(self, frame: list[bytes], lsn: int, index: int, events: list[Event]) -> None:
        """Have the decoder in a transaction, before its change with this index, or its Commit."""
        if self._open == lsn:
            return
        if self._open is not None:
            raise DecodeError(f"the transaction that commits at {LSN(self._open)} has no end")
        self._batch += frame
        self._open = lsn
        if index:
            events += self._decoder.decode(self._batch)
            self._batch.clear()
            self._decoder.skip(index)

    def _describe(self, message: bytes) -> None:
        """Tell the decoder of a relation or a type, unless it knows just that.

        A relation that is described anew is another one, for which filters are compiled again.
        """
        (oid,) = _oid_of(message)
        key = (message[0], oid)
        if self._described.get(key) != message:
            self._batch.append(message)
            self._described[key] = message
            if message[0] == _RELATION:
                schema, name, _ = message[_NAMES:].split(b"\0", 2)
                self._names[oid] = (schema.decode() or "pg_catalog", name.decode())
                self._unseen.add(oid)


def _another(stream: StreamIdentity | None) -> StreamIdentity | None:
    """Return the same in another object."""
    return None if stream is None else copy.copy(stream)
