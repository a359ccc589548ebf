"""Position: where in a stream of changes a consumer stands.

Commit order is PostgreSQL's order of changes, so a position is the LSN of a
transaction's commit record and the place of the change within the transaction. It
survives restarts, because PostgreSQL decodes the same WAL to the same changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import total_ordering
from typing import Final, Self

from ._data_classes import frozen, frozen_by_hand
from .errors import PositionMismatchError
from .lsn import LSN

__all__ = ["Position", "StreamIdentity"]

LAST_INDEX: Final = 2**32 - 1
"""The index of a transaction's end, behind all of its changes."""

_TEXT = re.compile(
    r"(?P<lsn>[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}):(?P<index>[0-9]{1,10})"
    r"(?:@(?P<system>[0-9]{1,20})\.(?P<timeline>[0-9]{1,10})(?:/(?P<publications>\S*))?)?",
    re.ASCII,
)


@frozen_by_hand
class StreamIdentity:
    """The origin of positions, which two comparable ones must share, except for the timeline."""

    system_identifier: int
    """The cluster's system identifier; see ``IDENTIFY_SYSTEM``."""
    timeline: int
    """The timeline's number, which grows with each promotion of a standby."""
    publications: tuple[str, ...]
    """The publications' names, sorted. Other publications have other changes, so other indexes."""

    def __init__(self, system_identifier: int, timeline: int, publications: Iterable[str]) -> None:
        put = object.__setattr__
        put(self, "system_identifier", system_identifier)
        put(self, "timeline", timeline)
        put(self, "publications", tuple(sorted(set(publications))))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StreamIdentity):
            return NotImplemented
        return (
            self.system_identifier == other.system_identifier
            and self.publications == other.publications
        )

    def __hash__(self) -> int:
        return hash((self.system_identifier, self.publications))

    def __str__(self) -> str:
        from urllib.parse import quote

        names = ",".join(quote(name, safe="") for name in self.publications)
        return f"{self.system_identifier}.{self.timeline}/{names}"


@total_ordering
@frozen
class Position:
    """The place of one change: ordered, printable, parseable.

    Text: ``<commit LSN>:<index>@<system identifier>.<timeline>/<publications>``, the
    part from ``@`` only when a source made it; a publication's name is percent-encoded.
    """

    lsn: LSN
    """The LSN of the transaction's commit record; for a non-transactional message, that of the last
    byte of its own record."""
    index: int = 0
    """The place among the transaction's row changes, truncates and messages, from 0."""
    stream: StreamIdentity | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str(position)`` wrote.

        Raises:
            ValueError: if ``text`` is not that.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"not a position: {text!r}; it looks like 16/B374D848:0")
        stream = None
        if match["system"] is not None:
            from urllib.parse import unquote

            names = match["publications"] or ""
            stream = StreamIdentity(
                int(match["system"]),
                int(match["timeline"]),
                tuple(unquote(name) for name in names.split(",") if name),
            )
        return cls(LSN.parse(match["lsn"]), int(match["index"]), stream)

    def end_of_transaction(self) -> Self:
        """Return the end of the position's transaction, behind whatever it has.

        For a checkpoint of one list of publications (or of one choice of tables, for wal2json)
        that another one shall go on from: a place within a transaction means nothing there, but
        the end of it does. All of the transaction has to be done with.
        """
        return type(self)(self.lsn, LAST_INDEX, self.stream)

    @staticmethod
    def around_index(lsn: LSN, stream: StreamIdentity | None) -> tuple[str, str]:
        """Return what stands before the index in a position's text, and what stands behind it.

        All positions of a transaction have both in common. A program that writes many of them
        needs only the index of each.

        Args:
            lsn: the positions' LSN.
            stream: the positions' stream.
        """
        return f"{lsn}:", "" if stream is None else f"@{stream}"

    def __str__(self) -> str:
        before, behind = self.around_index(self.lsn, self.stream)
        return f"{before}{self.index}{behind}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Position):
            return NotImplemented
        return (self.lsn, self.index, self.stream) == (other.lsn, other.index, other.stream)

    def __hash__(self) -> int:
        return hash((self.lsn, self.index, self.stream))

    def __lt__(self, other: Position) -> bool:
        """Compare two places of one stream.

        Raises:
            PositionMismatchError: if they belong to different streams.
        """
        if not isinstance(other, Position):
            return NotImplemented
        if self.stream != other.stream:
            raise PositionMismatchError(
                f"cannot order {self} and {other}: they come from different clusters or "
                "publications"
            )
        return (self.lsn, self.index) < (other.lsn, other.index)
