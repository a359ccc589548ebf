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
    Relation,
    Truncate,
    Unchanged,
    Update,
    slot_status,
)

PUBLICATIONS = ["supabase_realtime"]
TABLE = ("public", "todos")
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


def sum_up(batch: Iterable[Event]) -> tuple[dict[int, str | Unchanged | None], bool]:
    """Return what a batch leaves of each row that it touches, and whether it emptied the table.

    A row that changed ten times in it is written once. UNCHANGED stands for a text that was not
    sent, and is to be read from the table.
    """
    latest: dict[int, str | Unchanged | None] = {}
    is_emptied = False
    for event in batch:
        match event:
            case Insert(record=row) if is_indexed(event.relation):
                latest[row["id"]] = row["task"]
            case Update(record=row, old_record=old) if is_indexed(event.relation):
                has_moved = old is not None and old["id"] != row["id"]
                if old is not None and has_moved:
                    latest[old["id"]] = None
                # A large value that the UPDATE left alone is not sent. It stays as it is here.
                if row["task"] is not UNCHANGED or has_moved:
                    latest[row["id"]] = row["task"]
            case Delete(old_record=old) if is_indexed(event.relation):
                latest[old["id"]] = None
            case Truncate(relations=relations) if any(map(is_indexed, relations)):
                latest.clear()
                is_emptied = True
    return latest, is_emptied


def is_indexed(relation: Relation) -> bool:
    return (relation.schema, relation.table) == TABLE


async def rows_of_the_table(dsn: str, keys: list[int] | None = None) -> list[tuple[int, str]]:
    """Read all rows, or those with some keys."""
    query = (
        "SELECT id, task FROM public.todos WHERE %(keys)s::bigint[] IS NULL OR id = ANY(%(keys)s)"
    )
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        return await (await connection.execute(query, {"keys": keys})).fetchall()


async def apply(batch: Sequence[Event], index: Index, dsn: str) -> None:
    """Bring the index up to date with a batch."""
    gaps = [place for place, event in enumerate(batch) if isinstance(event, Gap)]
    if gaps:
        # What is before the gap is older than what is read now, and what changed it again may have
        # been lost: it is left out. What is behind it comes to its end, as at the first start.
        index.rebuild(await rows_of_the_table(dsn))
        batch = batch[gaps[-1] + 1 :]
    latest, is_emptied = sum_up(batch)
    if unsent := [key for key, text in latest.items() if text is UNCHANGED]:
        # Newer than this change, perhaps: then what made it so comes later. None: it was deleted.
        latest |= dict.fromkeys(unsent) | dict(await rows_of_the_table(dsn, unsent))
    if latest or is_emptied:
        texts = {key: text for key, text in latest.items() if text is not UNCHANGED}
        index.write(texts, is_emptied=is_emptied)
        logger.info("%d changes, %d rows written", len(batch), len(latest))


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
            await apply(batch, index, dsn)
            # Only now: a crash before it repeats the batch, and never leaves it out.
            source.ack(batch[-1])


def watch(task: asyncio.Task[None]) -> None:
    """Stop the program when its stream has ended: its index would grow old."""
    if not task.cancelled():
        app.state.failure = repr(task.exception() or "the stream has ended")
        signal.raise_signal(signal.SIGINT)  # uvicorn takes it for Ctrl-C


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Index]]:
    index = Index(os.environ.get("INDEX", "todos.sqlite"))
    following = asyncio.create_task(follow(os.environ["DATABASE_URL"], index))
    following.add_done_callback(watch)
    yield {"index": index}
    following.cancel()


app = FastAPI(lifespan=lifespan)
app.state.failure = None


@app.get("/search")
async def search(q: str, request: Request) -> list[dict[str, int | str]]:
    return [{"id": key, "task": task} for key, task in request.state.index.search(q)]


if __name__ == "__main__":
    if "DATABASE_URL" not in os.environ:
        sys.exit("usage: DATABASE_URL=postgresql://… python search.py")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), access_log=False)
    if app.state.failure:
        sys.exit(f"search.py: the index is not up to date any more: {app.state.failure}")
