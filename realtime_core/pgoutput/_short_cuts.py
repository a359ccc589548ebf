"""Short cuts: readers for kinds of row, found by a message's first bytes.

The first eight bytes of a row's message tell its tag, its relation, the kind of its (first)
tuple and how many fields that has. The first row of a kind goes the long way, through a
decoder and an assembler, and so does every one that the kind's reader does not read.

A reader that cuts rows into fields is there at once. One that leaves them uncut takes up to a
millisecond a column to make, and is in vain where most rows have a long text; so the first
rows of a kind are looked at: how long are their texts? It is made anew when it has missed
many, since tables change with their use.
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
"""Rows that are looked at before there is a reader that leaves them uncut. It must fit half."""
_MISSES: Final = 1000
"""Rows that it may miss until it is made anew."""
_LOOKS: Final = 4
"""How often that is done before rows of a kind are cut after all."""
_WIDEST: Final = 100
"""Columns up to which rows are left uncut; wider ones have texts of all lengths."""


class _Kind:
    """What is known of the rows with one head."""

    __slots__ = ("cut", "fitting", "lengths", "looks", "misses", "rows")

    def __init__(self) -> None:
        self.cut = False
        """Whether they are cut, for good."""
        self.looks = 0
        """How often some were looked at."""
        self.misses = 0
        """How many more the reader may miss."""
        self.start()

    def start(self) -> None:
        """Begin to look at rows."""
        self.rows = self.fitting = 0
        self.lengths: list[Lengths] = []
        """Of the old tuple's columns, then the new one's."""

    def look_at(self, fields: tuple[Field, ...]) -> None:
        """Count how long a row's texts are."""
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
    """The readers of one stream.

    Args:
        lazy: whether rows are left uncut where that is possible.
    """

    __slots__ = ("_kinds", "_lazy", "readers")

    def __init__(self, *, lazy: bool) -> None:
        self._lazy = lazy
        self.readers: dict[bytes, ChangeReader] = {}
        """By head. Always this same dict."""
        # By the relation's OID, then by head: a database may have thousands of relations.
        self._kinds: defaultdict[bytes, dict[bytes, _Kind]] = defaultdict(dict)

    def learn(self, message: bytes, change: RowChange) -> None:
        """Take note of a row that went the long way, outside of a stream block."""
        head, relation = message[:HEAD], change.relation
        kinds = self._kinds[head[1:5]]
        kind = kinds.get(head)
        if kind is None:
            kind = kinds[head] = _Kind()
            if not self._lazy or len(relation.columns) > _WIDEST:
                self._cut(head, kind, relation)
        elif kind.cut:
            pass  # what this one does not read, no other does
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
        """Make the reader for rows that were looked at."""
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
        """Drop what was made for a relation: it is described anew."""
        for head in self._kinds.pop(relation_oid.to_bytes(4, "big"), ()):
            self.readers.pop(head, None)


def _fields(change: RowChange) -> tuple[Field, ...]:
    """Return the fields that the change's message has, keys without the columns left out."""
    if isinstance(change, Insert):
        return change.record.fields
    old = change.old_record
    fields = () if old is None else old.fields
    return fields if isinstance(change, Delete) else fields + change.record.fields
