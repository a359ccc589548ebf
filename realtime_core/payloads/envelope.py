"""The envelope of typed payloads: what they say of a change besides its rows.

A payload is the head, the text around the change's index with the index in it, the rows, and ``}``.
:mod:`.projection` writes it so, and so does the server's RLS mode.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from ..changes import Change
from ..positions import Position

__all__ = ["around_index", "make_head"]


def make_head(
    schema: str, table: str, kind: str, columns: Iterable[tuple[str, str]], error: str | None
) -> bytes:
    """Return the beginning of a payload, which changes of one kind of one table share.

    Args:
        schema: the table's schema.
        table: the table's name.
        kind: ``INSERT``, ``UPDATE``, ``DELETE`` or ``TRUNCATE``.
        columns: the names and types of the columns that are shown.
        error: why something is not shown; None if nothing is wrong.
    """
    head = {
        "schema": schema,
        "table": table,
        "type": kind,
        "errors": None if error is None else [error],
        "columns": [{"name": name, "type": type_name} for name, type_name in columns],
    }
    return orjson.dumps(head)[:-1]


def around_index(change: Change, *, has_time: bool = True) -> tuple[bytes, bytes]:
    """Return the bytes of a payload before and after the change's index in its transaction.

    They have the commit's time and position, and are the same for all changes of a transaction.

    Args:
        change: one of the transaction's changes.
        has_time: whether the payload has the commit's time if it is known, or null in its place.
    """
    transaction = change.transaction
    assert transaction is not None
    time = transaction.commit_time
    stamp = "null"
    if has_time and time is not None:
        stamp = f'"{time.isoformat(timespec="milliseconds").removesuffix("+00:00")}Z"'
    before, behind = Position.around_index(transaction.commit_lsn, transaction.stream)
    return f',"commit_timestamp":{stamp},"position":"{before}'.encode(), f'{behind}"'.encode()
