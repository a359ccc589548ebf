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
from psycopg import sql

from realtime_core import (
    Change,
    CommittedTransaction,
    Delete,
    Insert,
    PgoutputSource,
    Position,
    RealtimeError,
    Relation,
    Truncate,
    Update,
)

PUBLICATIONS = ["supabase_realtime"]
TABLE = ("public", "orders")
COLUMNS = ("id", "total", "items", "placed_at")
SCHEMA = """
    CREATE TABLE IF NOT EXISTS orders (
        id INTEGER PRIMARY KEY, total TEXT, items TEXT, placed_at TEXT
    );
    -- One row a change: repeated or left out, it would show.
    CREATE TABLE IF NOT EXISTS history (
        number INTEGER PRIMARY KEY, op TEXT, id INTEGER, total TEXT, committed_at TEXT
    );
    CREATE TABLE IF NOT EXISTS checkpoint (
        one INTEGER PRIMARY KEY CHECK (one = 1), position TEXT, snapshot TEXT
    );
"""


class Snapshot:
    """The moment of the first copy: what a transaction that it sees has done is in the copy.

    Args:
        text: as PostgreSQL writes it, xmin:xmax and the transactions that were running.
    """

    def __init__(self, text: str) -> None:
        xmin, xmax, running = text.split(":")
        self._xmin, self._xmax = int(xmin), int(xmax)
        self._running = {int(xid) for xid in running.split(",") if xid}

    def sees(self, xid: int) -> bool:
        # Of a change's transaction 32 bits are known; it is the one of that number near xmax.
        xid = self._xmax + (xid - self._xmax + 2**31) % 2**32 - 2**31
        return xid < self._xmin or (xid < self._xmax and xid not in self._running)


class Target:
    """The SQLite file. One process at a time writes to it; a second one waits for its turn."""

    def __init__(self, path: str) -> None:
        self._turn = open(f"{path}.lock", "w")  # noqa: SIM115 - held until the process ends
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        self._connection = sqlite3.connect(path)
        self._connection.executescript(SCHEMA)

    def position(self) -> Position | None:
        row = self._connection.execute("SELECT position FROM checkpoint").fetchone()
        return None if row is None or row[0] is None else Position.parse(row[0])

    def copy(self, snapshot: str, rows: list[tuple[str | None, ...]]) -> None:
        """Take the rows of a snapshot, in the place of all that a start before has copied."""
        with self._connection:
            self._connection.execute("DELETE FROM orders")
            self._connection.execute("DELETE FROM checkpoint")
            self._connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", rows)
            self._connection.execute("INSERT INTO checkpoint VALUES (1, NULL, ?)", (snapshot,))

    def apply(self, changes: tuple[Change, ...], position: Position) -> None:
        """Store what a transaction changed, and how far we are: all of it, or nothing."""
        with self._connection:
            (text,) = self._connection.execute("SELECT snapshot FROM checkpoint").fetchone()
            snapshot = Snapshot(text)
            for change in changes:
                assert change.transaction is not None
                if op := op_on_the_table(change):
                    if not snapshot.sees(change.transaction.xid):
                        self._apply(change)
                    self._note(op, change, str(change.transaction.commit_time))
            self._connection.execute("UPDATE checkpoint SET position = ?", (str(position),))

    def _apply(self, change: Change) -> None:
        match change:
            case Insert(record=row):
                marks = ", ".join("?" * len(COLUMNS))
                values = [row.text(name) for name in COLUMNS]
                self._connection.execute(f"INSERT INTO orders VALUES ({marks})", values)
            case Update(record=row, old_record=old):
                # A large value that the UPDATE left alone is not sent: leave it alone here, too,
                # also when the row gets another key.
                sent = row.as_text(omit_unchanged=True)
                names = [name for name in COLUMNS if name in sent]
                pairs = ", ".join(f"{name} = ?" for name in names)
                key = (row if old is None else old).text("id")
                self._connection.execute(
                    f"UPDATE orders SET {pairs} WHERE id = ?",
                    [*(sent[name] for name in names), key],
                )
            case Delete(old_record=old):
                self._connection.execute("DELETE FROM orders WHERE id = ?", (old.text("id"),))
            case Truncate():
                self._connection.execute("DELETE FROM orders")

    def _note(self, op: str, change: Change, committed_at: str) -> None:
        key = total = None
        match change:
            case Insert(record=row) | Update(record=row):
                key, total = row.text("id"), row.text("total")
            case Delete(old_record=row):
                key = row.text("id")
        values = (op, key, total, committed_at)
        self._connection.execute(
            "INSERT INTO history (op, id, total, committed_at) VALUES (?, ?, ?, ?)", values
        )


def op_on_the_table(change: Change) -> str | None:
    """Return what a change does to the table; None if it is another table's."""
    match change:
        case Insert() | Update() | Delete():
            relations: tuple[Relation, ...] = (change.relation,)
        case Truncate():
            relations = change.relations
        case _:
            return None
    if TABLE in {(relation.schema, relation.table) for relation in relations}:
        return type(change).__name__.upper()
    return None


async def rows_of_the_table(dsn: str) -> tuple[str, list[tuple[str | None, ...]]]:
    """Return a snapshot and its rows, as PostgreSQL writes them, which is how changes have them."""
    columns = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(name)) for name in COLUMNS
    )
    query = sql.SQL("SELECT {} FROM {}").format(columns, sql.Identifier(*TABLE))
    async with await psycopg.AsyncConnection.connect(dsn, options="-c timezone=UTC") as connection:
        await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        found = await connection.execute("SELECT pg_current_snapshot()::text")
        [(snapshot,)] = await found.fetchall()
        return snapshot, await (await connection.execute(query)).fetchall()


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
            # The slot is there, so what the copy has not comes as a change; of the changes that
            # come, some are in the copy already. If this is interrupted, it starts anew.
            target.copy(*await rows_of_the_table(dsn))
        print(f"copying {TABLE[1]} to {path}", flush=True)
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
