"""Embedding the library, as a type checker sees it. tests/test_typing.py runs mypy on it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import assert_never, assert_type

from realtime_core import (
    LSN,
    UNCHANGED,
    Begin,
    Change,
    ChangeSource,
    Commit,
    DecodeError,
    Delete,
    Event,
    Gap,
    Idle,
    Insert,
    LogicalMessage,
    MemorySource,
    PgoutputSource,
    Position,
    Truncate,
    Unchanged,
    Update,
    Wal2JsonSource,
)
from realtime_core.pgoutput import Assembler, Decoder


async def print_changes(dsn: str) -> None:
    """The first thing that one writes."""
    async with PgoutputSource(dsn, publications=["shop"], slot="etl") as source:
        async for change in source:
            match change:
                case Insert():
                    print(
                        change.relation.table, change.record["id"], change.transaction.commit_time
                    )
                case Delete():
                    print(change.old_record.as_text())
                case _:
                    pass
            if not isinstance(change, Begin | Gap):
                source.ack(change)


async def read_any_source(source: ChangeSource) -> list[Position]:
    """A function that takes whichever source there is."""
    positions = []
    async for event in source:
        if not isinstance(event, Begin | Gap):
            positions.append(event.position)
            source.ack(event.position)
    return positions


def every_source() -> list[ChangeSource]:
    """All of them keep one protocol."""
    return [PgoutputSource("", publications=["shop"]), Wal2JsonSource(""), MemorySource()]


def describe(event: Event) -> str:
    """A match over every kind of event is complete: mypy proves the last line unreachable."""
    match event:
        case Insert(relation=relation, record=record):
            return f"{relation}: new {record.as_python()}"
        case Update(record=record, old_record=None):
            return f"changed {record['id']}"
        case Update(old_record=old):
            return f"changed from {old}"
        case Delete(old_record=old):
            return f"removed {old.text('id')}"
        case Truncate(relations=relations, cascade=cascade):
            return f"emptied {len(relations)} {cascade}"
        case LogicalMessage(prefix=prefix, content=content):
            return f"{prefix} {content.decode()}"
        case Begin(transaction) | Commit(transaction):
            return f"transaction {transaction.xid}"
        case Gap(after=after, until=until, reason=reason):
            return f"lost from {after} to {until}: {reason.value}"
        case Idle(position):
            return f"nothing up to {position}"
        case _:
            assert_never(event)


def types_of_fields(change: Insert, other: Change) -> None:
    """What a consumer reads has a type; a value of a column is Any."""
    assert_type(change.record.text("bio"), str | Unchanged | None)
    assert_type(change.transaction.commit_time, datetime | None)
    assert_type(change.transaction.commit_lsn, LSN)
    assert_type(other.position, Position)
    assert_type(change.record.as_text()["bio"], str | Unchanged | None)
    assert_type(change.record.as_text(omit_unchanged=True)["bio"], str | None)
    change.record.as_python(on_error="text", omit_unchanged=True)
    change.record.as_python(on_error=lambda error: (error.column, error.text))
    bio = change.record.text("bio")
    if bio is UNCHANGED:
        print("as it was")
    else:
        assert_type(bio, str | None)
    match bio:
        case Unchanged():
            print("as it was")
        case None:
            print("none")
        case _:
            assert_type(bio, str)


def decode_alone(payloads: Iterable[bytes]) -> list[Change | Begin | Commit]:
    """Bytes to changes without a connection."""
    decoder, assembler = Decoder(), Assembler()
    try:
        return [
            change for payload in payloads for change in assembler.feed(decoder.decode(payload))
        ]
    except DecodeError:
        return []
