"""cache.py: a cache that PostgreSQL itself tells which rows are no longer true.

    DATABASE_URL=postgresql://… python cache.py

Then `curl -i localhost:8000/users/1`, twice: the header X-Cache says where the row came from.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from realtime_core import Delete, Event, Gap, Insert, PgoutputSource, Relation, Truncate, Update

PUBLICATIONS = ["supabase_realtime"]
TABLE = ("public", "users")

Row = dict[str, Any] | None


class Cache:
    """Rows of one table by their key: each is read once, and again when it has changed.

    Args:
        load: reads a row; None if there is none, which is kept as well.
        most_rows: how many are kept; the one that came first goes first.
        max_age: seconds after which a row is read again, whatever happens. PostgreSQL may tell of
            a change a moment before queries see it; a row that is read in that moment is an old
            one, and this is for how long it stays.
    """

    def __init__(
        self,
        load: Callable[[int], Awaitable[Row]],
        *,
        most_rows: int = 10_000,
        max_age: float = 60.0,
    ) -> None:
        self._load = load
        self._most_rows = most_rows
        self._max_age = max_age
        self._rows: dict[int, tuple[float, Row]] = {}
        self._changes = 0

    async def get(self, key: int) -> tuple[Row, bool]:
        """Return a row, and whether it was in the cache."""
        kept = self._rows.get(key)
        if kept is not None and time.monotonic() - kept[0] < self._max_age:
            return kept[1], True
        before, now = self._changes, time.monotonic()
        row = await self._load(key)
        # What was read while something changed may be from before the change: it is not kept.
        if self._changes == before:
            self._rows.pop(key, None)
            self._rows[key] = now, row
            if len(self._rows) > self._most_rows:
                del self._rows[next(iter(self._rows))]
        return row, False

    def forget(self, *keys: int) -> None:
        self._changes += 1
        for key in keys:
            self._rows.pop(key, None)

    def clear(self) -> None:
        self._changes += 1
        self._rows.clear()

    def hear(self, event: Event) -> None:
        """Forget what a change has made untrue."""
        match event:
            # An INSERT, too: that there was no such row is kept as well.
            case Insert(record=row) if is_cached(event.relation):
                self.forget(row["id"])
            case Update(record=row, old_record=old) if is_cached(event.relation):
                self.forget(row["id"], row["id"] if old is None else old["id"])
            case Delete(old_record=old) if is_cached(event.relation):
                self.forget(old["id"])
            # Of a gap nobody knows what was in it.
            case Truncate() | Gap():
                self.clear()


def is_cached(relation: Relation) -> bool:
    return (relation.schema, relation.table) == TABLE


def watch(task: asyncio.Task[None]) -> None:
    """Stop the program when its stream has ended: its rows would grow old."""
    if not task.cancelled():
        app.state.failure = repr(task.exception() or "the stream has ended")
        signal.raise_signal(signal.SIGINT)  # uvicorn takes it for Ctrl-C


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    dsn = os.environ["DATABASE_URL"]

    async def load(key: int) -> Row:
        async with pool.connection() as connection, connection.cursor(row_factory=dict_row) as rows:
            await rows.execute("SELECT id, name, email FROM public.users WHERE id = %s", (key,))
            return await rows.fetchone()

    async def follow() -> None:
        async for event in source:
            cache.hear(event)

    cache = Cache(load)
    async with (
        AsyncConnectionPool(dsn, open=False) as pool,
        PgoutputSource(
            dsn,
            publications=PUBLICATIONS,
            persistent=True,  # try again after every error
            on_gap="continue",
            auto_ack=True,
        ) as source,
    ):
        following = asyncio.create_task(follow())
        following.add_done_callback(watch)
        yield {"cache": cache, "source": source, "load": load}
        following.cancel()


app = FastAPI(lifespan=lifespan)
app.state.failure = None


@app.get("/users/{key}")
async def user(key: int, request: Request, response: Response) -> dict[str, Any]:
    # While nothing is heard of changes, nothing in the cache can be believed.
    if request.state.source.stats().connected:
        row, is_hit = await request.state.cache.get(key)
        response.headers["X-Cache"] = "hit" if is_hit else "miss"
    else:
        row = await request.state.load(key)
        response.headers["X-Cache"] = "off"
    if row is None:
        raise HTTPException(404, f"there is no user {key}")
    return dict(row)


if __name__ == "__main__":
    if "DATABASE_URL" not in os.environ:
        sys.exit("usage: DATABASE_URL=postgresql://… python cache.py")
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), access_log=False)
    if app.state.failure:
        sys.exit(f"cache.py: changes are not followed any more: {app.state.failure}")
