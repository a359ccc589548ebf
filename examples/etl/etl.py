"""etl.py: copy the table orders from PostgreSQL to SQLite, and record each change exactly once.

    DATABASE_URL=postgresql://… python etl.py orders.sqlite

The position of the last change is stored in the transaction that stores its work. Kill the program
at any moment and start it again: it goes on where it stood.
"""

import asyncio
import fcntl
import os
import sqlite3
import sys

import psycopg

from realtime_core import (
    Change,
    CommittedTransaction,
    Delete,
    Insert,
    PgoutputSource,
    Position,
    RealtimeError,
    Truncate,
    Update,
)

PUBLICATIONS = ["supabase_realtime"]
TABLE = "orders"
COLUMNS = ("id", "total", "items", "placed_at")
SCHEMA = """
    CREATE TABLE IF NOT EXISTS orders (
        id INTEGER PRIMARY KEY, total TEXT, items TEXT, placed_at TEXT
    );
    -- One row a change: repeated or left out, it would show.
    CREATE TABLE IF NOT EXISTS history (
        number INTEGER PRIMARY KEY, op TEXT, id INTEGER, total TEXT, committed_at TEXT
    );
    CREATE TABLE IF NOT EXISTS checkpoint (one INTEGER PRIMARY KEY CHECK (one = 1), position TEXT);
"""


class Target:
    """The SQLite file. One process at a time writes to it; a second one waits for its turn."""

    def __init__(self, path: str) -> None:
        self._turn = open(f"{path}.lock", "w")  # noqa: SIM115 - held until the process ends
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        self._connection = sqlite3.connect(path)
        self._connection.executescript(SCHEMA)

    def position(self) -> Position | None:
        row = self._connection.execute("SELECT position FROM checkpoint").fetchone()
        return None if row is None else Position.parse(row[0])

    def copy(self, rows: list[tuple[str | None, ...]]) -> None:
        """Take the rows that were there before the slot was."""
        with self._connection:
            for row in rows:
                self._upsert(dict(zip(COLUMNS, row, strict=True)))

    def apply(self, changes: tuple[Change, ...], position: Position) -> None:
        """Store what a transaction changed, and how far we are: all of it, or nothing."""
        with self._connection:
            for change in changes:
                self._apply(change)
            self._connection.execute(
                "INSERT INTO checkpoint VALUES (1, ?)"
                " ON CONFLICT (one) DO UPDATE SET position = excluded.position",
                (str(position),),
            )

    def _apply(self, change: Change) -> None:
        match change:
            case Insert(record=row) if change.relation.table == TABLE:
                self._upsert(row.as_text(omit_unchanged=True))
                self._note("INSERT", change, row.text("id"), row.text("total"))
            case Update(record=row, old_record=old) if change.relation.table == TABLE:
                if old is not None and old.text("id") != row.text("id"):
                    self._delete(old.text("id"))
                # A large value that the UPDATE left alone is not sent: leave it alone here, too.
                self._upsert(row.as_text(omit_unchanged=True))
                self._note("UPDATE", change, row.text("id"), row.text("total"))
            case Delete(old_record=old) if change.relation.table == TABLE:
                self._delete(old.text("id"))
                self._note("DELETE", change, old.text("id"))
            case Truncate() if TABLE in {relation.table for relation in change.relations}:
                self._connection.execute("DELETE FROM orders")
                self._note("TRUNCATE", change)

    def _upsert(self, values: dict[str, str | None]) -> None:
        names = [name for name in COLUMNS if name in values]
        marks = ", ".join("?" * len(names))
        pairs = ", ".join(f"{name} = excluded.{name}" for name in names)
        self._connection.execute(
            f"INSERT INTO orders ({', '.join(names)}) VALUES ({marks})"
            f" ON CONFLICT (id) DO UPDATE SET {pairs}",
            [values[name] for name in names],
        )

    def _delete(self, key: object) -> None:
        self._connection.execute("DELETE FROM orders WHERE id = ?", (key,))

    def _note(self, op: str, change: Change, key: object = None, total: object = None) -> None:
        assert change.transaction is not None
        values = (op, key, total, str(change.transaction.commit_time))
        self._connection.execute(
            "INSERT INTO history (op, id, total, committed_at) VALUES (?, ?, ?, ?)", values
        )


async def rows_of_the_table(dsn: str) -> list[tuple[str | None, ...]]:
    """Return the rows as PostgreSQL writes them, which is how changes have them, too."""
    columns = ", ".join(f"{name}::text" for name in COLUMNS)
    async with await psycopg.AsyncConnection.connect(dsn, options="-c timezone=UTC") as connection:
        cursor = await connection.execute(f"SELECT {columns} FROM {TABLE}".encode())
        return await cursor.fetchall()


async def main(dsn: str, path: str) -> None:
    target = Target(path)
    position = target.position()
    async with PgoutputSource(
        dsn,
        publications=PUBLICATIONS,
        slot="etl_orders",
        slot_in_use="wait",  # after a kill PostgreSQL may take a moment to notice
        start_at=position,
    ) as source:
        if position is None:
            # The slot is there, so what is changed from now on comes as a change, and what is
            # copied and changed is changed again. If this is interrupted, it starts anew.
            target.copy(await rows_of_the_table(dsn))
        print(f"copying {TABLE} to {path}", flush=True)
        async for item in source.transactions(max_bytes=64 * 1024 * 1024):
            # Where nothing of interest is committed there is a position to store all the same,
            # so that PostgreSQL can remove its log.
            changes = item.changes if isinstance(item, CommittedTransaction) else ()
            target.apply(tuple(changes), item.position)
            source.ack(item)
            if changes:
                print(f"{item.position}: {len(changes)} changes", flush=True)


if __name__ == "__main__":
    if "DATABASE_URL" not in os.environ or len(sys.argv) > 2:
        sys.exit("usage: DATABASE_URL=postgresql://… python etl.py [FILE]")
    file = sys.argv[1] if len(sys.argv) == 2 else "orders.sqlite"
    try:
        asyncio.run(main(os.environ["DATABASE_URL"], file))
    except KeyboardInterrupt:  # Ctrl-C
        pass
    except RealtimeError as error:  # it says what to do
        sys.exit(f"etl.py: {error}")
