"""HeldTransaction: changes that wait for a transaction to commit.

Streamed transactions are still running and prepared ones undecided when their changes
arrive. A change is kept as a tuple of plain values, which costs half the memory of the
objects it becomes later and can be spilled as it is. Rolled back subtransactions are only
noted; their changes are left out when the rest is handed over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from ..changes import (
    Begin,
    Change,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    RawRows,
    Relation,
    Transaction,
    Truncate,
    Update,
)
from ..lsn import LSN
from ..records import UNCHANGED
from ._relations import RelationCache
from ._rows import RawRow, check_width, new_record, old_record
from .messages import (
    DeleteMessage,
    Fields,
    InsertMessage,
    LogicalMessageMessage,
    TruncateMessage,
    UpdateMessage,
)
from .spill import Held, Spill, SpillStore

__all__ = ["HeldTransaction", "HoldableMessage"]

HoldableMessage = (
    InsertMessage | UpdateMessage | DeleteMessage | TruncateMessage | LogicalMessageMessage | RawRow
)

# A block is spilled, and read back, at once. It is small, because nothing else runs meanwhile (1
# or 2 ms), and because its copy needs memory, too. A change that is larger has a block of its own.
_BLOCK: Final = 1000
_BLOCK_BYTES: Final = 1024 * 1024

# How many bytes CPython needs for a held change without its fields, for each field, and for a text
# besides its characters: measured with tracemalloc, rounded up.
_CHANGE_BYTES: Final = 200
_FIELD_BYTES: Final = 8
_TEXT_BYTES: Final = 60


class HeldTransaction:
    """The changes of one transaction, in order.

    Args:
        xid: ID of the top-level transaction.
        relations: the relations that its rows refer to.
        store: takes changes when memory is short.
        gid: global identifier of a prepared transaction that is not streamed; a streamed one
            gets it only at its end.
    """

    def __init__(
        self, xid: int, relations: RelationCache, store: SpillStore, *, gid: str | None = None
    ) -> None:
        self.xid = xid
        """ID of the top-level transaction."""
        self.gid = gid
        """Global identifier, if it is known."""
        self.relations = relations
        """The relations that its rows refer to."""
        self.origin: str | None = None
        """Name of its replication origin; None if it was not replicated itself."""
        self.memory = 0
        """About how many bytes of changes are held in memory."""
        # Makes the spill when memory is short.
        self._store = store
        # The changes that were spilled; None if none were.
        self._spill: Spill | None = None
        # The changes in memory, in blocks, of which the last one grows.
        self._blocks: deque[list[Held]] = deque()
        # About how many bytes each block takes.
        self._sizes: deque[int] = deque()
        # XIDs of subtransactions that were rolled back.
        self._aborted: set[int] = set()
        # The relations of the held changes, which refer to them by their numbers in this list.
        self._known: list[Relation] = []
        # The numbers by relation.
        self._numbers: dict[Relation, int] = {}

    def hold(self, message: HoldableMessage) -> int:
        """Keep a change; return about how many bytes that takes.

        Raises:
            DecodeError: if the row does not fit its relation.
        """
        xid = self.xid if message.xid is None else message.xid
        size = _CHANGE_BYTES
        match message:
            case InsertMessage(oid, new):
                number = self._number(oid, new)
                held: Held = ("I", xid, number, new)
                size += _size(new)
            case UpdateMessage(oid, old, old_is_key, new):
                number = self._number(oid, new)
                if old is not None:
                    check_width(self._known[number], old)
                    size += _size(old)
                held = ("U", xid, number, new, old, old_is_key)
                size += _size(new)
            case DeleteMessage(oid, old, old_is_key):
                held = ("D", xid, self._number(oid, old), old, old_is_key)
                size += _size(old)
            case RawRow(oid, data):
                held = ("R", xid, self._number(oid), data)
                size += _TEXT_BYTES + len(data)
            case TruncateMessage(options, oids):
                held = ("T", xid, tuple(self._number(oid) for oid in oids), options)
                size += _FIELD_BYTES * len(oids)
            case LogicalMessageMessage():
                held = ("M", xid, int(message.lsn), message.prefix, message.content)
                size += _size((message.prefix, message.content))
        blocks, sizes = self._blocks, self._sizes
        if blocks and len(blocks[-1]) < _BLOCK and sizes[-1] + size <= _BLOCK_BYTES:
            blocks[-1].append(held)
            sizes[-1] += size
        else:
            blocks.append([held])
            sizes.append(size)
        self.memory += size
        return size

    def abort(self, subxid: int) -> None:
        """Leave out the changes of a rolled back subtransaction, and the relations it described."""
        self._aborted.add(subxid)
        self.relations.abort(subxid)

    def spill(self) -> int:
        """Move the oldest block to the spill store; return about how many bytes that frees.

        Raises:
            SpillError: if the block cannot be stored.
        """
        if self._spill is None:
            self._spill = self._store.open()
        kept = [_packed(held) for held in self._blocks[0] if held[1] not in self._aborted]
        if kept:
            self._spill.write(kept)
        self._blocks.popleft()
        freed = self._sizes.popleft()
        self.memory -= freed
        return freed

    def replay(
        self, transaction: Transaction, end_lsn: LSN
    ) -> Iterator[Change | RawRows | Begin | Commit]:
        """Yield Begin, all changes and Commit, then drop them.

        Raises:
            SpillError: if spilled changes cannot be read back.
        """
        index = 0
        aborted = self._aborted
        try:
            yield Begin(transaction)
            for held in self._all():
                if held[1] not in aborted:
                    yield self._change(held, transaction, index)
                    index += 1
            yield Commit(transaction, end_lsn, index)
        finally:
            self.close()

    def close(self) -> None:
        """Drop all changes, and the spill file."""
        self._blocks.clear()
        self._sizes.clear()
        if self._spill is not None:
            self._spill.close()
            self._spill = None

    def _all(self) -> Iterator[Held]:
        if self._spill is not None:
            for held in self._spill.read():
                yield _unpacked(held)
        for block in self._blocks:
            yield from block

    def _change(self, held: Held, transaction: Transaction, index: int) -> Change | RawRows:
        match held:
            case ("I", _, number, new):
                relation = self._known[number]
                return Insert(transaction, index, relation, new_record(relation, new))
            case ("U", _, number, new, old, old_is_key):
                relation = self._known[number]
                before = None if old is None else old_record(relation, old, old_is_key)
                after = new_record(relation, new, old, old_is_key)
                return Update(transaction, index, relation, after, before)
            case ("D", _, number, old, old_is_key):
                relation = self._known[number]
                return Delete(transaction, index, relation, old_record(relation, old, old_is_key))
            case ("R", _, number, data):
                return RawRows(transaction, index, self._known[number], (data,))
            case ("T", _, numbers, options):
                relations = tuple(self._known[number] for number in numbers)
                return Truncate(transaction, index, relations, bool(options & 1), bool(options & 2))
            case (_, _, lsn, prefix, content):
                return LogicalMessage(
                    LSN(lsn), prefix, content, transaction, index, transaction.stream
                )
        raise AssertionError(held)

    def _number(self, oid: int, fields: Fields | None = None) -> int:
        """Return the number of the relation's current version in ``_known``; add it if need be."""
        relation = self.relations.get(oid)
        if fields is not None:
            check_width(relation, fields)
        number = self._numbers.get(relation)
        if number is None:
            number = self._numbers[relation] = len(self._known)
            self._known.append(relation)
        return number


def _size(fields: Fields) -> int:
    total = _FIELD_BYTES * len(fields)
    for field in fields:
        if type(field) is str:
            # CPython takes up to four bytes for each character of a text that is not ASCII.
            total += _TEXT_BYTES + (len(field) if field.isascii() else 4 * len(field))
        elif type(field) is bytes:
            total += _TEXT_BYTES + len(field)
    return total


# marshal cannot write UNCHANGED, but it can write Ellipsis.


def _packed(held: Held) -> Held:
    return tuple(
        tuple(... if item is UNCHANGED else item for item in part)
        if isinstance(part, tuple) and UNCHANGED in part
        else part
        for part in held
    )


def _unpacked(held: Any) -> Held:
    return tuple(
        tuple(UNCHANGED if item is ... else item for item in part)
        if isinstance(part, tuple) and ... in part
        else part
        for part in held
    )
