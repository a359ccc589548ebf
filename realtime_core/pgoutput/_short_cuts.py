"""Short cuts: row readers, found by a message's first eight bytes.

These bytes, the head, tell the message's tag, its relation, the kind of its (first) tuple and how
many fields that has. The first row with a head goes the long way, through a decoder and an
assembler, and so does every row that the head's reader does not read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from ..changes import Relation
from ._row_readers import HEAD, ChangeReader

__all__ = ["ShortCuts"]


class ShortCuts:
    """The row readers of one stream.

    Args:
        make_reader: returns the reader of the messages that begin with a head, of a relation.
    """

    __slots__ = ("_heads", "_make_reader", "readers")

    def __init__(self, make_reader: Callable[[bytes, Relation], ChangeReader]) -> None:
        self._make_reader = make_reader
        self.readers: dict[bytes, ChangeReader] = {}
        """The readers by head. It is the same dict for as long as the stream lasts."""
        # The heads by the relation's OID, so that a relation is forgotten without a look at all
        # the others: a database may have thousands.
        self._heads: defaultdict[bytes, list[bytes]] = defaultdict(list)

    def learn(self, message: bytes, relation: Relation) -> None:
        """Make a reader for rows like one that went the long way, unless there is one.

        Args:
            message: the row's message, which has no xid.
            relation: the row's relation.
        """
        head = message[:HEAD]
        if head not in self.readers:
            self.readers[head] = self._make_reader(head, relation)
            self._heads[head[1:5]].append(head)

    def forget(self, relation_oid: int) -> None:
        """Drop the readers of a relation, which was described anew."""
        for head in self._heads.pop(relation_oid.to_bytes(4, "big"), ()):
            del self.readers[head]
