"""The questions that PostgreSQL is asked, which viewers may see which rows, and the answers."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import attrs

from ...config.database.tables import LiveColumn, Table
from ..viewers import Viewer
from .deleted_rows import Condition
from .locks import LockedRelation

__all__ = ["RowsToCheck", "VisibilityAnswer", "Failure", "Question", "LookupRow"]


class Failure(enum.Enum):
    """Why PostgreSQL could not tell whether a viewer may see a row."""

    ERROR = "error"
    """A policy raised an error."""
    TIMEOUT = "timeout"
    """A policy ran for too long."""
    UNASKED = "unasked"
    """The policies were not run, for example because earlier questions took all the time."""
    LOCKED = "locked"
    """The policies were not run, because somebody has locked a table that this needs."""


@attrs.frozen
class LookupRow:
    """The key, and values if need be, by which a viewer's check looks for a row in a table."""

    key: tuple[str, ...]
    """The primary key's values as text."""
    values: str = "{}"
    """A JSON object: texts that columns must still have, by name."""


@attrs.frozen
class RowsToCheck:
    """Rows of one table that are looked up for some viewers."""

    table: Table
    """A table with a primary key."""
    rows: Sequence[LookupRow]
    """The rows."""
    compared: Sequence[LiveColumn] = ()
    """The columns that ``values`` of the rows may have; the viewers' roles may SELECT them."""
    condition: Condition | None = None
    """The condition that deleted rows must meet; the only value of such a row's key is the row's
    text. None for rows that exist."""


@attrs.frozen
class Question:
    """The question which of some rows one viewer may see."""

    viewer: Viewer
    places: tuple[int, ...]
    """The places of these rows in the list of rows."""


@attrs.define
class VisibilityAnswer:
    """The answer to a question. Rows are named by their places in the list of rows."""

    visible: set[int] = attrs.field(factory=set)
    """The rows that the viewer may see."""
    failed: dict[int, Failure] = attrs.field(factory=dict)
    """The rows of which it is not known whether the viewer may see them, with the reason."""
    locked: frozenset[LockedRelation] = frozenset()
    """The relations that were locked, where this is why policies were not run."""
    seconds: float = attrs.field(default=0.0, eq=False)
    """Seconds that the viewer's policies took."""

    @property
    def was_left_out(self) -> bool:
        """Whether the viewer's policies were not run for some rows, for another reason than a
        locked table."""
        return Failure.UNASKED in self.failed.values()
