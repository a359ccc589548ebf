"""wal2json itself, in a few lines of Python: rows and options in, texts out.

Written from the plugin's observed output, for the tests that need texts of every shape; the
integration tests compare the real plugin.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

# Kinds of columns: format_type(), pg_type.typname, OID, and how a value is written.
KINDS = {
    "integer": ("int4", 23),
    "bigint": ("int8", 20),
    "numeric(10,2)": ("numeric", 1700),
    "double precision": ("float8", 701),
    "boolean": ("bool", 16),
    "bytea": ("bytea", 17),
    "text": ("text", 25),
    "character varying(40)": ("varchar", 1043),
    "timestamp(3) with time zone": ("timestamptz", 1184),
    "text[]": ("_text", 1009),
}
NUMBERS = ("integer", "bigint", "numeric(10,2)", "double precision")


@attrs.frozen
class Options:
    """Those that change the shape, with wal2json's names and defaults."""

    format_version: int = 2
    include_xids: bool = False
    include_timestamp: bool = False
    include_schemas: bool = True
    include_types: bool = True
    include_type_oids: bool = False
    include_typmod: bool = True
    include_column_positions: bool = False
    include_not_null: bool = False
    include_default: bool = False
    include_pk: bool = False
    include_origin: bool = False
    include_lsn: bool = False
    include_transaction: bool = True
    numeric_data_types_as_string: bool = False
    pretty_print: bool = False


@attrs.frozen
class TableModel:
    name: str
    columns: dict[str, str]
    """Names to kinds."""
    key: tuple[str, ...]


@attrs.frozen
class RowModel:
    """A change; rows are PostgreSQL's texts."""

    kind: str
    """insert, update or delete."""
    table: TableModel
    new: dict[str, str | None]
    """Of an update without unchanged TOAST."""
    identity: dict[str, str | None]


@attrs.frozen
class MessageModel:
    transactional: bool
    prefix: str
    content: str


Model = RowModel | MessageModel


def encode(changes: Iterable[Model], options: Options) -> Iterator[str]:
    """Yield the texts of one transaction."""
    if options.format_version == 1:
        yield from _format_1(list(changes), options)
        return
    if options.include_transaction:
        yield _dump(_head_2("B", options) | _lsns(options))
    for change in changes:
        yield _dump(_message_2(change, options))
    if options.include_transaction:
        yield _dump(_head_2("C", options) | _lsns(options))


class _Number:
    def __init__(self, text: str) -> None:
        self.text = text


def _dump(value: Any, indent: str | None = None) -> str:
    """Write JSON as escape_json() does, numbers as they are."""
    match value:
        case _Number():
            return value.text
        case dict():
            items = [f"{_dump(key)}:{_dump(item, indent)}" for key, item in value.items()]
            return _join("{}", items, indent)
        case list():
            return _join("[]", [_dump(item, indent) for item in value], indent)
    return json.dumps(value, ensure_ascii=False)


def _join(brackets: str, items: list[str], indent: str | None) -> str:
    if indent is None:
        return brackets[0] + ",".join(items) + brackets[1]
    return f"{brackets[0]}\n{indent}" + f",\n{indent}".join(items) + f"\n{brackets[1]}"


def _lsns(options: Options) -> dict[str, Any]:
    return {"lsn": "A9/10", "nextlsn": "A9/40"} if options.include_lsn else {}


def _head_2(action: str, options: Options) -> dict[str, Any]:
    head: dict[str, Any] = {"action": action}
    if options.include_xids:
        head["xid"] = _Number("4294967295")
    if options.include_timestamp:
        head["timestamp"] = "2026-01-02 05:34:05.67+05:30"
    if options.include_origin:
        head["origin"] = _Number("3")
    return head


def _message_2(change: Model, options: Options) -> dict[str, Any]:
    if isinstance(change, MessageModel):
        head = _head_2("M", options)
        if not change.transactional:
            head |= {name: None for name in head if name != "action"}
        if options.include_lsn:
            head["lsn"] = "A9/8"
        return head | attrs.asdict(change)
    head = _head_2(change.kind[0].upper(), options)
    if options.include_lsn:
        head["lsn"] = "A9/8"
    if options.include_schemas:
        head["schema"] = "public"
    head["table"] = change.table.name
    if change.kind != "delete":
        head["columns"] = _columns_2(change.table, change.new, options, True)
    if change.kind != "insert":
        head["identity"] = _columns_2(change.table, change.identity, options, False)
    if options.include_pk:
        key = dict.fromkeys(change.table.key)
        head["pk"] = [
            {name: item for name, item in column.items() if name != "value"}
            for column in _columns_2(change.table, key, options, False)
        ]
    return head


def _columns_2(
    table: TableModel, row: dict[str, str | None], options: Options, is_new: bool
) -> list[dict[str, Any]]:
    columns = []
    for place, (name, kind) in enumerate(table.columns.items(), 1):
        if name not in row:
            continue
        column: dict[str, Any] = {"name": name}
        if options.include_types:
            column["type"] = kind
        if options.include_type_oids:
            column["typeoid"] = _Number(str(KINDS[kind][1]))
        column["value"] = _value(kind, row[name], options)
        if is_new and options.include_not_null:
            column["optional"] = name not in table.key
        if is_new and options.include_column_positions:
            column["position"] = _Number(str(place))
        if is_new and options.include_default:
            column["default"] = None
        columns.append(column)
    return columns


def _format_1(changes: list[Model], options: Options) -> Iterator[str]:
    for change in changes:
        if isinstance(change, MessageModel) and not change.transactional:
            yield _pretty({"change": [_element_1(change, options)]}, options)
    head: dict[str, Any] = {}
    if options.include_xids:
        head["xid"] = _Number("4294967295")
    if options.include_lsn:
        head["nextlsn"] = "A9/40"
    if options.include_timestamp:
        head["timestamp"] = "2026-01-02 05:34:05.67+05:30"
    if options.include_origin:
        head["origin"] = _Number("3")
    head["change"] = [
        _element_1(change, options)
        for change in changes
        if not isinstance(change, MessageModel) or change.transactional
    ]
    yield _pretty(head, options)


def _pretty(value: Any, options: Options) -> str:
    return _dump(value, "\t" if options.pretty_print else None)


def _element_1(change: Model, options: Options) -> dict[str, Any]:
    if isinstance(change, MessageModel):
        return {"kind": "message", **attrs.asdict(change)}
    element: dict[str, Any] = {"kind": change.kind}
    if options.include_schemas:
        element["schema"] = "public"
    element["table"] = change.table.name
    if change.kind != "delete":
        element |= _lists_1("column", change.table, change.new, options)
    if options.include_pk and change.table.key:
        element["pk"] = {
            "pknames": list(change.table.key),
            "pktypes": [change.table.columns[name] for name in change.table.key],
        }
    if change.kind != "insert":
        old = {name: value for name, value in change.identity.items() if value is not None}
        element["oldkeys"] = _lists_1("key", change.table, old, options)
    return element


def _lists_1(
    prefix: str, table: TableModel, row: dict[str, str | None], options: Options
) -> dict[str, Any]:
    columns = [(name, kind) for name, kind in table.columns.items() if name in row]
    lists: dict[str, Any] = {f"{prefix}names": [name for name, _ in columns]}
    if options.include_types:
        lists[f"{prefix}types"] = [
            kind if options.include_typmod else KINDS[kind][0] for _, kind in columns
        ]
    if options.include_type_oids:
        lists[f"{prefix}typeoids"] = [_Number(str(KINDS[kind][1])) for _, kind in columns]
    if prefix == "column":
        if options.include_column_positions:
            lists["columnpositions"] = [_Number(str(place)) for place, _ in enumerate(columns, 1)]
        if options.include_not_null:
            lists["columnoptionals"] = [name not in table.key for name, _ in columns]
        if options.include_default:
            lists["columndefaults"] = [None for _ in columns]
    lists[f"{prefix}values"] = [_value(kind, row[name], options) for name, kind in columns]
    return lists


def _value(kind: str, text: str | None, options: Options) -> Any:
    if text is None:
        return None
    if kind in NUMBERS and not options.numeric_data_types_as_string:
        return None if text.lstrip("-") in ("NaN", "Infinity") else _Number(text)
    if kind == "boolean":
        return text == "t"
    if kind == "bytea":
        return text.removeprefix("\\x")
    return text
