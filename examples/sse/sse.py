"""sse.py: PostgreSQL's changes as server-sent events, which every browser reads without a library.

    DATABASE_URL=postgresql://… python sse.py

One source serves all browsers. It has a temporary slot, so PostgreSQL keeps nothing for a program
that is not there; what is missed meanwhile is told as an event ``gap``.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse, StreamingResponse

from realtime_core import Delete, Event, Gap, Insert, PgoutputSource, Truncate, Update

PUBLICATIONS = ["supabase_realtime"]
MOST_WAITING = 1000  # events that wait for a browser; a slower one connects again
KEEP_ALIVE = 15.0  # seconds without an event, after which a comment keeps proxies patient


class Listener:
    """One browser: what it asks for, and what waits for it."""

    def __init__(self, table: str | None) -> None:
        self._table = table
        self._events: asyncio.Queue[str | None] = asyncio.Queue(MOST_WAITING)

    def put(self, event: str, table: str | None) -> None:
        """Have an event sent, if it is of the table. Never wait: others are served as well."""
        if self._table is not None and table not in (self._table, None):
            return
        if self._events.full():
            self.end()
        else:
            self._events.put_nowait(event)

    def end(self) -> None:
        """Close the stream. EventSource connects again by itself."""
        while not self._events.empty():
            self._events.get_nowait()
        self._events.put_nowait(None)

    async def stream(self) -> AsyncIterator[str]:
        yield "event: open\ndata: {}\n\n"
        while True:
            try:
                event = await asyncio.wait_for(self._events.get(), KEEP_ALIVE)
            except TimeoutError:
                event = ":\n\n"
            if event is None:
                return
            yield event


listeners: set[Listener] = set()


def publish(event: Event) -> None:
    match event:
        case Insert(relation=relation, record=row) | Update(relation=relation, record=row):
            # A large value that an UPDATE left alone is not there.
            values = row.as_text(omit_unchanged=True)
        case Delete(relation=relation, old_record=row):
            values = row.as_text(omit_unchanged=True)
        case Truncate(relations=relations):
            for relation in relations:
                send("TRUNCATE", relation.table, {"table": relation.table})
            return
        case Gap(reason=reason):
            send("gap", None, {"reason": reason.value})
            return
        case _:
            return
    name = type(event).__name__.upper()
    # Values are PostgreSQL's texts: JSON has no NaN, no bytes, and only some numbers of int8.
    send(name, relation.table, {"table": relation.table, "row": values})


def send(name: str, table: str | None, data: dict[str, object]) -> None:
    text = f"event: {name}\ndata: {json.dumps(data)}\n\n"
    for listener in listeners:
        listener.put(text, table)


async def follow() -> None:
    async with PgoutputSource(
        os.environ["DATABASE_URL"],
        publications=PUBLICATIONS,
        persistent=True,  # try again after every error
        on_gap="continue",
        auto_ack=True,
    ) as source:
        async for event in source:
            publish(event)


def watch(task: asyncio.Task[None]) -> None:
    """Stop the program when its stream has ended: browsers would not notice."""
    if not task.cancelled():
        app.state.failure = repr(task.exception() or "the stream has ended")
        signal.raise_signal(signal.SIGINT)  # uvicorn takes it for Ctrl-C


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    following = asyncio.create_task(follow())
    following.add_done_callback(watch)
    yield
    following.cancel()


app = FastAPI(lifespan=lifespan)
app.state.failure = None


@app.get("/changes")
async def changes(table: str | None = None) -> StreamingResponse:
    """Send all changes, or one table's."""
    listener = Listener(table)

    async def stream() -> AsyncIterator[str]:
        listeners.add(listener)
        try:
            async for event in listener.stream():
                yield event
        finally:
            listeners.discard(listener)

    return StreamingResponse(
        stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("index.html"))


if __name__ == "__main__":
    if "DATABASE_URL" not in os.environ:
        sys.exit("usage: DATABASE_URL=postgresql://… python sse.py")
    # Streams have no end, so a stop does not wait for them for long.
    port = int(os.environ.get("PORT", "8000"))
    uvicorn.run(app, port=port, access_log=False, timeout_graceful_shutdown=1)
    if app.state.failure:
        sys.exit(f"sse.py: changes are not followed any more: {app.state.failure}")
