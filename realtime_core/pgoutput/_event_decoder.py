"""EventDecoder: the common part of the decoders that make events of bytes in one step.

It has a :class:`Decoder` and an :class:`Assembler`, which know the whole format, and takes a short
cut around both for the Begin and the Commit of a transaction, as many transactions have no more
than one row. What is done with rows is up to the class that is made of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..changes import Commit, Transaction
from ..errors import DecodeError
from ..lsn import LSN
from ..positions import StreamIdentity
from ._layouts import BEGIN, COMMIT
from ._reader import new_lsn
from .assembler import Assembler
from .decoder import Decoder
from .spill import SpillStore

__all__ = ["EventDecoder"]


class EventDecoder:
    """Decodes one connection's messages; the arguments are those of :class:`ChangeDecoder`."""

    def __init__(
        self,
        stream: StreamIdentity | None,
        *,
        abort_info: bool,
        max_memory: int,
        spill_store: SpillStore | None,
        transactional_messages: bool,
    ) -> None:
        self._decoder = Decoder(abort_info=abort_info)
        self._assembler = Assembler(
            stream,
            max_memory=max_memory,
            spill_store=spill_store,
            transactional_messages=transactional_messages,
        )
        self._open_transaction = self._assembler.open_transaction

    @property
    def in_transaction(self) -> bool:
        """Whether a Begin has come without its Commit."""
        return self._assembler.in_transaction

    def close(self) -> None:
        """Drop the changes of transactions that have not ended, and their spill files."""
        self._assembler.close()

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

    def _long_way(self, data: bytes) -> Iterable[Any]:
        """Take any message through the decoder and the assembler; return the events."""
        try:
            message = self._decoder.decode(data)
        except Exception:
            self._assembler.abandon()
            raise
        return self._assembler.feed(message)
