"""Embedding the library, as a type checker sees it. tests/test_typing.py runs mypy on it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import assert_never, assert_type

from realtime_core import (
    LSN,
    UNCHANGED,
    BackfillStep,
    Begin,
    Change,
    ChangeSource,
    Commit,
    CommittedTransaction,
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
    RawChange,
    RawEvent,
    RawPgoutputSource,
    RawRows,
    RawTransactionEvent,
    Record,
    Snapshot,
    SnapshotBegin,
    SnapshotComplete,
    SnapshotEvent,
    StreamOptions,
    TransactionEvent,
    Truncate,
    TypedChange,
    Unchanged,
    Update,
    Wal2JsonSource,
)
from realtime_core.pgoutput import Assembler, Decoder, Encoder


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
                    print(change.position)
            source.ack(change)


class Shop:
    """Rows become objects of it."""


async def rows_as_objects(dsn: str) -> None:
    """The rows of other tables stay records."""
    async with PgoutputSource(dsn, publications=["shop"]) as plain:
        source = plain.typed({"public.shops": Shop})
        async for change in source:
            assert_type(change, TypedChange[Shop | Record])
            match change:
                case Insert(record=Shop() as shop):
                    assert_type(shop, Shop)
                case Update(record=row, old_record=old):
                    assert_type(row, Shop | Record)
                    assert_type(old, Shop | Record | None)
            source.ack(change)
        async for whole in source.transactions(1000):
            if isinstance(whole, CommittedTransaction):
                assert_type(whole.changes, tuple[TypedChange[Shop | Record], ...])
            if not isinstance(whole, Gap):
                source.ack(whole)
    with PgoutputSource.sync(dsn, publications=["shop"]) as threaded:
        for change in threaded.typed({"public.shops": Shop}, on_error="record"):
            assert_type(change, TypedChange[Shop | Record])


async def read_any_source(source: ChangeSource) -> list[Position]:
    """A function that takes whichever source there is."""
    positions = []
    async for event in source:
        if not isinstance(event, Begin | Gap):
            positions.append(event.position)
            source.ack(event.position)
    return positions


def read_without_a_loop(dsn: str, stored: Position | None) -> None:
    """The kinds of events follow from the options, as they do of the asynchronous source."""
    with PgoutputSource.sync(dsn, publications=["shop"]) as plain:
        for change in plain:
            assert_type(change, Change)
            plain.ack(change)
    gaps = Wal2JsonSource.sync(dsn, on_gap="continue", start_at=stored)
    assert_type(next(gaps), Change | Gap | Idle)
    assert_type(next(gaps.batches()), list[Change | Gap | Idle])
    assert_type(next(plain.transactions(1000)), CommittedTransaction | LogicalMessage)
    rows = RawPgoutputSource.sync(dsn, publications=["shop"])
    assert_type(rows.next(timeout=1), RawEvent)


def every_source() -> list[ChangeSource]:
    """All of them keep one protocol."""
    return [PgoutputSource("", publications=["shop"]), Wal2JsonSource(""), MemorySource()]


async def events_are_those_that_the_options_ask_for(
    dsn: str, start: Position | None, options: StreamOptions, verbose: bool
) -> None:
    """What an option leaves out need not be told apart from what comes."""
    plain = PgoutputSource(dsn, publications=["shop"], slot="etl", filter="id=gt.1", on_gap="raise")
    async for change in plain:
        assert_type(change, Change)
        print(change.position)
    async for batch in plain.batches():
        assert_type(batch, list[Change])
    async for item in plain.transactions(1000):
        assert_type(item, CommittedTransaction | LogicalMessage)

    checkpoint = Wal2JsonSource(dsn, slot="etl", start_at=start)
    async for place in checkpoint:
        assert_type(place, Change | Idle)
    async for stored in checkpoint.transactions(1000):
        assert_type(stored, CommittedTransaction | LogicalMessage | Idle)
        print(stored.position)

    gaps = MemorySource(slot="etl", on_gap="continue")
    async for found in gaps:
        assert_type(found, Change | Gap)
    async for whole in gaps.transactions(1000):
        assert_type(whole, CommittedTransaction | LogicalMessage | Gap)

    framed = PgoutputSource(dsn, publications=["shop"], boundaries=True)
    async for event in framed:
        assert_type(event, Change | Begin | Commit)
    async for no_frame in framed.transactions(1000):
        assert_type(no_frame, CommittedTransaction | LogicalMessage)
    framed_gaps = MemorySource(boundaries=True, on_gap="continue")
    assert_type(framed_gaps, MemorySource[Change | Begin | Commit | Gap])
    framed_checkpoint = Wal2JsonSource(dsn, boundaries=True, start_at=start)
    assert_type(framed_checkpoint, Wal2JsonSource[Change | Begin | Commit | Idle])
    checkpoint_gaps = Wal2JsonSource(dsn, on_gap="continue", start_at=start)
    assert_type(checkpoint_gaps, Wal2JsonSource[Change | Gap | Idle])
    everything = MemorySource(boundaries=True, on_gap="continue", start_at=start)
    assert_type(everything, MemorySource[Event])

    # Where only the program knows, anything may come.
    assert_type(PgoutputSource(dsn, publications=["shop"], **options), PgoutputSource[Event])
    unknown = PgoutputSource(dsn, publications=["shop"], boundaries=verbose)
    assert_type(unknown, PgoutputSource[Event])
    async for any_item in unknown.transactions(1000):
        assert_type(any_item, TransactionEvent)

    # And each is a source like any other.
    await read_any_source(plain)
    await read_any_source(checkpoint)
    await read_any_source(gaps)
    await read_any_source(everything)
    await read_changes(plain)


async def rows_as_bytes(dsn: str) -> None:
    """Rows are of another kind there, and all else is what it always is."""

    async def stored() -> Position | None:
        return None

    source = RawPgoutputSource(dsn, publications=["shop"], boundaries=True, start_at=stored)
    encoder = Encoder()
    async for event in source:
        assert_type(event, RawEvent)
        if isinstance(event, RawRows):
            assert_type(event.messages, tuple[bytes, ...])
        if not isinstance(event, Gap | Idle):
            assert_type(encoder.encode(event), list[bytes])
        source.ack(event)
    async for item in source.transactions(1000):
        assert_type(item, RawTransactionEvent)
        if isinstance(item, CommittedTransaction):
            assert_type(item.changes, tuple[RawChange, ...])
    await read_any_kind_of_source(source)


async def read_any_kind_of_source(source: ChangeSource[Event | RawRows]) -> None:
    """A function that takes a source of bytes as well."""
    async for event in source:
        source.ack(event)


async def read_changes(source: ChangeSource[Change]) -> None:
    """A function that takes sources without frames and gaps."""
    async for change in source:
        source.ack(change.position)


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


async def copy_and_follow(dsn: str) -> None:
    """With a snapshot there are its events, too."""
    async with PgoutputSource(dsn, publications=["shop"], snapshot="initial") as source:
        async for event in source:
            assert_type(event, Change | SnapshotEvent)
            match event:
                case SnapshotBegin(tables=tables):
                    print([str(table) for table in tables])
                case Snapshot(relation=relation, record=record):
                    print(relation.table, record["id"])
                case SnapshotComplete(position=position):
                    assert_type(position, Position)
                    source.ack(event)
                case BackfillStep(after=after, is_last=is_last):
                    print(after, is_last)
                case Insert() | Update() | Delete() | Truncate() | LogicalMessage():
                    source.ack(event)
                case _:
                    assert_never(event)
    async for later in Wal2JsonSource(dsn, snapshot="when_needed", start_at=None):
        assert_type(later, Event | SnapshotEvent)
