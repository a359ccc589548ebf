"""MemoryDatabase: tables to write to, slots to read from, and what can go wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from ...changes import (
    Begin,
    Change,
    Commit,
    Delete,
    GapReason,
    Insert,
    LogicalMessage,
    ReplicaIdentity,
    Transaction,
    Truncate,
    Update,
)
from ...errors import ConnectionLostError, RealtimeError
from ...lsn import LSN
from ...positions import StreamIdentity
from ._log import Log, Slot
from ._tables import Make, MemoryTable, make_relation

__all__ = ["MemoryDatabase"]

_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_FIRST_XID: Final = 700
_RECORD_BYTES: Final = 100


class MemoryDatabase:
    """Plays a PostgreSQL server for :class:`MemorySource`.

    It is deterministic: the first transaction is number 700 and commits on 2026-01-01 at
    00:00:01 UTC, the next one is 701 and commits a second later.
    """

    def __init__(self) -> None:
        self._stream = StreamIdentity(7_000_000_000_000_000_000, 1, ())
        self._log = Log()
        self._slots: dict[str, Slot] = {}
        self._tables: list[MemoryTable] = []
        self._xid = _FIRST_XID - 1
        # What makes the changes of the open transaction; None outside of one.
        self._open: list[Make] | None = None
        self._down = False

    # Writing

    def table(
        self,
        name: str,
        columns: Mapping[str, str],
        *,
        key: str | Sequence[str] = (),
        schema: str = "public",
        replica_identity: ReplicaIdentity = ReplicaIdentity.DEFAULT,
    ) -> MemoryTable:
        """Make a table.

        Args:
            name: its name.
            columns: the columns' types by name, as in ``pg_type.typname``:
                ``{"id": "int8", "tags": "_text"}``.
            key: the column of the primary key, or its columns.
            schema: its schema.
            replica_identity: which old values UPDATE and DELETE carry.

        Raises:
            ValueError: if the key names a column that is not there.
        """
        names = (key,) if isinstance(key, str) else tuple(key)
        oid = 16384 + len(self._tables)
        relation = make_relation(oid, schema, name, columns, names, replica_identity)
        table = MemoryTable(relation, names, self._write)
        self._tables.append(table)
        return table

    @contextmanager
    def transaction(self, *, origin: str | None = None) -> Iterator[None]:
        """Commit everything that is written inside of the ``with`` block as one transaction.

        An exception rolls it back, and nothing of it is in the stream.

        Args:
            origin: name of the replication origin, for changes that were themselves replicated.
        """
        if self._open is not None:
            raise RuntimeError("a transaction is open already; they do not nest")
        rows = [(table, dict(table.rows)) for table in self._tables]
        self._open = []
        try:
            yield
        except BaseException:
            for table, before in rows:
                table.rows = before
            raise
        else:
            self._commit(self._open, origin)
        finally:
            self._open = None

    def truncate(
        self, *tables: MemoryTable, cascade: bool = False, restart_identity: bool = False
    ) -> None:
        """Empty tables with one TRUNCATE."""
        for table in tables:
            table.rows.clear()
        relations = tuple(table.relation for table in tables)
        self._write(
            lambda transaction, index: Truncate(
                transaction, index, relations, cascade, restart_identity
            )
        )

    def message(self, prefix: str, content: bytes | str, *, transactional: bool = True) -> None:
        """Emit a logical message, as ``pg_logical_emit_message`` does."""
        data = content.encode() if isinstance(content, str) else content
        lsn = self._log.reserve(_RECORD_BYTES + len(data))
        if transactional:
            self._write(
                lambda transaction, index: LogicalMessage(
                    lsn, prefix, data, transaction, index, self._stream
                )
            )
            return
        message = LogicalMessage(lsn, prefix, data, None, 0, self._stream)
        self._log.append(lsn, (message,), _RECORD_BYTES + len(data))

    def write_elsewhere(self, size: int = 8192) -> None:
        """Write WAL that is not published, as that of other tables and databases.

        For sources it is a keepalive, which moves a slot if everything is acknowledged.
        """
        lsn = self._log.reserve(size)
        self._log.append(lsn, (), 0)

    def _write(self, make: Make) -> None:
        if self._open is not None:
            self._open.append(make)
        else:
            self._commit([make], None)

    def _commit(self, makes: Sequence[Make], origin: str | None) -> None:
        self._xid += 1
        log = self._log
        # The commit LSN depends on the size of the changes, so they are made once only to be
        # measured.
        time = _EPOCH + timedelta(seconds=self._xid - _FIRST_XID + 1)
        trial = Transaction(self._xid, LSN(0), time, origin, self._stream)
        size = sum(_size(make(trial, 0)) for make in makes)
        log.reserve(size)
        lsn = log.reserve(_RECORD_BYTES)
        transaction = Transaction(self._xid, lsn, time, origin, self._stream)
        changes = [make(transaction, index) for index, make in enumerate(makes)]
        events = (Begin(transaction), *changes, Commit(transaction, log.end, len(changes)))
        log.append(lsn, events, size)

    # Failures

    def drop_connections(self, error: RealtimeError | None = None) -> None:
        """Break every source's connection. Sources attach again when they are read.

        Args:
            error: the error that the stream ends with; None for a lost connection. An error that
                is not transient is raised by the source.
        """
        reason = error or ConnectionLostError("the connection was broken")
        for slot in tuple(self._slots.values()):
            if slot.close is not None:
                slot.close(reason)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Stop the server inside of the ``with`` block: connections break, and none can be made."""
        self._down = True
        self.drop_connections()
        try:
            yield
        finally:
            self._down = False
            self._log.wake()

    def drop_slot(self, name: str) -> None:
        """Drop a slot, and break the connection that uses it. The next source recreates it.

        Raises:
            KeyError: if there is no slot of that name.
        """
        slot = self._slots.pop(name)
        if slot.close is not None:
            slot.close(ConnectionLostError(f"slot {name!r} was dropped"))

    def advance_slot(self, name: str) -> None:
        """Move a slot to the end of the WAL, without its consumer knowing.

        Raises:
            KeyError: if there is no slot of that name.
        """
        slot = self._slots[name]
        if slot.close is not None:
            slot.close(ConnectionLostError(f"slot {name!r} was moved"))
        slot.confirmed = self._log.end

    def lose_slot(self, name: str, reason: GapReason = GapReason.WAL_REMOVED) -> None:
        """Invalidate a slot: changes that were not read yet are lost, which is a gap.

        Raises:
            KeyError: if there is no slot of that name.
        """
        slot = self._slots[name]
        slot.lost = reason
        if slot.close is not None:
            slot.close(ConnectionLostError(f"slot {name!r} was lost"))

    def end(self) -> None:
        """Let ``async for`` end when everything that was written is handed over.

        A real source never ends by itself, but a test often needs that.
        """
        self._log.ended = True
        self._log.wake()

    # What there is

    @property
    def end_of_wal(self) -> LSN:
        """The LSN behind everything that was written."""
        return self._log.end

    def confirmed(self, slot: str) -> LSN:
        """Return the LSN up to which everything is acknowledged on a slot.

        Raises:
            KeyError: if there is no such slot.
        """
        return self._slots[slot].confirmed

    def unacknowledged(self, slot: str) -> tuple[Change, ...]:
        """Return the changes that a new source on the slot would yield.

        Raises:
            KeyError: if there is no such slot.
        """
        return tuple(
            event
            for _, entry in self._log.since(self._slots[slot].confirmed)
            for event in entry.events
            if not isinstance(event, Begin | Commit)
        )


def _size(change: Change) -> int:
    """Return about how many bytes of WAL a change takes."""
    match change:
        case Insert(record=record) | Update(record=record) | Delete(old_record=record):
            fields = sum(len(field) for field in record.fields if isinstance(field, str))
            return _RECORD_BYTES + fields
        case _:
            return _RECORD_BYTES
