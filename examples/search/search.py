"""search.py: a full-text index beside PostgreSQL, brought up to date batch by batch.

    DATABASE_URL=postgresql://… python search.py

Then `curl 'localhost:8000/search?q=plants'`. The index is SQLite's, in one file; a search server
would be written to at the same places.
"""

import asyncio
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import psycopg
import uvicorn
from fastapi import FastAPI, Request

from realtime_core import (
    UNCHANGED,
    Delete,
    Event,
    Gap,
    Insert,
    PgoutputSource,
    Truncate,
    Update,
    slot_status,
)

PUBLICATIONS = ["supabase_realtime"]
TABLE = "todos"
SLOT = "search_todos"

logger = logging.getLogger("search")


class Index:
    """What can be searched: a text for each key."""

    def __init__(self, path: str) -> None:
        self._file = sqlite3.connect(path)
        self._file.execute("CREATE VIRTUAL TABLE IF NOT EXISTS todos USING fts5 (task)")

    @property
    def is_complete(self) -> bool:
        """Whether the table's rows were copied, and not only changes were applied."""
        return bool(self._file.execute("PRAGMA user_version").fetchone()[0])

    def rebuild(self, rows: Iterable[tuple[int, str]]) -> None:
        """Put these rows into the place of all."""
        with self._file:
            self._file.execute("DELETE FROM todos")
            self._file.executemany("INSERT INTO todos (rowid, task) VALUES (?, ?)", rows)
            self._file.execute("PRAGMA user_version = 1")

    def write(self, latest: Mapping[int, str | None], *, is_emptied: bool) -> None:
        """Bring the texts of some keys up to date, in one transaction; None deletes.

        It may be done twice, as nothing is but what it says.
        """
        with self._file:
            if is_emptied:
                self._file.execute("DELETE FROM todos")
            self._file.executemany("DELETE FROM todos WHERE rowid = ?", [(key,) for key in latest])
            texts = [(key, text) for key, text in latest.items() if text is not None]
            self._file.executemany("INSERT INTO todos (rowid, task) VALUES (?, ?)", texts)

    def search(self, text: str) -> list[tuple[int, str]]:
        # Each word in quotation marks, so that none is taken for an operator.
        words = " ".join('"' + word.replace('"', '""') + '"' for word in text.split())
        query = "SELECT rowid, task FROM todos WHERE todos MATCH ? ORDER BY rank, rowid LIMIT 20"
        return self._file.execute(query, (words,)).fetchall() if words else []


def sum_up(batch: Sequence[Event]) -> tuple[dict[int, str | None], bool]:
    """Return what a batch leaves of each row that it touches, and whether it emptied the table.

    A row that changed ten times in it is written once.
    """
    latest: dict[int, str | None] = {}
    is_emptied = False
    for event in batch:
        match event:
            case Insert(relation=relation, record=row) if relation.table == TABLE:
                latest[row["id"]] = row["task"]
            case Update(relation=relation, record=row, old_record=old) if relation.table == TABLE:
                if old is not None and old["id"] != row["id"]:
                    latest[old["id"]] = None
                # A large value that the UPDATE left alone is not sent, and stays as it is here.
                if row["task"] is not UNCHANGED:
                    latest[row["id"]] = row["task"]
            case Delete(relation=relation, old_record=old) if relation.table == TABLE:
                latest[old["id"]] = None
            case Truncate(relations=relations) if TABLE in {each.table for each in relations}:
                latest.clear()
                is_emptied = True
    return latest, is_emptied


async def rows_of_the_table(dsn: str) -> list[tuple[int, str]]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        cursor = await connection.execute("SELECT id, task FROM todos")
        return await cursor.fetchall()


async def follow(dsn: str, index: Index) -> None:
    # Without its slot the index is of another time, or of another database.
    is_complete = index.is_complete and await slot_status(dsn, SLOT) is not None
    async with PgoutputSource(
        dsn,
        publications=PUBLICATIONS,
        slot=SLOT,
        slot_in_use="wait",
        replace_slot=True,  # whatever was lost, the table can be read again
        on_gap="continue",
    ) as source:
        if not is_complete:
            # The slot is there: what changes from now on comes as a change, and may come though
            # it is copied already, which does no harm.
            index.rebuild(await rows_of_the_table(dsn))
        async for batch in source.batches():
            if any(isinstance(event, Gap) for event in batch):
                index.rebuild(await rows_of_the_table(dsn))
            latest, is_emptied = sum_up(batch)
            if latest or is_emptied:
                index.write(latest, is_emptied=is_emptied)
                logger.info("%d changes, %d rows written", len(batch), len(latest))
            # Only now: a crash before it repeats the batch, and never leaves it out.
            source.ack(batch[-1])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Index]]:
    def end(task: asyncio.Task[None]) -> None:
        # An index that hears of no change any more is worse than none.
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the index is not up to date any more: %s", error)
            signal.raise_signal(signal.SIGTERM)

    index = Index(os.environ.get("INDEX", "todos.sqlite"))
    following = asyncio.create_task(follow(os.environ["DATABASE_URL"], index))
    following.add_done_callback(end)
    yield {"index": index}
    following.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/search")
async def search(q: str, request: Request) -> list[dict[str, int | str]]:
    return [{"id": key, "task": task} for key, task in request.state.index.search(q)]


if __name__ == "__main__":
    if "DATABASE_URL" not in os.environ:
        sys.exit("usage: DATABASE_URL=postgresql://… python search.py")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), access_log=False)
