"""Short cuts: readers for kinds of row that come often, found by a message's first bytes.

The first eight bytes of a row's message tell its tag, its relation, the kind of its (first)
tuple and how many fields that has. A short cut reads messages that begin so, the common
ones; every other row goes the long way.

To make one takes up to a millisecond a column, and is in vain where most rows have a long
text. So the first rows of a kind go the long way and are looked at: how long are their
texts? A reader is made anew when it has missed many, since tables change with their use.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from ..changes import Delete, Insert, RowChange
from ..records import Field
from ._patterns import LENGTHS, Lengths
from ._row_readers import HEAD, ChangeReader, cutting_reader, matching_reader

__all__ = ["ShortCuts"]

_LOOK: Final = 32
"""Rows that are looked at before there is a reader. Half of them must be what it can read."""
_WAIT: Final = 1000
"""Rows that go the long way before the next look; they double with each look."""
_LONGEST_WAIT: Final = 1_000_000
_WIDEST: Final = 100
"""Columns up to which there are short cuts; a wider row takes long anyway."""


class _Look:
    """What is known of the rows with one head."""

    __slots__ = ("fitting", "lengths", "next_wait", "rows", "wait")

    def __init__(self) -> None:
        self.wait = 0
        self.next_wait = _WAIT
        self._start()

    def _start(self) -> None:
        self.rows = self.fitting = 0
        self.lengths: list[Lengths] = []
        """Of the old tuple's columns, then the new one's."""

    def at(self, fields: tuple[Field, ...]) -> None:
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

    def rest(self) -> None:
        self.wait = self.next_wait
        self.next_wait = min(2 * self.next_wait, _LONGEST_WAIT)
        self._start()


class ShortCuts:
    """The readers of one stream.

    Args:
        lazy: whether readers leave the rows uncut that they can.
    """

    __slots__ = ("_lazy", "_looks", "readers")

    def __init__(self, *, lazy: bool) -> None:
        self._lazy = lazy
        self.readers: dict[bytes, ChangeReader] = {}
        """By head. Always this same dict."""
        self._looks: dict[bytes, _Look] = {}

    def learn(self, message: bytes, change: RowChange) -> None:
        """Take note of a row that went the long way, outside of a stream block."""
        head = message[:HEAD]
        look = self._looks.get(head)
        if look is None:
            look = self._looks[head] = _Look()
            if not self._lazy:
                self.readers[head] = cutting_reader(head, change.relation)
        if not self._lazy:
            return
        if look.wait or len(change.relation.columns) > _WIDEST:
            look.wait -= 1
            return
        self.readers.pop(head, None)
        look.at(_fields(change))
        if look.rows < _LOOK:
            return
        if 2 * look.fitting >= _LOOK:
            self.readers[head] = matching_reader(head, change.relation, look.lengths)
        look.rest()

    def forget(self, relation_oid: int) -> None:
        """Drop what was made for a relation: it is described anew."""
        oid = relation_oid.to_bytes(4, "big")
        for head in [head for head in self._looks if head[1:5] == oid]:
            del self._looks[head]
            self.readers.pop(head, None)


def _fields(change: RowChange) -> tuple[Field, ...]:
    """Return the fields that the change's message has, keys without the columns left out."""
    if isinstance(change, Insert):
        return change.record.fields
    old = change.old_record
    fields = () if old is None else old.fields
    return fields if isinstance(change, Delete) else fields + change.record.fields
