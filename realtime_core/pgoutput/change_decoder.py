"""ChangeDecoder: decodes the bytes of a stream's messages into changes, in one step.

It is for programs that want changes and do not look at messages. It has a decoder and an
assembler, which know the whole format, and takes short cuts around them for common rows, and for
the Begin and the Commit of a transaction, as many transactions have no more than one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ..changes import Begin, Change, Commit, Delete, Insert, Transaction, Update
from ..errors import DecodeError
from ..lsn import LSN
from ..positions import StreamIdentity
from ._layouts import BEGIN, COMMIT
from ._reader import new_lsn
from ._row_readers import HEAD, ChangeReader
from ._short_cuts import ShortCuts
from .assembler import MAX_MEMORY, Assembler
from .decoder import Decoder
from .spill import SpillStore

__all__ = ["ChangeDecoder"]

_NO_READERS: Final[dict[bytes, ChangeReader]] = {}
_ROWS: Final = frozenset(b"IUD")


class ChangeDecoder:
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
        self._decoder = Decoder(abort_info=abort_info)
        self._assembler = Assembler(
            stream,
            max_memory=max_memory,
            spill_store=spill_store,
            transactional_messages=transactional_messages,
        )
        self._open_transaction = self._assembler.open_transaction
        self._short_cuts = ShortCuts()
        self._assembler.relations.on_described = self._short_cuts.forget

    @property
    def in_transaction(self) -> bool:
        """Whether a Begin has come without its Commit."""
        return self._assembler.in_transaction

    def close(self) -> None:
        """Drop the changes of transactions that have not ended, and their spill files."""
        self._assembler.close()

    def decode(self, payloads: Iterable[bytes]) -> Iterator[Change | Begin | Commit]:
        """Decode messages one after the other; yield the changes that each one completes.

        The changes of a message are yielded before the next message is taken from ``payloads``.
        Exhaust the iterator before you call this again. After an error make a new decoder.

        Raises:
            DecodeError, SpillError: as :meth:`Decoder.decode` and :meth:`Assembler.feed` do.
        """
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

    def _short_begin(self, data: bytes) -> bool:
        """Take a Begin message; return False if it has to go the long way."""
        if len(data) != BEGIN.size or not self._assembler.may_begin:
            return False
        commit_lsn, commit_time, xid = BEGIN.unpack(data)
        try:
            self._open_transaction.begin(xid, new_lsn(LSN, commit_lsn), commit_time)
        except DecodeError:
            # Python has no such time. The long way raises the error again, and is then broken.
            return False
        return True

    def _short_commit(self, data: bytes, transaction: Transaction | None) -> Commit | None:
        """Take a Commit message; return None if it has to go the long way."""
        opened = self._open_transaction
        if len(data) != COMMIT.size or transaction is None or opened.begin_is_due:
            return None
        _, commit_lsn, end_lsn, _ = COMMIT.unpack(data)
        if commit_lsn != transaction.commit_lsn:
            return None
        opened.transaction = None
        return Commit(transaction, new_lsn(LSN, end_lsn), opened.changes)

    def _long_way(self, data: bytes) -> Iterable[Change | Begin | Commit]:
        """Take any message through the decoder and the assembler."""
        try:
            message = self._decoder.decode(data)
        except Exception:
            self._assembler.abandon()
            raise
        events = self._assembler.feed(message)
        if data[0] in _ROWS and isinstance(events, tuple) and events:
            change = events[-1]
            if isinstance(change, Insert | Update | Delete):
                self._short_cuts.learn(data, change.relation)
        return events
