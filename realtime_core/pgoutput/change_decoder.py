"""ChangeDecoder: decodes the bytes of a stream's messages into changes, in one step.

It is for programs that want changes and do not look at messages. Besides the short cuts that every
:class:`EventDecoder` takes it has one for each common kind of row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from .._implementation import IMPLEMENTATION
from ..changes import Begin, Change, Commit, Delete, Insert, Update
from ..errors import DecodeError
from ..positions import StreamIdentity
from ._event_decoder import EventDecoder
from ._row_readers import HEAD, ChangeReader, change_reader
from ._short_cuts import ShortCuts
from .assembler import MAX_MEMORY
from .spill import SpillStore

__all__ = ["ChangeDecoder"]

_NO_READERS: Final[dict[bytes, ChangeReader]] = {}
_ROWS: Final = frozenset(b"IUD")


class ChangeDecoder(EventDecoder):
    """Turns the messages of one connection, as bytes, into changes, in commit order.

    Example::

        for change in ChangeDecoder().decode(payloads):   # XLogData's payloads
            ...

    Args:
        stream: the stream's identity, which goes into each position; None if it is not known.
        abort_info: whether the stream was started with ``streaming 'parallel'``, as for
            :class:`Decoder`.
        max_memory: how many bytes of streamed and prepared transactions are held in memory, as
            for :class:`Assembler`.
        spill_store: takes what is beyond that, as for :class:`Assembler`.
        transactional_messages: whether transactional messages are changes, as for
            :class:`Assembler`.

    Raises:
        ConfigError: if ``max_memory`` is negative.
    """

    def __init__(
        self,
        stream: StreamIdentity | None = None,
        *,
        abort_info: bool = False,
        max_memory: int = MAX_MEMORY,
        spill_store: SpillStore | None = None,
        transactional_messages: bool = True,
    ) -> None:
        super().__init__(
            stream,
            abort_info=abort_info,
            max_memory=max_memory,
            spill_store=spill_store,
            transactional_messages=transactional_messages,
        )
        if IMPLEMENTATION == "c":
            from realtime_core_c.rows import RowReader

            self._short_cuts = ShortCuts(RowReader)
        else:
            self._short_cuts = ShortCuts(change_reader)
        self._assembler.relations.on_described = self._short_cuts.forget

    def decode(self, payloads: Iterable[bytes]) -> Iterator[Change | Begin | Commit]:
        """Decode messages one after the other; yield the changes that each one completes.

        The changes of a message are yielded before the next message is taken from ``payloads``.
        Exhaust the iterator before you call this again. After an error make a new decoder.

        Raises:
            DecodeError, SpillError: as :meth:`Decoder.decode` and :meth:`Assembler.feed` do.
        """
        if IMPLEMENTATION == "c":
            from realtime_core_c.changes import Changes

            return Changes(
                payloads,
                self._open_transaction,
                self._short_cuts.readers,
                self._assembler.is_abandoned,
                lambda: self._assembler.may_begin,
                self._long_way,
            )
        return self._decode(payloads)

    def _decode(self, payloads: Iterable[bytes]) -> Iterator[Change | Begin | Commit]:
        # Short cuts are for transactions that are not streamed: in a streamed one an xid stands
        # where the readers look for the OID. After an error no short cut is taken, and the
        # assembler refuses every message.
        find, find_none = self._short_cuts.readers.get, _NO_READERS.get
        opened = self._open_transaction
        transaction = None if self._assembler.is_abandoned else opened.transaction
        index = opened.changes
        reader_for = find_none if transaction is None else find
        for data in payloads:
            read = reader_for(data[:HEAD])
            if read is not None:
                assert transaction is not None
                change = read(data, transaction, index)
                if change is not None:
                    index += 1
                    opened.changes = index
                    if opened.begin_is_due:
                        opened.begin_is_due = False
                        yield Begin(transaction)
                    yield change
                    continue
            tag = data[:1]
            if tag == b"C":
                commit = self._short_commit(data, transaction)
                if commit is not None:
                    transaction, reader_for = None, find_none
                    yield commit
                    continue
            elif tag == b"B" and self._short_begin(data):
                transaction, index, reader_for = opened.transaction, 0, find
                continue
            events = self._long_way(data)
            if events:
                yield from events
            transaction, index = opened.transaction, opened.changes
            reader_for = find_none if transaction is None else find

    def skip(self, count: int) -> None:
        """Count changes of the transaction under way that are left out before the next message.

        A program that has only a part of a transaction, or that passes over changes, calls this
        between :meth:`decode` and :meth:`decode`, so that the others have the places that they
        would have had.

        Args:
            count: how many changes were left out.

        Raises:
            DecodeError: if no transaction is under way.
        """
        if self._open_transaction.transaction is None:
            raise DecodeError(f"{count} changes are left out, but no transaction is under way")
        self._open_transaction.changes += count

    def _long_way(self, data: bytes) -> Iterable[Any]:
        """Take any message through the decoder and the assembler; learn the short cut for a row."""
        events = super()._long_way(data)
        if data[0] in _ROWS and isinstance(events, tuple) and events:
            change = events[-1]
            if isinstance(change, Insert | Update | Delete):
                self._short_cuts.learn(data, change.relation)
        return events
