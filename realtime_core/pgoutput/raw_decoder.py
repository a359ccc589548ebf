"""RawDecoder: decodes the frames of transactions, and hands over their rows as bytes.

It is for programs that pass a stream on, or store it, and leave the rows to those who want them.
Of a row's message it looks at the tag and the relation's OID, so that each row has its place and
its relation; rows that follow each other come together. Whoever decodes the rows later finds out
whether they are valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final, TypeAlias

from ..changes import Begin, Commit, LogicalMessage, RawRows, Relation, Truncate
from ..errors import ConfigError, TruncatedMessageError
from ..positions import StreamIdentity
from ._event_decoder import EventDecoder
from ._rows import RawRow
from .assembler import MAX_MEMORY
from .spill import SpillStore

__all__ = ["MAX_ROWS", "RawDecoder"]

MAX_ROWS: Final = 64
"""The most rows that come together unless a caller says otherwise."""

_HEAD: Final = 5
"""How many bytes of a row's message tell its tag and its relation."""
_ROWS: Final = (b"I", b"U", b"D")
_NO_RELATIONS: Final[dict[bytes, Relation]] = {}
_HELD_BYTES: Final = 64 * 1024
"""How many bytes of a held transaction come together: all of it is there at once, in memory or on
disk, whatever its size. Other rows are in memory already."""
_Event: TypeAlias = RawRows | Truncate | LogicalMessage | Begin | Commit

_u32_at: Final = Struct("!I").unpack_from


class RawDecoder(EventDecoder):
    """Turns the messages of one connection, as bytes, into events with raw rows, in commit order.

    Example::

        for event in RawDecoder().decode(payloads):   # XLogData's payloads
            ...

    Args:
        stream: as for :class:`ChangeDecoder`.
        abort_info: as for :class:`ChangeDecoder`.
        max_memory: as for :class:`ChangeDecoder`.
        spill_store: as for :class:`ChangeDecoder`.
        transactional_messages: as for :class:`ChangeDecoder`.
        max_rows: the most rows of one :class:`RawRows`.

    Raises:
        ConfigError: if ``max_memory`` is negative, or ``max_rows`` is not positive.
    """

    def __init__(
        self,
        stream: StreamIdentity | None = None,
        *,
        abort_info: bool = False,
        max_memory: int = MAX_MEMORY,
        spill_store: SpillStore | None = None,
        transactional_messages: bool = True,
        max_rows: int = MAX_ROWS,
    ) -> None:
        if max_rows < 1:
            raise ConfigError(f"max_rows is a number of rows above 0, not {max_rows}")
        super().__init__(
            stream,
            abort_info=abort_info,
            max_memory=max_memory,
            spill_store=spill_store,
            transactional_messages=transactional_messages,
        )
        self._max_rows = max_rows
        # The relations of rows, by the head of the rows' messages outside of stream blocks.
        self._relations: dict[bytes, Relation] = {}
        self._assembler.relations.on_described = self._learn

    def decode(self, payloads: Iterable[bytes]) -> Iterator[_Event]:
        """Decode messages one after the other; yield the events that they complete.

        Rows are yielded before the next message that is none of the same relation, and before
        this ends or raises an error. Exhaust the iterator before you call this again. After an
        error make a new decoder.

        Raises:
            DecodeError, SpillError: as :meth:`Decoder.decode` and :meth:`Assembler.feed` do.
        """
        find, find_none, most = self._relations.get, _NO_RELATIONS.get, self._max_rows
        opened = self._open_transaction
        transaction = None if self._assembler.is_abandoned else opened.transaction
        relation_of = find_none if transaction is None else find
        # The rows that were not yielded yet, and their relation.
        rows: list[bytes] = []
        relation: Relation | None = None
        try:
            for data in payloads:
                found = relation_of(data[:_HEAD])
                if found is not None:
                    if found is relation and len(rows) < most:
                        rows.append(data)
                        continue
                    if relation is not None:
                        taken, rows = rows, [data]
                        yield self._raw_rows(relation, taken)
                    else:
                        rows = [data]
                        if opened.begin_is_due:
                            opened.begin_is_due = False
                            assert transaction is not None
                            yield Begin(transaction)
                    relation = found
                    continue
                if relation is not None:
                    event = self._raw_rows(relation, rows)
                    relation = None
                    yield event
                tag = data[:1]
                if tag == b"C":
                    commit = self._short_commit(data, transaction)
                    if commit is not None:
                        transaction, relation_of = None, find_none
                        yield commit
                        continue
                elif tag == b"B" and self._short_begin(data):
                    transaction, relation_of = opened.transaction, find
                    continue
                yield from self._long_way(data)
                transaction = opened.transaction
                relation_of = find_none if transaction is None else find
        except Exception:
            if relation is not None:
                yield self._raw_rows(relation, rows)
            raise
        if relation is not None:
            yield self._raw_rows(relation, rows)

    def _raw_rows(self, relation: Relation, rows: list[bytes]) -> RawRows:
        """Return rows of the transaction under way, and count them."""
        opened = self._open_transaction
        index = opened.changes
        opened.changes = index + len(rows)
        assert opened.transaction is not None
        return RawRows(opened.transaction, index, relation, tuple(rows))

    def _long_way(self, data: bytes) -> Iterable[_Event]:
        if data[:1] in _ROWS:
            # It is held, or else wrong: rows of a transaction under way take the short cut.
            return self._assembler.feed(self._raw_row(data))
        events = super()._long_way(data)
        return events if isinstance(events, tuple) else self._joined(events)

    def _raw_row(self, data: bytes) -> RawRow:
        xid = None
        is_streamed = self._decoder.in_stream
        if len(data) < (_HEAD + 4 if is_streamed else _HEAD):
            self._assembler.abandon()
            raise TruncatedMessageError(
                f"message {chr(data[0])!r} ends after {len(data)} bytes, too early"
            )
        if is_streamed:
            (xid,) = _u32_at(data, 1)
            data = data[:1] + data[_HEAD:]
        (oid,) = _u32_at(data, 1)
        return RawRow(oid, data, xid)

    def _joined(self, events: Iterable[_Event]) -> Iterator[_Event]:
        """Join the rows of a held transaction, which come one by one."""
        joined: RawRows | None = None
        rows: list[bytes] = []
        size = 0
        try:
            for event in events:
                former = joined
                if isinstance(event, RawRows):
                    (row,) = event.messages
                    size += len(row)
                    if (
                        former is not None
                        and event.relation is former.relation
                        and len(rows) < self._max_rows
                        and size <= _HELD_BYTES
                    ):
                        rows.append(row)
                        continue
                    joined, size = event, len(row)
                else:
                    joined = None
                if former is not None:
                    former.messages = tuple(rows)
                    yield former
                if joined is None:
                    yield event
                else:
                    rows = [row]
        except Exception:
            if joined is not None:
                joined.messages = tuple(rows)
                yield joined
            raise

    def _learn(self, relation_oid: int) -> None:
        """Note a relation, which was described anew."""
        relation = self._assembler.relations.get(relation_oid)
        place = relation_oid.to_bytes(4, "big")
        for tag in _ROWS:
            self._relations[tag + place] = relation
