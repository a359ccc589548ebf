"""Notes of two people, with row level security, and somebody who keeps writing them.

They have a database of their own, beside the one that DSN names: row level security's server
makes a schema in it, and whatever else happens, dropping it takes all of it away. The role that
policies are for is dropped, too. Both have a comment, by which a demo that was killed is tidied
up after by the next one; what has another comment, or somebody connected, is left alone.
"""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Final

import attrs
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from realtime_core.errors import RealtimeError

__all__ = ["OWNERS", "PUBLICATION", "NotesDatabase", "NotesError", "open_notes", "write_forever"]

OWNERS: Final = ("Ann", "Bob")
"""Who has notes."""
PUBLICATION: Final = "notes"
"""The publication that the table is in."""

_COMMENT: Final = "made by the demo of realtime-core, which drops it"
_CONNECT_WITHIN: Final = 3  # seconds
_STATEMENT_WITHIN: Final = 10  # seconds
_SLOT_WITHIN: Final = 3.0
"""Seconds for a slot to be gone: PostgreSQL lets go of one a little after its connection."""
_TRY_EVERY: Final = 0.05  # seconds
_MOST_NOTES: Final = 30

_TABLE: Final = """
    create table notes (
        id bigint generated always as identity primary key,
        owner text not null,
        shared boolean not null default false,
        note text not null
    );
    alter table notes enable row level security;
    -- It cannot fail, whatever claims there are: who has none owns nothing.
    create policy own_or_shared on notes to {role} using (
        shared or owner = (
            select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
        )
    );
    grant select on notes to {role};
    -- A DELETE would tell everybody the primary key of a row that is not theirs.
    create publication {publication} for table notes with (publish = 'insert, update')
"""
_INSERT: Final = "insert into notes (owner, shared, note) values (%s, %s, %s)"
_UPDATE: Final = """
    update notes set note = %(note)s
    where id = (
        select id from notes order by id
        offset floor(%(luck)s * (select count(*) from notes)) limit 1
    )
"""
_TRIM: Final = "delete from notes where id not in (select id from notes order by id desc limit %s)"

_NOTES: Final = (
    "buy milk",
    "call the dentist",
    "feed the cat",
    "order a cake",
    "renew the passport",
    "return the books",
    "wash the car",
)


class NotesError(RealtimeError):
    """The notes cannot be had on this database server."""


@attrs.frozen
class NotesDatabase:
    """Where the notes are.

    Attributes:
        name: the database's.
        dsn: its connection string.
        role: that may read the notes which the policy shows.
    """

    name: str
    dsn: str
    role: str


@asynccontextmanager
async def open_notes(dsn: str, *, keep: bool = False) -> AsyncIterator[NotesDatabase]:
    """Make the database and the role, and drop them at the end.

    Nothing blocks the event loop: PostgreSQL drops no database while somebody is about to log
    in, and that may be a server of this program.

    Args:
        dsn: of a database on the same server; nothing in it is changed. Its role needs
            CREATEDB and CREATEROLE.
        keep: whether to drop nothing at the end, which is quicker.

    Raises:
        NotesError: there is a database or a role of that name which is not the demo's.
        psycopg.Error: the database server refuses.
    """
    undo: list[sql.Composed] = []
    try:
        async with await _connect(dsn) as connection:
            # Demos on several databases of one server are not in each other's way.
            near = re.sub(r"[^a-z0-9]+", "_", connection.info.dbname.lower())[:40]
            name = f"realtime_demo_{near}"
            await _drop_leftovers(connection, name)
            await _make(connection, name, undo)
        database = NotesDatabase(name, make_conninfo(dsn, dbname=name), role=name)
        async with await _connect(database.dsn) as connection:
            await connection.execute(
                sql.SQL(_TABLE).format(
                    role=sql.Identifier(name), publication=sql.Identifier(PUBLICATION)
                )
            )
        yield database
    finally:
        if undo and not keep:
            await _undo(dsn, name, undo)


async def write_forever(dsn: str, *, interval: float, random: Random) -> None:
    """Write a note of one of the owners, wait, and so on until cancelled.

    Every third note or so is shared. The last ones are kept.

    Args:
        dsn: of the notes' database.
        interval: seconds between two notes.
        random: decides whose note it is and what it says.
    """
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while True:
            note = random.choice(_NOTES)
            if random.random() < 0.6:
                shared = random.random() < 1 / 3
                await connection.execute(_INSERT, (random.choice(OWNERS), shared, note))
                await connection.execute(_TRIM, (_MOST_NOTES,))
            else:
                await connection.execute(_UPDATE, {"note": note, "luck": random.random()})
            await asyncio.sleep(interval)


async def _connect(dsn: str) -> psycopg.AsyncConnection:
    connection = await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, connect_timeout=_CONNECT_WITHIN
    )
    await connection.execute(f"set statement_timeout = '{_STATEMENT_WITHIN}s'")
    return connection


async def _drop_leftovers(connection: psycopg.AsyncConnection, name: str) -> None:
    """Drop what a demo that was killed has left, unless it is in use, or not a demo's."""
    cursor = await connection.execute(
        "select 'database', shobj_description(oid, 'pg_database')"
        " from pg_database where datname = %(name)s"
        " union all"
        " select 'role', shobj_description(oid, 'pg_authid') from pg_roles where rolname = %(name)s"
        " order by 1",  # the role has privileges in the database
        {"name": name},
    )
    found = await cursor.fetchall()
    for kind, comment in found:
        if comment != _COMMENT:
            raise NotesError(f"there is a {kind} {name}, which is not the demo's")
    for kind, _ in found:
        await connection.execute(sql.SQL(f"drop {kind} {{}}").format(sql.Identifier(name)))


async def _make(connection: psycopg.AsyncConnection, name: str, undo: list[sql.Composed]) -> None:
    """Make the database and the role; ``undo`` gets what takes them away, in its order."""
    names = {"name": sql.Identifier(name), "comment": sql.Literal(_COMMENT)}
    for kind, drop in (
        ("database", "drop database {name} with (force)"),
        ("role", "drop role {name}"),
    ):
        await connection.execute(sql.SQL(f"create {kind} {{name}}").format(**names))
        undo.append(sql.SQL(drop).format(**names))
        await connection.execute(
            sql.SQL(f"comment on {kind} {{name}} is {{comment}}").format(**names)
        )
    # The server acts as it, to ask what it may see.
    await connection.execute(sql.SQL("grant {name} to current_user").format(**names))


async def _undo(dsn: str, name: str, undo: Sequence[sql.Composed]) -> None:
    """Drop what was made. A failure is only told: there may be an error already."""
    # A server that was stopped while it connected has left a login half done, and its socket
    # open until it is collected; PostgreSQL would wait for that login for a minute.
    gc.collect()
    try:
        async with await _connect(dsn) as connection:
            for statement in undo:
                await _drop(connection, statement)
    except psycopg.Error as error:
        reason = str(error).splitlines()[0]
        print(
            f"demo: database and role {name} are left behind, until the next demo here: {reason}",
            file=sys.stderr,
        )


async def _drop(connection: psycopg.AsyncConnection, statement: sql.Composed) -> None:
    deadline = time.monotonic() + _SLOT_WITHIN
    while True:
        try:
            await connection.execute(statement)
            return
        except psycopg.errors.ObjectInUse:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_TRY_EVERY)
