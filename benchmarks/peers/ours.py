"""realtime_core and realtime_server on the same capture, from the same kind of worker.

    python ours.py CAPTURE

Each case goes over all messages, with a decoder and an assembler of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from row_values import read_values
from worker import read_capture, serve

from realtime_core import Change, Delete, Insert, Record, Update
from realtime_core.pgoutput import (
    ChangeDecoder,
    Decoder,
    DeleteMessage,
    InsertMessage,
    RelationMessage,
    UpdateMessage,
)
from realtime_core.records import Shape
from realtime_server.fanout.payloads.row_payload import RelationPlan, RowPayload, row_payloads

capture = Path(sys.argv[1])
payloads = read_capture(capture)


def messages(batch: list[bytes]) -> None:
    decode = Decoder().decode
    for payload in batch:
        decode(payload)


def changes(batch: list[bytes]) -> None:
    """Cut rows into fields, which are text."""
    for _ in ChangeDecoder().decode(batch):
        pass


def rows(batch: list[bytes], use: Callable[[Change], object]) -> None:
    """Call ``use`` with every change of a row."""
    kinds = {Insert, Update, Delete}
    for change in ChangeDecoder().decode(batch):
        if type(change) in kinds:
            use(change)


def new_or_old(change: Any) -> Record:
    record: Record = change.old_record if type(change) is Delete else change.record
    return record


def two_columns() -> None:
    """Read the first two columns of each row that came, as Python values."""
    # As a program does that knows its tables; a key has one column.
    names: dict[Shape, tuple[str, str]] = {}
    for change in ChangeDecoder().decode(payloads):
        kind = type(change)
        if kind is Insert or kind is Update:
            record = change.record
        elif kind is Delete:
            record = change.old_record
        else:
            continue
        pair = names.get(record.shape)
        if pair is None:
            pair = names[record.shape] = (record.shape.names[0], record.shape.names[:2][-1])
        first, second = pair
        record[first]
        record[second]


def texts(change: Any) -> None:
    """Read every field of every row that came, old ones included, as text."""
    new_or_old(change).as_text()
    if type(change) is Update and change.old_record is not None:
        change.old_record.as_text()


def payload_bytes(of: Callable[[RowPayload], bytes]) -> int:
    """Make the payloads that the server sends; return their bytes."""
    plans: dict[tuple[str, str], RelationPlan] = {}
    total = 0

    def use(change: Change) -> None:
        nonlocal total
        for row in row_payloads(change, plans):
            total += len(of(row))

    rows(payloads, use)
    return total


def without_arrays() -> list[bytes]:
    """Return the messages without those of shop.users, whose arrays have quoted elements."""
    decode = Decoder().decode
    kept = []
    left_out = -1
    for payload in payloads:
        message = decode(payload)
        if isinstance(message, RelationMessage) and message.name == "users":
            left_out = message.relation_oid
        if getattr(message, "relation_oid", None) != left_out:
            kept.append(payload)
    return kept


def count(batch: list[bytes]) -> dict[str, int]:
    """Count what was decoded, so that every contender is known to have read the same."""
    decode = Decoder().decode
    counts = {"messages": 0, "rows": 0, "texts": 0, "bytes": 0}
    for payload in batch:
        message = decode(payload)
        counts["messages"] += 1
        counts["rows"] += isinstance(message, InsertMessage | UpdateMessage | DeleteMessage)
        for row in (getattr(message, "old", None), getattr(message, "new", None)):
            for field in row or ():
                if isinstance(field, str):
                    counts["texts"] += 1
                    counts["bytes"] += len(field.encode())
    return counts


cases: dict[str, Callable[[], object]] = {
    "check": lambda: count(payloads),
    "messages": lambda: messages(payloads),
    "changes": lambda: changes(payloads),
    "texts": lambda: rows(payloads, texts),
    "two columns": two_columns,
    "values": lambda: rows(payloads, read_values),
    "v1 json": lambda: payload_bytes(lambda row: row.payload),
    "typed json": lambda: payload_bytes(lambda row: row.typed(row.event)),
}

some = without_arrays()
cases |= {
    "check without arrays": lambda: count(some),
    "messages without arrays": lambda: messages(some),
    "changes without arrays": lambda: changes(some),
    "values without arrays": lambda: rows(some, read_values),
}

serve(cases)
