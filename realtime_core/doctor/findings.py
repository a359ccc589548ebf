"""Finding: the result of one check, and how to fix what it has found."""

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
    """How bad a finding is."""

    OK = "ok"
    """Nothing is wrong."""
    WARNING = "warning"
    """The source runs, but something may get lost, be slow, or fail elsewhere or later."""
    PROBLEM = "problem"
    """The source cannot run."""


@attrs.frozen
class Finding:
    """The result of one check."""

    check: str
    """The name of what was checked, in lower case. Programs may rely on it: it stays the same."""
    severity: Severity
    """How bad it is."""
    message: str
    """The finding: a sentence without its full stop."""
    remedy: str | None = None
    """The advice for what to do besides running the statements; None if that is enough."""
    sql: tuple[str, ...] = ()
    """Statements that fix it, or help to fix it."""

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
        """Yield the finding as lines of text."""
        yield textwrap.fill(
            self.message,
            _WIDTH,
            initial_indent=f"{self.severity.value:<8} ",
            subsequent_indent=_MARGIN,
            break_long_words=False,
            break_on_hyphens=False,
        )
        # Statements are not wrapped, so that they can be copied.
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
