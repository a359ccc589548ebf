"""etl.py: copy the table orders from PostgreSQL to SQLite, and record each change exactly once.

    DATABASE_URL=postgresql://… python etl.py orders.sqlite

The position of the last change is stored in the transaction that stores its work. Kill the program
at any moment and start it again: it goes on where it stood.
"""

import os
import sqlite3
import sys

from realtime_core import (
    Commit,
    Delete,
    Idle,
    Insert,
    PgoutputSource,
    RealtimeError,
    SnapshotComplete,
    Truncate,
    Update,
)
from realtime_core.targets import SqliteTarget

PUBLICATIONS = ["supabase_realtime"]
TABLE = "public.orders"
SCHEMA = """
    CREATE TABLE IF NOT EXISTS orders (
        id INTEGER PRIMARY KEY, total TEXT, items TEXT, placed_at TEXT
    );
    -- One row a change: repeated or left out, it would show.
    CREATE TABLE IF NOT EXISTS history (
        number INTEGER PRIMARY KEY, op TEXT, id INTEGER, total TEXT, committed_at TEXT
    );
"""
NOTE = "INSERT INTO history (op, id, total, committed_at) VALUES (?, ?, ?, ?)"


def note(history: sqlite3.Connection, event: object) -> None:
    """Write a row about a change of the table, and none about anything else."""
    match event:
        case Insert(relation=table, record=row) | Update(relation=table, record=row) if (
            str(table) == TABLE
        ):
            key, total = row.text("id"), row.text("total")
        case Delete(relation=table, old_record=row) if str(table) == TABLE:
            key, total = row.text("id"), None
        case Truncate(relations=tables) if TABLE in map(str, tables):
            key = total = None
        case _:
            return
    committed_at = str(event.transaction.commit_time)
    history.execute(NOTE, (type(event).__name__.upper(), key, total, committed_at))


def main(dsn: str, path: str) -> None:
    with SqliteTarget(path, "orders", [TABLE]) as target:
        target.connection.executescript(SCHEMA)
        start = target.start()
        with PgoutputSource.sync(
            dsn,
            publications=PUBLICATIONS,
            slot="etl_orders",
            slot_in_use="wait",  # after a kill PostgreSQL may take a moment to notice
            snapshot="initial",
            start_at=start,
            boundaries=True,
        ) as source:
            if start is not None:
                print(f"{path} has all up to {start}", flush=True)
            for event in source:
                target.write([event])
                # In the same transaction.
                note(target.connection, event)
                if isinstance(event, Commit | Idle | SnapshotComplete):
                    target.commit(event.position)
                    source.ack(event)
                if isinstance(event, SnapshotComplete):
                    print(f"{path} has {target.rows} rows, and all changes follow", flush=True)
                elif isinstance(event, Commit) and event.changes:
                    print(f"{event.position}: {event.changes} changes", flush=True)


if __name__ == "__main__":
    if "DATABASE_URL" not in os.environ or len(sys.argv) > 2:
        sys.exit("usage: DATABASE_URL=postgresql://… python etl.py [FILE]")
    file = sys.argv[1] if len(sys.argv) == 2 else "orders.sqlite"
    try:
        main(os.environ["DATABASE_URL"], file)
    except KeyboardInterrupt:  # Ctrl-C
        pass
    except RealtimeError as error:  # it says what to do
        sys.exit(f"etl.py: {error}")
