"""Target: the database that tables are copied to, and where the position of a copy is stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final, TypeAlias

from ..changes import Relation
from ..errors import RealtimeError
from .plan import Convert, Statement, TablePlan, TargetTable

__all__ = ["Steps", "Target", "TargetError"]

Steps: TypeAlias = Iterable[tuple[Statement, Sequence[Sequence[Any]]]]
"""Statements in their order, each with the values of the rows that it is executed for."""

_MAKE: Final = "CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, position text NOT NULL)"


class TargetError(RealtimeError):
    """The target refused something, or is not what the copy has left there."""


class Target(ABC):
    """A connection to the target, with a transaction that begins by itself.

    Raises:
        TargetError: from each method, if the target refuses.
    """

    mark: ClassVar[str]
    """What stands before the number of a parameter."""
    checkpoints: str
    """The table with the position of each copy, by its name, as SQL."""

    @abstractmethod
    def table(self, relation: Relation) -> TargetTable | None:
        """Return the table for one of the source's, None if there is none."""

    @abstractmethod
    def converters(self, relation: Relation) -> Iterable[Convert | None]:
        """Return what makes the values of each column; None for PostgreSQL's text itself."""

    @abstractmethod
    def has(self, table: str) -> bool:
        """Return whether there is a table of this name, which is SQL."""

    @abstractmethod
    def run(self, query: str, values: Sequence[Any] = ()) -> tuple[list[tuple[Any, ...]], int]:
        """Execute one statement, and return what it finds, and how many rows it has."""

    @abstractmethod
    def fill(self, plan: TablePlan, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows that are not there."""

    @abstractmethod
    def execute(self, steps: Steps) -> None:
        """Execute statements.

        Raises:
            TargetError: if a row is not there that one of them is for.
        """

    @abstractmethod
    def end(self, *, commit: bool) -> None:
        """Commit the transaction, or undo it."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; what was not committed is undone."""

    def position(self, name: str) -> str | None:
        """Return the position that was stored last, None if none was."""
        if not self.has(self.checkpoints):
            return None
        query = f"SELECT position FROM {self.checkpoints} WHERE name = {self.mark}1"
        found, _ = self.run(query, [name])
        return found[0][0] if found else None

    def store(self, name: str, position: str, former: str | None) -> None:
        """Store the position in the place of the former one.

        Raises:
            TargetError: if somebody else has stored one.
        """
        mark = self.mark
        if former is None:
            self.run(_MAKE.format(self.checkpoints))
            self.run(f"INSERT INTO {self.checkpoints} VALUES ({mark}1, {mark}2)", [name, position])
            return
        where = f"name = {mark}2 AND position = {mark}3"
        statement = f"UPDATE {self.checkpoints} SET position = {mark}1 WHERE {where}"
        if self.run(statement, [position, name, former])[1] != 1:
            raise TargetError(f"another process writes to the copy {name!r}: stop one of them")

    def forget(self, name: str) -> None:
        """Remove the position that is stored, if one is."""
        if self.has(self.checkpoints):
            self.run(f"DELETE FROM {self.checkpoints} WHERE name = {self.mark}1", [name])

    def has_rows(self, table: TargetTable) -> bool:
        """Return whether a table has any rows."""
        return bool(self.run(f"SELECT 1 FROM {table.name} LIMIT 1")[0])

    def empty(self, table: TargetTable) -> None:
        """Remove all rows of a table."""
        # TRUNCATE would lock out those who read the table, until the transaction ends.
        self.run(f"DELETE FROM {table.name}")


def check_found(statement: Statement, wanted: int, found: int) -> None:
    """Raise TargetError if a statement has found fewer rows than there have to be."""
    if statement.finds_a_row and found != wanted:
        raise TargetError(
            f"{wanted} rows have to be there for {statement.sql}, and {found} are: somebody else "
            "has written to the target; --overwrite copies all rows anew"
        )
