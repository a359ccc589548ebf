"""Formats events as lines: JSON for programs, text for people.

Values are written as PostgreSQL's text, as ``COPY`` does, so nothing is lost and no driver is
needed. docs/reference/command-line.md lists the keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from ..changes import (
    Begin,
    Commit,
    Delete,
    Event,
    Gap,
    Idle,
    Insert,
    LogicalMessage,
    Relation,
    Transaction,
    Truncate,
    Update,
)
from ..positions import Position
from ..records import UNCHANGED, Field, Record
from ..snapshot import BackfillStep, Snapshot, SnapshotBegin, SnapshotComplete, SnapshotEvent

__all__ = ["FORMATS", "Format", "json_line", "text_line"]

Format: TypeAlias = Callable[[Event | SnapshotEvent], str]
"""Makes a line of an event, without its line feed."""

_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_NUMBERS: Final = frozenset({"int2", "int4", "int8", "float4", "float8", "numeric", "oid"})
_PLAIN_NAME: Final = re.compile(r"[a-z_][a-z0-9_$]*", re.ASCII)


def json_line(event: Event | SnapshotEvent) -> str:
    """Make one JSON object of an event."""
    return _encode(_structure(event))


def _structure(event: Event | SnapshotEvent) -> dict[str, Any]:
    match event:
        case Insert():
            return _row("insert", event, event.record, None)
        case Update():
            return _row("update", event, event.record, event.old_record)
        case Delete():
            return _row("delete", event, None, event.old_record)
        case Truncate():
            return {
                "kind": "truncate",
                "tables": list(map(_table, event.relations)),
                "cascade": event.cascade,
                "restart_identity": event.restart_identity,
                **_place(event.position, event.transaction),
            }
        case LogicalMessage():
            return {
                "kind": "message",
                "prefix": event.prefix,
                **_content(event.content),
                "transactional": event.transaction is not None,
                **_place(event.position, event.transaction),
            }
        case Begin():
            return {"kind": "begin", **_transaction(event.transaction)}
        case Commit():
            return {
                "kind": "commit",
                "changes": event.changes,
                **_transaction(event.transaction),
                "end_lsn": str(event.end_lsn),
            }
        case Gap():
            return {
                "kind": "gap",
                "reason": event.reason.value,
                "after": None if event.after is None else str(event.after),
                "until": str(event.until),
            }
        case Idle():
            return {"kind": "idle", "position": str(event.position)}
        case Snapshot():
            return {
                "kind": "snapshot",
                **_table(event.relation),
                "record": _fields(event.record),
            }
        case SnapshotBegin():
            begin: dict[str, Any] = {"kind": "snapshot_begin"}
            begin["tables"] = list(map(_table, event.tables))
            return begin if event.reason is None else begin | {"reason": event.reason.value}
        case SnapshotComplete():
            return {
                "kind": "snapshot_complete",
                "rows": event.rows,
                "position": str(event.position),
            }
        case BackfillStep():
            return {"kind": "backfill_step", **_table(event.relation), "after": list(event.after)}


def _table(relation: Relation) -> dict[str, str]:
    return {"schema": relation.schema, "table": relation.table}


def _row(
    kind: str, change: Insert | Update | Delete, new: Record | None, old: Record | None
) -> dict[str, Any]:
    relation = change.relation
    row: dict[str, Any] = {"kind": kind, "schema": relation.schema, "table": relation.table}
    if new is not None:
        row["record"] = _fields(new)
        unchanged = [
            name for name, field in zip(new, new.fields, strict=True) if field is UNCHANGED
        ]
        if unchanged:
            row["unchanged"] = unchanged
    if old is not None:
        row["old_record"] = _fields(old)
    return row | _place(change.position, change.transaction)


def _fields(record: Record) -> dict[str, Any]:
    return {
        # A text field is a string and a binary field an object, so they cannot be confused.
        name: {"hex": field.hex()} if isinstance(field, bytes) else field
        for name, field in zip(record, record.fields, strict=True)
        if field is not UNCHANGED
    }


def _content(content: bytes) -> dict[str, str]:
    try:
        return {"content": content.decode()}
    except UnicodeDecodeError:
        return {"content_hex": content.hex()}


def _place(position: Position, transaction: Transaction | None) -> dict[str, Any]:
    # The LSN is 0 if the format does not tell it.
    place = {"position": str(position)} if position.lsn else {}
    return place if transaction is None else place | _transaction(transaction)


def _transaction(transaction: Transaction) -> dict[str, Any]:
    facts: dict[str, Any] = {"xid": transaction.xid}
    if transaction.commit_lsn:
        facts["commit_lsn"] = str(transaction.commit_lsn)
    if transaction.commit_time is not None:
        facts["commit_time"] = transaction.commit_time.isoformat(timespec="microseconds")
    for name in ("origin", "gid"):
        value = getattr(transaction, name)
        if value is not None:
            facts[name] = value
    return facts


def text_line(event: Event | SnapshotEvent) -> str:
    """Make a line for people; characters that could control a terminal are escaped."""
    match event:
        case Insert():
            return f"INSERT {_name(event.relation)} {_pairs(event.record)}"
        case Update():
            line = f"UPDATE {_name(event.relation)} {_pairs(event.record)}"
            return line if event.old_record is None else f"{line} (was {_pairs(event.old_record)})"
        case Delete():
            return f"DELETE {_name(event.relation)} {_pairs(event.old_record)}"
        case Truncate():
            line = f"TRUNCATE {', '.join(map(_name, event.relations))}"
            line += " RESTART IDENTITY" if event.restart_identity else ""
            return f"{line} CASCADE" if event.cascade else line
        case LogicalMessage():
            content = event.content.decode(errors="backslashreplace")
            return f"MESSAGE {_literal(event.prefix)} {_literal(content)}"
        case Begin():
            time = event.transaction.commit_time
            line = f"BEGIN {event.transaction.xid}"
            return line if time is None else f"{line} {time.isoformat(sep=' ')}"
        case Commit():
            return f"COMMIT {event.transaction.xid}"
        case Gap():
            after = "" if event.after is None else f" after {event.after}"
            return f"GAP {event.reason.value}: changes may be missing{after} until {event.until}"
        case Idle():
            return f"IDLE {event.position}"
        case Snapshot():
            return f"ROW {_name(event.relation)} {_pairs(event.record)}"
        case SnapshotBegin():
            why = "" if event.reason is None else f" ({event.reason.value})"
            return f"SNAPSHOT{why} of {', '.join(map(_name, event.tables)) or 'no table'}"
        case SnapshotComplete():
            return f"SNAPSHOT of {event.rows} rows is complete at {event.position}"
        case BackfillStep():
            return f"BACKFILL {_name(event.relation)} up to {', '.join(map(_literal, event.after))}"


def _pairs(record: Record) -> str:
    return " ".join(
        f"{_identifier(column.name)}={_value(field, column.type_name)}"
        for column, field in zip(record.shape.columns, record.fields, strict=True)
    )


def _value(field: Field, type_name: str) -> str:
    if field is None:
        return "NULL"
    if field is UNCHANGED:
        return "(unchanged)"
    if isinstance(field, bytes):
        return f"binary:{field.hex()}"
    return field if type_name in _NUMBERS else _literal(field)


def _literal(text: str) -> str:
    """Quote a text as PostgreSQL does, with ``E'…'`` only if a character has to be escaped."""
    if text.isprintable() and "\\" not in text:
        return "'" + text.replace("'", "''") + "'"
    return "E'" + "".join(map(_escaped, text)) + "'"


def _escaped(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    code = ord(letter)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_ESCAPES: Final = {"\\": "\\\\", "'": "''", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _name(relation: Relation) -> str:
    names = (relation.schema, relation.table) if relation.schema else (relation.table,)
    return ".".join(map(_identifier, names))


def _identifier(name: str) -> str:
    if _PLAIN_NAME.fullmatch(name):
        return name
    # PostgreSQL allows a line feed in a name, which would break the line.
    visible = (each if each.isprintable() else _escaped(each) for each in name)
    return '"' + "".join(visible).replace('"', '""') + '"'


FORMATS: Final[dict[str, Format]] = {"json": json_line, "text": text_line}
