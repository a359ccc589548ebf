"""Packer: makes envelopes of what a RawPgoutputSource yields.

It never ends an envelope behind the last row that has come of a transaction that has not ended.
Whoever goes on from there would get no more of that transaction than its Commit, and a source that
begins at the place of the last row does not yield that Commit. So the last change is kept back
until something comes behind it, which it does within a moment.

It does no I/O and reads no clock: whoever feeds it decides when an envelope is worth sending.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import Final

import attrs

from realtime_core import (
    Begin,
    Commit,
    Gap,
    Idle,
    LogicalMessage,
    Position,
    RawEvent,
    RawRows,
    Relation,
    StreamIdentity,
    Transaction,
    Truncate,
)
from realtime_core.pgoutput import Encoder, encode_relation
from realtime_core.positions import LAST_INDEX

from .envelope import (
    HEAD_BYTES,
    VERSION,
    Envelope,
    Kind,
    Place,
    encode,
    write_message,
    write_run,
)

__all__ = ["LEAST_PAYLOAD", "MAX_BYTES", "Packed", "Packer"]

MAX_BYTES: Final = 256 * 1024
"""How many bytes of changes an envelope has at most, unless one change alone has more."""
LEAST_PAYLOAD: Final = 32 * 1024
"""How many bytes messages have to be allowed where a change may have as many as PostgreSQL lets it
have, which is 1 GiB: an envelope counts up to 65,535 parts."""
_MOST_PARTS: Final = 65_535
_MOST_RELATIONS: Final = 1000
"""How many relations' descriptions are remembered as bytes."""
_LENGTH: Final = 4
"""How many bytes a row takes in a run besides its own."""


@attrs.frozen
class Packed:
    """An envelope to be appended to the log."""

    data: bytes
    last: Place
    """Where the chain stands behind it: the next leader goes on from there."""
    upto: Position | None
    """What may be acknowledged to the source once the log has it; None for nothing more."""


class Packer:
    """Makes one chain of envelopes.

    Args:
        prev: the place that the chain stands at.
        stream: the stream's identity.
        max_bytes: how many bytes of changes an envelope has at most.
        max_payload: how many bytes a message may have where the envelopes are sent; a larger one
            goes in parts. With less than ``LEAST_PAYLOAD`` a change may be too large.
        is_read: whether somebody reads a logical message. Of others the place alone is written;
            outside of transactions, that of the last one of several.
        version: in which envelopes are written.
    """

    def __init__(
        self,
        prev: Place,
        stream: StreamIdentity,
        *,
        max_bytes: int = MAX_BYTES,
        max_payload: int = 1024 * 1024,
        is_read: Callable[[LogicalMessage], bool] = lambda message: True,
        version: int = VERSION,
    ) -> None:
        names = "\0".join(stream.publications).encode()
        if max_payload <= HEAD_BYTES + len(names):
            raise ValueError(f"max_payload is {max_payload}, less than an envelope's head")
        self.last = prev
        """Where the chain stands behind the envelopes that were returned."""
        self.version = version
        """The version in which the next envelopes are written."""
        self._stream = stream
        self._is_read = is_read
        self._max_bytes = max_bytes
        self._max_body = max_payload - HEAD_BYTES - len(names)
        self._encoder = Encoder()
        # The last change of a transaction that has not ended; None behind its Commit.
        self._kept: RawRows | Truncate | LogicalMessage | None = None
        # A message outside of transactions that nobody reads, unless something stands behind it:
        # no place depends on its being there.
        self._passed: LogicalMessage | None = None
        # Descriptions as parts of a body, by the relation.
        self._descriptions: dict[Relation, bytes] = {}
        # The envelope that is being written.
        self._parts: list[bytes] = []
        # By OID: a table may have other columns for a while, and then those of before.
        self._described: dict[int, Relation] = {}
        self._begun: Transaction | None = None
        self._first: Place | None = None
        self._end = prev
        # What may be acknowledged when the log has it.
        self._upto: RawRows | Truncate | LogicalMessage | Commit | None = None
        # The run that is being written.
        self._rows: list[bytes] = []
        self._relation: Relation | None = None
        self.size = 0
        """About how many bytes the envelope has that is being written."""

    def feed(self, event: RawEvent) -> list[Packed]:
        """Take the next event; return the envelopes that are full.

        Raises:
            ValueError: if it does not stand behind what came before it, or is too large.
        """
        full: list[Packed] = []
        if isinstance(event, Begin):
            return full
        kept, self._kept = self._kept, None
        if kept is not None:
            self._write(kept, full)
        # A match statement takes longer here, where transactions have one row each.
        if isinstance(event, RawRows):
            if len(event.messages) == 1:
                self._kept = event
            else:
                self._feed_rows(event, full)
        elif isinstance(event, Commit):
            self._commit(event, full)
        elif isinstance(event, Truncate | LogicalMessage):
            if isinstance(event, Truncate):
                self._kept = event
            else:
                self._feed_message(event, full)
        elif isinstance(event, Idle):
            full += self.flush()
            self._read_from(event.position.stream, full)
            place = (self.last[0], event.position.lsn, event.position.index)
            full += self._alone(Kind.MARK, place, b"", event.position)
        elif isinstance(event, Gap):
            full += self.flush()
            full += self._gap(event)
        if self.size >= self._max_bytes:
            full += self.flush()
        return full

    def flush(self) -> list[Packed]:
        """Return the envelope that was begun, in one part or more; nothing if it has no changes."""
        full: list[Packed] = []
        passed, self._passed = self._passed, None
        if passed is not None:
            self._write(passed, full)
        if self._first is None or self._upto is None:
            return full
        self._end_run()
        body = b"".join(self._parts)
        packed = self._pack(Kind.CHANGES, self._first, self._end, body, self._upto.position)
        self._parts, self._first, self._begun, self.size = [], None, None, 0
        self._described.clear()
        return full + packed

    def repeat(self) -> Packed:
        """Return an envelope that says once more where the chain stands, and moves nothing."""
        place = self.last
        return Packed(
            encode(Envelope(Kind.MARK, place, place, place, self._stream, b""), self.version),
            place,
            None,
        )

    # Writing an envelope

    def _feed_rows(self, event: RawRows, full: list[Packed]) -> None:
        """Write all rows but the last one, which is kept."""
        messages = event.messages
        count = len(messages) - 1
        transaction, index, relation = event.transaction, event.index, event.relation
        if self.size + _size(messages) <= self._max_bytes:
            self._write(RawRows(transaction, index, relation, messages[:count]), full)
        else:
            # Where each row ends, behind the first one.
            ends = list(accumulate(len(message) + _LENGTH for message in messages[:count]))
            begin = size = 0
            while begin < count:
                fitting = bisect_right(ends, size + self._max_bytes - self.size)
                end = max(fitting, begin + 1)
                rows = messages[begin:end]
                self._write(RawRows(transaction, index + begin, relation, rows), full)
                begin, size = end, ends[end - 1]
        self._kept = RawRows(transaction, index + count, relation, messages[count:])

    def _feed_message(self, message: LogicalMessage, full: list[Packed]) -> None:
        is_read = self._is_read(message)
        if not is_read:
            message = attrs.evolve(message, prefix="", content=b"")
        if message.transaction is not None:
            self._kept = message
        elif is_read:
            self._write(message, full)
        else:
            self._passed = message

    def _write(self, event: RawRows | Truncate | LogicalMessage, full: list[Packed]) -> None:
        """Write changes, in the next envelope if they do not fit into this one."""
        transaction = event.transaction
        if transaction is None:
            position = event.position
            self._read_from(position.stream, full)
            place = (self.last[0], position.lsn, position.index)
            self._follow(place, place, event)
            self._add(self._encoder.encode(event))
            return
        if transaction.stream is not self._stream:
            self._read_from(transaction.stream, full)
        messages = event.messages if isinstance(event, RawRows) else ()
        size = _size(messages)
        if self.size + size > self._max_bytes:
            full += self.flush()
        generation, lsn, index = self.last[0], transaction.commit_lsn, event.index
        last = index + max(len(messages) - 1, 0)
        self._follow((generation, lsn, index), (generation, lsn, last), event)
        if self._begun is not transaction:
            self._begin(transaction)
        if isinstance(event, RawRows):
            if event.relation is not self._relation:
                if self._relation is not None:
                    self._end_run()
                self._describe(event.relation)
                self._relation = event.relation
            self._rows += messages
            self.size += size
            return
        self._end_run()
        if isinstance(event, Truncate):
            for relation in event.relations:
                self._describe(relation)
        # The encoder describes the relations, too, before the message.
        self._add(self._encoder.encode(event)[-1:])

    def _commit(self, event: Commit, full: list[Packed]) -> None:
        if not event.changes:
            return
        transaction = event.transaction
        if transaction.stream is not self._stream:
            self._read_from(transaction.stream, full)
        place = (self.last[0], transaction.commit_lsn, LAST_INDEX)
        self._follow(place, place, event)
        if self._begun is not transaction:
            self._begin(transaction)
        self._add(self._encoder.encode(event))
        self._begun = None

    def _begin(self, transaction: Transaction) -> None:
        """Write the Begin of a transaction, unless the envelope has it by another object."""
        begun = self._begun
        # When the source has reconnected within a transaction, its object is another one.
        if begun is None or begun.commit_lsn != transaction.commit_lsn:
            self._add(self._encoder.encode(Begin(transaction)))
        self._begun = transaction

    def _follow(
        self, first: Place, end: Place, event: RawRows | Truncate | LogicalMessage | Commit
    ) -> None:
        before = self.last if self._first is None else self._end
        if first <= before:
            raise ValueError(f"{first} does not stand behind {before}")
        if self._first is None:
            self._first = first
        self._end, self._upto, self._passed = end, event, None

    def _describe(self, relation: Relation) -> None:
        if self._described.get(relation.oid) is relation:
            return
        self._described[relation.oid] = relation
        description = self._descriptions.get(relation)
        if description is None:
            if len(self._descriptions) >= _MOST_RELATIONS:
                self._descriptions.clear()
            description = b"".join(map(write_message, encode_relation(relation)))
            self._descriptions[relation] = description
        self._parts.append(description)
        self.size += len(description)

    def _add(self, messages: list[bytes]) -> None:
        if self._relation is not None:
            self._end_run()
        for message in messages:
            part = write_message(message)
            self._parts.append(part)
            self.size += len(part)

    def _end_run(self) -> None:
        if self._rows:
            assert self._relation is not None
            self._parts.append(write_run(self._relation.oid, self._rows))
            self._rows = []
        self._relation = None

    # Envelopes without changes

    def _gap(self, gap: Gap) -> list[Packed]:
        until = gap.until
        stream = until.stream or self._stream
        generation = self.last[0]
        # A transaction may commit at just this LSN, and its changes stand behind the gap.
        at = (until.lsn, until.index) if until.index else (until.lsn - 1, LAST_INDEX)
        place = (generation, *at)
        if stream != self._stream or place <= self.last:
            place = (generation + 1, *at)
        self._stream = stream
        return self._alone(Kind.GAP, place, gap.reason.value.encode(), None)

    def _alone(self, kind: Kind, place: Place, body: bytes, upto: Position | None) -> list[Packed]:
        if place <= self.last:
            raise ValueError(f"{place} does not stand behind {self.last}")
        return self._pack(kind, place, place, body, upto)

    def _read_from(self, stream: StreamIdentity | None, full: list[Packed]) -> None:
        """Note the timeline that is read, which a promotion changes."""
        if stream is not None and stream.timeline != self._stream.timeline:
            full += self.flush()
            self._stream = stream

    def _pack(
        self, kind: Kind, first: Place, last: Place, body: bytes, upto: Position | None
    ) -> list[Packed]:
        prev, stream, most = self.last, self._stream, self._max_body
        if len(body) <= most:
            self.last = last
            return [
                Packed(
                    encode(Envelope(kind, first, last, prev, stream, body), self.version),
                    last,
                    upto,
                )
            ]
        pieces = [body[at : at + most] for at in range(0, len(body), most)]
        count = len(pieces)
        if count > _MOST_PARTS:
            raise ValueError(
                f"a change takes {count} messages of {most} bytes, and an envelope has "
                f"{_MOST_PARTS} parts at most"
            )
        packed = [
            Packed(
                encode(
                    Envelope(kind, prev, prev, prev, stream, piece, number, count), self.version
                ),
                prev,
                None,
            )
            for number, piece in enumerate(pieces[:-1], 1)
        ]
        end = Envelope(kind, first, last, prev, stream, pieces[-1], count, count)
        self.last = last
        return [*packed, Packed(encode(end), last, upto)]


def _size(messages: tuple[bytes, ...]) -> int:
    """Return how many bytes rows take in a run."""
    return sum(map(len, messages)) + _LENGTH * len(messages)
