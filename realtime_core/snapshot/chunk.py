"""ChunkMerger: brings rows that were read of a table up to the place that the stream has come to.

Theory of operation. A chunk is read in a snapshot while the stream goes on. PostgreSQL tells which
transactions the snapshot sees. A change that comes through the stream and that the snapshot sees
is in the chunk already. One that it does not see came later, and is applied to the chunk: so the
rows are those of the place where they are handed over, and a change that was handed over before
them cannot be undone by them. Whether a transaction is seen decides, and not its place in the log,
because a transaction is in the log a moment before others see it.

Changes that come before it is known what the snapshot sees are kept until then. So are changes
that it does not see, because the next chunk's snapshot may not see them either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TypeAlias

import attrs

from ..changes import Begin, Change, Commit, Delete, Insert, RawRows, Relation, Truncate, Update
from ..records import UNCHANGED, Field, Record
from .tables import CopiedTable
from .visibility import SeenTransactions

__all__ = ["ChunkMerger"]

Key: TypeAlias = tuple[Field, ...]


@attrs.frozen
class _Effect:
    """What a change has done to one row, or to all."""

    xid: int
    key: Key | None
    """The row's primary key; None for all rows."""
    record: Record | None
    """The new row; None if the row is gone."""


class ChunkMerger:
    """The rows of one chunk after the other.

    Args:
        table: the table that they are read from.
    """

    def __init__(self, table: CopiedTable) -> None:
        self.table = table
        """The table; another description takes its place if it was altered."""
        # Changes of transactions that the last snapshot does not see, or may not see.
        self._effects: deque[_Effect] = deque()
        # The chunk's rows by primary key, and what its snapshot sees; None while it is read.
        self._rows: dict[Key, tuple[Field, ...]] = {}
        self._seen: SeenTransactions | None = None
        self.is_stale = False
        """Whether the chunk has to be read again, because a change cannot be applied to it."""
        self.missed: dict[Key, int] = {}
        """The keys of rows that have to be read by themselves, and by which transaction: a row got
        such a key by an update that did not send a large value, and may have come from where no
        chunk was read yet."""

    def forget(self) -> None:
        """Note that all changes which have come are seen by the snapshots of later chunks."""
        self._effects.clear()

    def begin(self) -> None:
        """Note that a chunk will be read; the next changes may be later than its snapshot."""
        self._rows, self._seen, self.is_stale = {}, None, False

    def see(self, event: Change | RawRows | Begin | Commit) -> None:
        """Take the next change of the stream; none comes twice."""
        match event:
            case Insert(relation=relation) if self._is_ours(relation):
                self._add(event, event.record, None)
            case Update(relation=relation) if self._is_ours(relation):
                self._add(event, event.record, event.old_record)
            case Delete(relation=relation) if self._is_ours(relation):
                self._add(event, None, event.old_record)
            case Truncate() if any(map(self._is_ours, event.relations)):
                self._take(_Effect(event.transaction.xid, None, None))

    def _is_ours(self, relation: Relation) -> bool:
        ours = self.table.relation
        return relation.table == ours.table and relation.schema == ours.schema

    def _add(self, event: Insert | Update | Delete, new: Record | None, old: Record | None) -> None:
        xid = event.transaction.xid
        new_key = None if new is None else self._key(new)
        old_key = None if old is None else self._key(old)
        is_moved = old_key is not None and new_key is not None and old_key != new_key
        if is_moved and new is not None and UNCHANGED in new.fields:
            assert new_key is not None
            self.missed[new_key] = xid
        if old_key is not None and old_key != new_key:
            self._take(_Effect(xid, old_key, None))
        if new_key is not None:
            self._take(_Effect(xid, new_key, new))

    def _key(self, record: Record) -> Key | None:
        index = record.shape.index
        try:
            key = tuple([record.fields[index[name]] for name in self.table.key])
        except KeyError:
            # The table was altered.
            key = (UNCHANGED,)
        if UNCHANGED in key:
            self.is_stale = True
            return None
        return key

    def _take(self, effect: _Effect) -> None:
        if self._seen is None:
            self._effects.append(effect)
        elif not self._seen.sees(effect.xid):
            self._effects.append(effect)
            self._apply(effect)

    def read(self, rows: list[tuple[Field, ...]], seen: SeenTransactions) -> None:
        """Note the chunk's rows, and what its snapshot sees."""
        self._seen = seen
        names = self.table.relation.shape.names
        places = [names.index(name) for name in self.table.key]
        self._rows = {tuple([row[place] for place in places]): row for row in rows}
        self._effects = deque(each for each in self._effects if not seen.sees(each.xid))
        for effect in self._effects:
            self._apply(effect)

    def _apply(self, effect: _Effect) -> None:
        if effect.key is None:
            self._rows.clear()
            return
        before = self._rows.get(effect.key)
        if before is None:
            return
        if effect.record is None:
            del self._rows[effect.key]
        elif effect.record.shape.names != self.table.relation.shape.names:
            # The table was altered.
            self.is_stale = True
        else:
            self._rows[effect.key] = tuple(
                old if new is UNCHANGED else new
                for old, new in zip(before, effect.record.fields, strict=True)
            )

    def found(self, keys: Iterable[Key]) -> None:
        """Note that the chunk has the rows of these keys, if its snapshot sees what moved them."""
        assert self._seen is not None
        for key in keys:
            if self._seen.sees(self.missed[key]):
                del self.missed[key]

    def take(self) -> list[tuple[Field, ...]]:
        """Return the chunk's rows, as they are at the place that the stream has come to."""
        rows = list(self._rows.values())
        self._rows = {}
        return rows
