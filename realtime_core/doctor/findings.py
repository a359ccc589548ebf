"""A finding: what was looked at, how it is, and what mends it."""

from __future__ import annotations

import enum
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from ..replication.commands import quote_identifier

__all__ = ["RELOAD", "Finding", "Severity", "column_literal", "listed_names", "rows", "size"]

RELOAD: Final = "SELECT pg_reload_conf();"

_WIDTH: Final = 96
_MARGIN: Final = " " * 9


class Severity(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """The source runs, but something is lost, slow, or fails elsewhere or later."""
    PROBLEM = "problem"
    """The source cannot run."""


@attrs.frozen
class Finding:
    """One thing that was looked at."""

    check: str
    """What it is about, in lower case: stable, for programs."""
    severity: Severity
    message: str
    """A sentence without its full stop."""
    remedy: str | None = None
    """What to do, where SQL is not all of it."""
    sql: tuple[str, ...] = ()
    """Statements that mend it, or first steps to do so."""

    @classmethod
    def ok(cls, check: str, message: str) -> Finding:
        return cls(check, Severity.OK, message)

    @classmethod
    def warning(cls, check: str, message: str, *sql: str, remedy: str | None = None) -> Finding:
        return cls(check, Severity.WARNING, message, remedy, sql)

    @classmethod
    def problem(cls, check: str, message: str, *sql: str, remedy: str | None = None) -> Finding:
        return cls(check, Severity.PROBLEM, message, remedy, sql)

    def lines(self) -> Iterator[str]:
        """Yield it as text."""
        yield textwrap.fill(
            self.message,
            _WIDTH,
            initial_indent=f"{self.severity.value:<8} ",
            subsequent_indent=_MARGIN,
            break_long_words=False,
            break_on_hyphens=False,
        )
        # Not wrapped: they are there to be copied.
        yield from (f"{_MARGIN}{statement}" for statement in self.sql)
        if self.remedy is not None:
            yield f"{_MARGIN}({self.remedy})"


async def rows(
    connection: AsyncConnection[Any], query: str, parameters: Mapping[str, object] | None = None
) -> Sequence[dict[str, Any]]:
    """Run a query; return its rows by column name."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchall()


def listed_names(setting: str) -> list[str]:
    """Return the names in a setting that is a list of identifiers."""
    found = re.findall(r'"((?:[^"]|"")*)"|([^\s,"]+)', setting)
    return [quoted.replace('""', '"') or plain for quoted, plain in found if quoted or plain]


def column_literal(names: Sequence[str]) -> str:
    """Write names as a list of columns or tables for a statement."""
    return ", ".join(map(quote_identifier, names))


def size(number: float) -> str:
    """Write bytes for people: ``12 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(number) < 10_000:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.0f} TB"
