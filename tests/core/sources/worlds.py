"""Worlds for the contract suite: a table, a slot, and what happens to them.

Each plays on another source. What the suite does with a world means the same on all of them.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Self

import attrs
import psycopg

from realtime_core import (
    Begin,
    ChangeSource,
    Commit,
    CommittedTransaction,
    Event,
    MemoryDatabase,
    MemorySource,
    PgoutputSource,
    RawEvent,
    RawPgoutputSource,
    RawRows,
    Wal2JsonSource,
)
from realtime_core.pgoutput import ChangeDecoder, Encoder
from tests.core.sources.threaded import Threaded
from tests.fix_postgres import Database, unique_name
from tests.waiting import eventually_sync

__all__ = [
    "FanOutMemoryWorld",
    "MemoryWorld",
    "PgoutputWorld",
    "RawPgoutputWorld",
    "SyncMemoryWorld",
    "SyncPgoutputWorld",
    "SyncWal2JsonWorld",
    "Wal2JsonWorld",
    "World",
]


class World(abc.ABC):
    """A table ``item (id int4 primary key, name text)``, and a slot of its own."""

    sends_truncate = True
    sends_messages = True
    filters = True
    """Whether its sources take a filter."""
    schema: str
    """The schema of its tables."""
    shares_loop = True
    """Whether its sources run on the loop of the test."""

    @abc.abstractmethod
    def source(self, **options: Any) -> ChangeSource:
        """Make a source on the world's slot, unless ``slot`` says otherwise."""

    @abc.abstractmethod
    def write(self, *operations: Sequence[Any], roll_back: bool = False) -> None:
        """Do this in one transaction.

        Args:
            operations: ``("insert", id, name)``, ``("update", id, new id, name)``,
                ``("delete", id)``, ``("truncate",)``, ``("message", prefix, content)``.
        """

    @abc.abstractmethod
    def write_elsewhere(self) -> None:
        """Write what is not streamed."""

    @abc.abstractmethod
    def break_connections(self) -> None:
        """End all streams."""

    @abc.abstractmethod
    def move_slot(self) -> None:
        """Advance the slot, which nobody uses now, to the end of the WAL."""

    @abc.abstractmethod
    def confirmed(self) -> int:
        """Return where the slot stands."""

    @abc.abstractmethod
    def end_of_wal(self) -> int:
        """Return up to where something was written."""

    def insert(self, *ids: int) -> None:
        """Insert rows in one transaction."""
        self.write(*(("insert", number, f"name {number}") for number in ids))


class MemoryWorld(World):
    schema = "public"

    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.table = self.database.table("item", {"id": "int4", "name": "text"}, key="id")
        # Its slot is there from the start, as a real one's is after the first source.
        self.slot = "world"

    def source(self, **options: Any) -> MemorySource:
        return MemorySource(self.database, **({"slot": self.slot} | options))

    def write(self, *operations: Sequence[Any], roll_back: bool = False) -> None:
        try:
            with self.database.transaction():
                for operation in operations:
                    self._do(*operation)
                if roll_back:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass

    def _do(self, kind: str, *arguments: Any) -> None:
        match kind, arguments:
            case "insert", (number, name):
                self.table.insert(id=number, name=name)
            case "update", (number, new_number, name):
                self.table.update(number, id=new_number, name=name)
            case "delete", (number,):
                self.table.delete(number)
            case "truncate", ():
                self.database.truncate(self.table)
            case "message", (prefix, content):
                self.database.message(prefix, content)

    def write_elsewhere(self) -> None:
        self.database.write_elsewhere(1_000_000)

    def break_connections(self) -> None:
        self.database.drop_connections()

    def move_slot(self) -> None:
        self.database.advance_slot(self.slot)

    def confirmed(self) -> int:
        return self.database.confirmed(self.slot)

    def end_of_wal(self) -> int:
        return self.database.end_of_wal


class SyncMemoryWorld(MemoryWorld):
    """Its sources run on threads of their own, and so do those of the other Sync world."""

    shares_loop = False

    def source(self, **options: Any) -> Any:
        return Threaded(super().source(**options))


class FanOutMemoryWorld(MemoryWorld):
    """Each of its sources is read through the only consumer of a fan-out."""

    def source(self, **options: Any) -> Any:
        return Fanned(super().source(**options))


class Fanned:
    """A consumer of a fan-out that enters and leaves its source, too."""

    def __init__(self, source: MemorySource) -> None:
        self.source = source
        self.consumer = source.fan_out().consumer("only")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.consumer, name)

    async def __aenter__(self) -> Self:
        await self.source.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self.consumer.__aexit__(*exc)
        await self.source.__aexit__(*exc)

    async def aclose(self) -> None:
        await self.source.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await anext(self.consumer)


class PostgresWorld(World):
    """On a database that the tests of a module share; each world has a table of its own."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.slot = unique_name("world")
        self.schema = unique_name("world")
        self.connection = database.connect()
        self.connection.execute(f"create schema {self.schema}")
        self.connection.execute(f"set search_path to {self.schema}")
        self.connection.execute("create table item (id int primary key, name text)")
        self.connection.execute("create table other (data text)")

    def options(self) -> dict[str, Any]:
        return {"slot": self.slot, "backoff": (0.01, 0.1), "status_interval": 0.1}

    def write(self, *operations: Sequence[Any], roll_back: bool = False) -> None:
        with self.connection.transaction(force_rollback=roll_back):
            for operation in operations:
                self._do(*operation)

    def _do(self, kind: str, *arguments: Any) -> None:
        execute = self.connection.execute
        match kind, arguments:
            case "insert", (number, name):
                execute("insert into item values (%s, %s)", (number, name))
            case "update", (number, new_number, name):
                execute(
                    "update item set id = %s, name = %s where id = %s", (new_number, name, number)
                )
            case "delete", (number,):
                execute("delete from item where id = %s", (number,))
            case "truncate", ():
                execute("truncate item")
            case "message", (prefix, content):
                execute("select pg_logical_emit_message(true, %s, %s::text)", (prefix, content))

    def write_elsewhere(self) -> None:
        self.connection.execute(
            "insert into other select repeat('x', 1000) from generate_series(1, 1000)"
        )

    def break_connections(self) -> None:
        query = """
            select pg_terminate_backend(active_pid, 10000) from pg_replication_slots
            where database = current_database() and active
        """
        self.connection.execute(query)

    def move_slot(self) -> None:
        def move() -> bool:
            try:
                self.connection.execute(
                    "select pg_replication_slot_advance(%s, pg_current_wal_insert_lsn())",
                    (self.slot,),
                )
            except psycopg.errors.ObjectInUse:
                return False
            return True

        eventually_sync(move)

    def confirmed(self) -> int:
        return self._number(
            "select confirmed_flush_lsn - '0/0' from pg_replication_slots where slot_name = %s",
            self.slot,
        )

    def end_of_wal(self) -> int:
        return self._number("select pg_current_wal_insert_lsn() - '0/0'")

    def _number(self, query: str, *parameters: str) -> int:
        row = self.connection.execute(query, parameters).fetchone()
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        self.break_connections()

        def drop() -> bool:
            try:
                self.connection.execute(
                    "select pg_drop_replication_slot(slot_name)"
                    " from pg_replication_slots where slot_name = %s",
                    (self.slot,),
                )
            except psycopg.errors.ObjectInUse:
                return False
            return True

        eventually_sync(drop)
        self.connection.execute("set client_min_messages to warning")
        self.connection.execute(f"drop schema {self.schema} cascade")
        self.connection.close()


class PgoutputWorld(PostgresWorld):
    def __init__(self, database: Database, **options: Any) -> None:
        super().__init__(database)
        self.more = options
        self.connection.execute(f"create publication {self.schema} for table item")

    def source(self, **options: Any) -> PgoutputSource:
        settings: dict[str, Any] = {"publications": [self.schema], "messages": True}
        settings |= self.options() | self.more
        return PgoutputSource(self.database.dsn, **(settings | options))

    def close(self) -> None:
        self.connection.execute(f"drop publication {self.schema}")
        super().close()


class SyncPgoutputWorld(PgoutputWorld):
    shares_loop = False

    def source(self, **options: Any) -> Any:
        return Threaded(super().source(**options))


class RawPgoutputWorld(PgoutputWorld):
    """Its source hands over bytes, which are decoded here, so that the suite can look at them."""

    filters = False

    def source(self, **options: Any) -> Any:
        settings: dict[str, Any] = {"publications": [self.schema], "messages": True, "max_rows": 1}
        settings |= self.options() | self.more
        return Decoded(RawPgoutputSource(self.database.dsn, **(settings | options)))


class Decoded:
    """A source whose events are decoded one by one; all else is the source's own."""

    def __init__(self, source: RawPgoutputSource) -> None:
        self.source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    async def __aenter__(self) -> Self:
        await self.source.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self.source.__aexit__(*exc)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return decoded(await anext(self.source))

    def batches(self, **bounds: Any) -> AsyncIterator[list[Event]]:
        return Mapped(
            self.source.batches(**bounds), lambda batch: [decoded(event) for event in batch]
        )

    def transactions(self, max_bytes: int) -> AsyncIterator[Any]:
        def whole(item: Any) -> Any:
            if not isinstance(item, CommittedTransaction):
                return item
            changes = tuple(decoded(change) for change in item.changes)
            return attrs.evolve(item, changes=changes)

        return Mapped(self.source.transactions(max_bytes), whole)


class Mapped(AsyncIterator[Any]):
    """What a source's iterator yields, seen otherwise; cancelling a step loses nothing."""

    def __init__(self, items: AsyncIterator[Any], change: Callable[[Any], Any]) -> None:
        self.items = items
        self.change = change

    async def __anext__(self) -> Any:
        return self.change(await anext(self.items))


def decoded(event: RawEvent) -> Any:
    """Decode the one row of an event, by what its event says of it."""
    if not isinstance(event, RawRows):
        return event
    encoder = Encoder()
    decoder = ChangeDecoder(event.transaction.stream)
    messages = [*encoder.encode(Begin(event.transaction)), *encoder.encode(event)]
    begin, change = decoder.decode(messages)
    assert isinstance(begin, Begin)
    assert begin.transaction == event.transaction
    assert not isinstance(change, Begin | Commit)
    change.index = event.index
    return change


class Wal2JsonWorld(PostgresWorld):
    def __init__(self, database: Database, format_version: int) -> None:
        super().__init__(database)
        self.format_version = format_version
        self.sends_truncate = self.sends_messages = format_version == 2

    def source(self, **options: Any) -> Wal2JsonSource:
        settings = {
            "tables": [(self.schema, "item")],
            "format_version": self.format_version,
            "messages": self.sends_messages,
        }
        return Wal2JsonSource(self.database.dsn, **(settings | self.options() | options))


class SyncWal2JsonWorld(Wal2JsonWorld):
    shares_loop = False

    def source(self, **options: Any) -> Any:
        return Threaded(super().source(**options))
