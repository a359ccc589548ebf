"""Payloads of RLS mode: a change as one role may see it.

Values are rendered by :mod:`realtime_core.payloads.json_values`, by the types that they
were written with. The list of columns and types is that of the table's present state. Values of
composite types, and of extensions' types, which may have a cast to JSON, can only be rendered by
the database; the caller asks it before, see :func:`unknown_values`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Final

from realtime_core import UNCHANGED, Column, Delete, Insert, Record, RowChange, Update
from realtime_core.oids import BUILTIN_TYPES
from realtime_core.payloads.envelope import around_index, make_head
from realtime_core.payloads.json_values import Renderer, renderer

from ..config.database.tables import CustomType, LiveColumn, Table
from ..fanout.payloads.oversize import SHORT, TOO_LARGE, is_larger

__all__ = ["Answers", "ErrorView", "Event", "View", "event_of", "unknown_values"]

Answers = Mapping[tuple[int, str], str]
"""The JSON that the database has made of values, by a type's OID and a value's text."""

Event = str
"""``INSERT``, ``UPDATE`` or ``DELETE``."""

_MOST_MEASURED: Final = 64 * SHORT
"""Characters of text beyond which a value's JSON is taken to be long without making it. To make the
JSON of a hundred megabytes would take seconds, in which no other client is served."""


def event_of(change: RowChange) -> Event:
    """Return how clients call a change: INSERT, UPDATE or DELETE."""
    match change:
        case Insert():
            return "INSERT"
        case Update():
            return "UPDATE"
        case Delete():
            return "DELETE"


def _identity_of(change: Update | Delete) -> Iterator[tuple[Column, object]]:
    """Yield columns and fields of the old row's replica identity, as wal2json has them."""
    old = change.old_record
    if old is not None:
        yield from zip(old.shape.columns, old.fields, strict=True)
        return
    # The key has not changed, so the new row has it.
    assert isinstance(change, Update)
    record = change.record
    for place in change.relation.key_places:
        yield record.shape.columns[place], record.fields[place]


class View:
    """The part of a change that a viewer may see. Viewers who may see the same share one view.

    Args:
        change: a change of a row of the table.
        table: the table's present state.
        columns: the columns that may be seen.
        answers: the JSON of the values that only the database can render.
        hides_old: whether to show only the key of the old row, since it is not known who could see
            it.
        size: how many bytes all of the change's values have as text.
        max_bytes: how many bytes the shown values may have as text. If they have more, only short
            values are shown, and the payload says so.
    """

    # Besides the arguments: the payloads that were rendered, and whether a selection is too large.
    __slots__ = (
        "_answers",
        "_change",
        "_columns",
        "_hides_old",
        "_is_large",
        "_max_bytes",
        "_payloads",
        "_table",
        "_too_large",
    )

    def __init__(
        self,
        change: RowChange,
        table: Table,
        columns: Sequence[LiveColumn],
        answers: Answers,
        *,
        hides_old: bool,
        size: int,
        max_bytes: int,
    ) -> None:
        self._change = change
        self._table = table
        self._columns = columns
        self._answers = answers
        self._hides_old = hides_old
        self._is_large = size > max_bytes
        self._max_bytes = max_bytes
        self._payloads: dict[tuple[frozenset[str] | None, bool], bytes] = {}
        self._too_large: dict[frozenset[str] | None, bool] = {}

    def is_too_large(self, select: frozenset[str] | None = None) -> bool:
        """Return whether the values that are shown are so large that long ones are left out.

        Values that are not shown do not count: else their size would be revealed.

        Args:
            select: the names of the columns to show, besides the primary key's; None for all.
        """
        if not self._is_large:
            return False
        found = self._too_large.get(select)
        if found is None:
            found = is_larger(self._change, self._max_bytes, *self._shown(select))
            self._too_large[select] = found
        return found

    def _shown(self, select: frozenset[str] | None) -> tuple[set[str], set[str]]:
        """Return the names of the columns that are shown of the new row, and of the old one."""
        shown = {column.name for column in self._selected(select)}
        return shown, shown & set(self._table.key_names) if self._hides_old else shown

    def _selected(self, select: frozenset[str] | None) -> Sequence[LiveColumn]:
        if select is None:
            return self._columns
        wanted = select | set(self._table.key_names)
        return [column for column in self._columns if column.name in wanted]

    def payload(self, select: frozenset[str] | None = None) -> bytes:
        """Return the change as JSON, without long values if it is too large.

        The JSON is rendered at the first call, and kept.

        Args:
            select: the names of the columns to show, besides the primary key's; None for all.
        """
        return self._rendered(select, is_short=self.is_too_large(select))

    def short_payload(self, select: frozenset[str] | None = None) -> bytes:
        """Return the change as JSON without long values, however small it is.

        Args:
            select: the names of the columns to show, besides the primary key's; None for all.
        """
        return self._rendered(select, is_short=True)

    def _rendered(self, select: frozenset[str] | None, *, is_short: bool) -> bytes:
        payload = self._payloads.get((select, is_short))
        if payload is None:
            payload = self._payloads[select, is_short] = self._render(select, is_short)
        return payload

    def allows_filter_on(self, columns: frozenset[str]) -> bool:
        """Return whether the viewer may see all columns that a filter reads.

        If not, getting the change or not would reveal the values of the hidden ones.
        """
        return not columns or columns.issubset(column.name for column in self._columns)

    @property
    def known_of_old(self) -> frozenset[str] | None:
        """The columns of a deleted row that a filter may look at; None for all that are known."""
        if not self._hides_old or not isinstance(self._change, Delete):
            return None
        return frozenset(self._table.key_names)

    def _render(self, select: frozenset[str] | None, is_short: bool) -> bytes:
        change, table = self._change, self._table
        shown, shown_of_old = self._shown(select)
        row = _RowRenderer(table.types, self._answers, shown, is_short)
        error = TOO_LARGE if is_short else None
        parts = [_envelope(change, table, self._selected(select), error)]
        if isinstance(change, Insert | Update):
            parts += [b',"record":', row.render(_fields(change.record)).encode()]
        if isinstance(change, Update | Delete):
            row.shown = shown_of_old
            parts += [b',"old_record":', row.render(_identity_of(change)).encode()]
        parts.append(b"}")
        return b"".join(parts)


class ErrorView:
    """An error in place of a change whose row cannot be shown. Filters do not count for it.

    Args:
        change: a change of a row of the table.
        table: the table's present state.
        error: the text of the error.
    """

    __slots__ = ("_change", "_error", "_table")

    def __init__(self, change: RowChange, table: Table, error: str) -> None:
        self._change = change
        self._table = table
        self._error = error

    def payload(self, *, has_time: bool) -> bytes:
        """Return the error as JSON.

        Args:
            has_time: whether to include the commit's time, which clients with bindings need.
        """
        change = self._change
        head = _envelope(change, self._table, (), self._error, has_time=has_time)
        return head + _EMPTY[event_of(change)]


_EMPTY: Final = {
    "INSERT": b',"record":{}}',
    "UPDATE": b',"record":{},"old_record":{}}',
    "DELETE": b',"old_record":{}}',
}


def unknown_values(
    change: RowChange, table: Table, columns: Iterable[LiveColumn]
) -> Iterator[tuple[int, str]]:
    """Yield the type's OID and the text of each value that only the database can render.

    Args:
        change: a change of a row of the table.
        table: the table's present state.
        columns: the columns that are shown.
    """
    shown = {column.name for column in columns}
    rows = []
    if isinstance(change, Insert | Update):
        rows.append(_fields(change.record))
    if isinstance(change, Update | Delete):
        rows.append(_identity_of(change))
    for row in rows:
        for column, field in row:
            if (
                column.name in shown
                and isinstance(field, str)
                and _renderer(column, table.types) is None
            ):
                yield column.type_oid, field


class _RowRenderer:
    """Renders the rows of a change as JSON."""

    def __init__(
        self,
        types: Mapping[int, CustomType],
        answers: Answers,
        shown: set[str],
        only_short: bool,
    ) -> None:
        self._types = types
        self._answers = answers
        self.shown = shown
        self._only_short = only_short

    def render(self, row: Iterable[tuple[Column, object]]) -> str:
        parts = []
        for column, field in row:
            if column.name not in self.shown or field is UNCHANGED:
                continue
            if isinstance(field, str):
                if self._only_short and len(field) > _MOST_MEASURED:
                    continue
                value = self._value(column, field)
                if not self._only_short or _size(value) <= SHORT:
                    parts.append(f"{encode_basestring(column.name)}:{value}")
            elif not self._only_short:
                parts.append(f"{encode_basestring(column.name)}:null")
        return f"{{{','.join(parts)}}}"

    def _value(self, column: Column, text: str) -> str:
        render = _renderer(column, self._types)
        if render is None:
            return self._answers.get((column.type_oid, text)) or encode_basestring(text)
        return render(text)


def _fields(record: Record) -> Iterator[tuple[Column, object]]:
    return zip(record.shape.columns, record.fields, strict=True)


def _size(value: str) -> int:
    """Return the length of a value as jsonb's text, which has spaces in arrays and objects."""
    if value[0] in "[{":
        # Where Python cannot read the JSON (a number of thousands of digits, a thousand levels,
        # half of a surrogate pair), its own length counts.
        with contextlib.suppress(ValueError, RecursionError):
            return len(json.dumps(json.loads(value), ensure_ascii=False).encode())
    return len(value.encode())


def _envelope(
    change: RowChange,
    table: Table,
    columns: Iterable[LiveColumn],
    error: str | None,
    *,
    has_time: bool = True,
) -> bytes:
    """Return a payload without its rows and its last brace."""
    described = ((column.name, column.type_name) for column in columns)
    head = make_head(table.schema, table.name, event_of(change), described, error)
    before, behind = around_index(change, has_time=has_time)
    return b"%b%b%d%b" % (head, before, change.index, behind)


def _renderer(column: Column, types: Mapping[int, CustomType]) -> Renderer | None:
    """Return what renders a column's values as JSON; None if only the database can."""
    if column.type_schema == "pg_catalog":
        return _built_in(column.type_name)
    kind = types.get(column.type_oid)
    if kind is None:
        # The column has another type by now, so this one was not read.
        return renderer(column)
    name = _known_name(kind, types)
    return None if name is None else _built_in(name)


@lru_cache
def _built_in(name: str) -> Renderer:
    return renderer(Column("", 0, name, "pg_catalog", -1, False))


def _known_name(kind: CustomType, types: Mapping[int, CustomType]) -> str | None:
    """Return the name of the built-in type that a type is rendered like; None if there is none."""
    if kind.kind in "emr":
        return "text"
    if kind.oid in BUILTIN_TYPES:
        return BUILTIN_TYPES[kind.oid]
    if not kind.element:
        return None
    if kind.element in BUILTIN_TYPES:
        return f"_{BUILTIN_TYPES[kind.element]}"
    element = types.get(kind.element)
    name = None if element is None or element.element else _known_name(element, types)
    return None if name is None else f"_{name}"
