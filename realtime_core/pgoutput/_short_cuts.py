"""Short cuts: row readers, found by a message's first eight bytes.

Rows whose messages begin with the same eight bytes, the head, are of one kind: these bytes tell
the tag, the relation, the kind of the (first) tuple and how many fields that has. The first row
of a kind goes the long way, through a decoder and an assembler, and so does every row that the
kind's reader does not read.

A reader that cuts rows into fields is made with the first row. One that leaves them uncut takes
up to a millisecond for each column to make, and is of no use where most rows have a long text. So
the lengths of the first rows' texts are counted before it is made. It is made again, with new
lengths, after it could not read many rows, because the values in a table change over time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Final

from ..changes import Delete, Insert, Relation, RowChange
from ..records import Field
from ._patterns import LENGTHS, Lengths
from ._row_readers import HEAD, ChangeReader, cutting_reader, matching_reader

__all__ = ["ShortCuts"]

_LOOK: Final = 32
"""How many rows are counted before a reader that leaves them uncut is made. It is made if it can
read half of them."""
_MISSES: Final = 1000
"""How many rows such a reader may fail to read until it is made again."""
_LOOKS: Final = 4
"""How often it is made; after that, rows of this kind are cut into fields."""
_WIDEST: Final = 100
"""The most columns of a table whose rows are left uncut; wider rows have texts of all lengths."""


class _Kind:
    """What is known of the rows whose messages begin with one head."""

    __slots__ = ("cut", "fitting", "lengths", "looks", "misses", "rows")

    def __init__(self) -> None:
        self.cut = False
        """Whether these rows are cut into fields from now on."""
        self.looks = 0
        """How often a reader that leaves them uncut was made."""
        self.misses = 0
        """How many more rows that reader may fail to read."""
        self.start()

    def start(self) -> None:
        """Begin to count the lengths of texts."""
        self.rows = self.fitting = 0
        self.lengths: list[Lengths] = []
        """For each column of the old tuple, then of the new one."""

    def look_at(self, fields: tuple[Field, ...]) -> None:
        """Count the lengths of one row's texts."""
        if not self.lengths:
            self.lengths = [Counter() for _ in fields]
        fits = True
        for lengths, field in zip(self.lengths, fields, strict=True):
            if isinstance(field, str) and (length := len(field.encode())) in LENGTHS:
                lengths[length] += 1
            elif field is not None:
                fits = False
        self.rows += 1
        self.fitting += fits


class ShortCuts:
    """The row readers of one stream.

    Args:
        lazy: whether to leave rows uncut where that is possible.
    """

    __slots__ = ("_kinds", "_lazy", "readers")

    def __init__(self, *, lazy: bool) -> None:
        self._lazy = lazy
        self.readers: dict[bytes, ChangeReader] = {}
        """The readers by head. It is the same dict for as long as the stream lasts."""
        # By the relation's OID first, so that a relation is forgotten without a look at all the
        # others: a database may have thousands.
        self._kinds: defaultdict[bytes, dict[bytes, _Kind]] = defaultdict(dict)

    def learn(self, message: bytes, change: RowChange) -> None:
        """Learn from a row that went the long way, so that later ones need not.

        Args:
            message: the row's message, which has no xid.
            change: what the assembler made of it.
        """
        head, relation = message[:HEAD], change.relation
        kinds = self._kinds[head[1:5]]
        kind = kinds.get(head)
        if kind is None:
            kind = kinds[head] = _Kind()
            if not self._lazy or len(relation.columns) > _WIDEST:
                self._cut(head, kind, relation)
        elif kind.cut:
            pass  # no other reader reads what the one that cuts rows does not
        elif kind.misses:
            kind.misses -= 1
        elif kind.looks == _LOOKS:
            self._cut(head, kind, relation)
        else:
            self.readers.pop(head, None)
            kind.look_at(_fields(change))
            if kind.rows == _LOOK:
                self._decide(head, kind, relation)

    def _decide(self, head: bytes, kind: _Kind, relation: Relation) -> None:
        """Make the reader that the counted rows call for."""
        if 2 * kind.fitting < kind.rows:
            self._cut(head, kind, relation)
            return
        self.readers[head] = matching_reader(head, relation, kind.lengths)
        kind.looks += 1
        kind.misses = _MISSES
        kind.start()

    def _cut(self, head: bytes, kind: _Kind, relation: Relation) -> None:
        self.readers[head] = cutting_reader(head, relation)
        kind.cut = True

    def forget(self, relation_oid: int) -> None:
        """Drop the readers of a relation, which was described anew."""
        for head in self._kinds.pop(relation_oid.to_bytes(4, "big"), ()):
            self.readers.pop(head, None)


def _fields(change: RowChange) -> tuple[Field, ...]:
    """Return the fields of the change's old and new row; a key has only its own columns."""
    if isinstance(change, Insert):
        return change.record.fields
    old = change.old_record
    fields = () if old is None else old.fields
    return fields if isinstance(change, Delete) else fields + change.record.fields
