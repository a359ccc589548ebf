"""ChangeDecoder: the bytes of a stream's messages to changes, in one step.

A decoder and an assembler in one, for whoever wants changes and no messages. Those two know
all that there is to know about the format; what comes here are short cuts for common rows, and
for the beginning and the end of a transaction, since many have no more than one row.
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
        stream: as :class:`Assembler` takes it.
        abort_info: as :class:`Decoder` takes it.
        lazy: whether the common rows are only checked, and cut into fields when somebody asks
            for one: faster for who passes most rows over or reads a column or two, slower for
            who reads all.
        max_memory: as :class:`Assembler` takes it.
        spill_store: as :class:`Assembler` takes it.

    Raises:
        ConfigError: if ``max_memory`` is negative.
    """

    def __init__(
        self,
        stream: StreamIdentity | None = None,
        *,
        abort_info: bool = False,
        lazy: bool = False,
        max_memory: int = MAX_MEMORY,
        spill_store: SpillStore | None = None,
    ) -> None:
        self._decoder = Decoder(abort_info=abort_info)
        self._assembler = Assembler(stream, max_memory=max_memory, spill_store=spill_store)
        self._open_transaction = self._assembler.open_transaction
        self._short_cuts = ShortCuts(lazy=lazy)
        self._assembler.relations.on_described = self._short_cuts.forget

    @property
    def in_transaction(self) -> bool:
        """Whether a Begin has come without its Commit."""
        return self._assembler.in_transaction

    def close(self) -> None:
        """Drop what is held of transactions that have not ended, and their spill files."""
        self._assembler.close()

    def decode(self, payloads: Iterable[bytes]) -> Iterator[Change | Begin | Commit]:
        """Decode messages one after the other; yield what each completes.

        What comes of a message is yielded before the next one is taken. Use the iterator up
        before the next call; after an error there must be none.

        Raises:
            DecodeError, SpillError: as :meth:`Decoder.decode` and :meth:`Assembler.feed` do.
        """
        # There are short cuts in plain transactions only: in others an xid stands in the OID's
        # place. After an error there are none, and the long way refuses all.
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
        """Take a Begin; return False for one that has to go the long way."""
        if len(data) != BEGIN.size or not self._assembler.may_begin:
            return False
        commit_lsn, commit_time, xid = BEGIN.unpack(data)
        try:
            self._open_transaction.begin(xid, new_lsn(LSN, commit_lsn), commit_time)
        except DecodeError:
            # A time that there is not: the long way refuses it for good.
            return False
        return True

    def _short_commit(self, data: bytes, transaction: Transaction | None) -> Commit | None:
        """Return the end of a transaction; None for one that has to go the long way."""
        opened = self._open_transaction
        if len(data) != COMMIT.size or transaction is None or opened.begin_is_due:
            return None
        _, commit_lsn, end_lsn, _ = COMMIT.unpack(data)
        if commit_lsn != transaction.commit_lsn:
            return None
        opened.transaction = None
        return Commit(transaction, new_lsn(LSN, end_lsn), opened.changes)

    def _long_way(self, data: bytes) -> Iterable[Change | Begin | Commit]:
        try:
            message = self._decoder.decode(data)
        except Exception:
            self._assembler.abandon()
            raise
        events = self._assembler.feed(message)
        if data[0] in _ROWS and isinstance(events, tuple) and events:
            change = events[-1]
            if isinstance(change, Insert | Update | Delete):
                self._short_cuts.learn(data, change)
        return events
