"""Three small tables and somebody who keeps changing them.

`prepare` makes the tables and publishes them; it may run again on the same
database. A table that it did not make is not touched: it is recognised by its
comment, because the writer deletes rows and DEMO_DSN may name a database that
someone cares about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import Random
from typing import Literal, LiteralString, get_args

import attrs
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from realtime_core.errors import RealtimeError

__all__ = ["PUBLICATION", "TABLES", "ForeignTableError", "SampleTable", "prepare", "write_forever"]

PUBLICATION = "supabase_realtime"
"""The publication that the tables are in; the server's default."""

_COMMENT = "made by the demo of realtime-core"
_MIN_ROWS, _MAX_ROWS = 5, 25

_Operation = Literal["insert", "update", "delete"]
_OPERATIONS: tuple[_Operation, ...] = get_args(_Operation)
_STATEMENTS: dict[_Operation, LiteralString] = {
    "insert": "insert into {table} ({columns}) values ({values})",
    "update": "update {table} set ({columns}) = row ({values}) where id = %(id)s",
    "delete": "delete from {table} where id = %(id)s",
}

_NAMES = ("Ada", "Barbara", "Edsger", "Grace", "Katherine", "Ken", "Leslie", "Radia")
_TASKS = ("water the plants", "call a friend", "fix the bicycle", "read the manual", "bake bread")
_GOODS = ("tea", "coffee", "chess set", "lamp", "notebook", "umbrella")


class ForeignTableError(RealtimeError):
    """A table with a sample table's name belongs to somebody else.

    Attributes:
        table: its name, in schema public.
    """

    def __init__(self, table: str) -> None:
        self.table = table
        super().__init__(
            f"table public.{table} is not the demo's, which writes to a table of that name; "
            "point DEMO_DSN at an empty database"
        )


@attrs.frozen
class SampleTable:
    """One table and the row that the writer would put into it."""

    name: str
    columns: str
    """The columns' definitions in CREATE TABLE, after `id`."""
    row: Callable[[Random], Mapping[str, object]]
    """Invent the columns that the writer sets, all of them."""
    replica_identity: str = "default"


def _todo(random: Random) -> Mapping[str, object]:
    return {"task": random.choice(_TASKS), "done": random.random() < 0.5}


def _user(random: Random) -> Mapping[str, object]:
    name = random.choice(_NAMES)
    return {"name": name, "email": f"{name.lower()}{random.randrange(100)}@example.org"}


def _order(random: Random) -> Mapping[str, object]:
    goods = random.sample(_GOODS, random.randint(1, 3))
    return {
        "total": f"{random.randrange(100, 20000) / 100:.2f}",
        "items": Jsonb([{"name": name, "quantity": random.randint(1, 5)} for name in goods]),
    }


TABLES = (
    SampleTable("todos", "task text not null, done boolean not null default false", _todo),
    # FULL, so that updates and deletes show all of the old record.
    SampleTable("users", "name text not null, email text", _user, replica_identity="full"),
    SampleTable(
        "orders",
        "total numeric(10, 2) not null, items jsonb not null, "
        "placed_at timestamptz not null default now()",
        _order,
    ),
)
"""The sample tables, all in schema public with a generated `id`."""


def prepare(connection: psycopg.Connection) -> None:
    """Make the tables and publish them, as far as that is not done yet.

    Raises:
        ForeignTableError: A table of that name is there, and not the demo's.
    """
    with connection.transaction():
        for table in TABLES:
            _make_table(connection, table)
        _publish(connection)


async def write_forever(dsn: str, *, interval: float, random: Random) -> None:
    """Insert, update or delete one row, wait, and so on until cancelled.

    Args:
        dsn: Where the tables are.
        interval: Seconds between two changes.
        random: Decides what is changed and how.
    """
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while True:
            await _change_one_row(connection, random)
            await asyncio.sleep(interval)


def _make_table(connection: psycopg.Connection, table: SampleTable) -> None:
    name = sql.Identifier("public", table.name)
    found = connection.execute(
        "select obj_description(to_regclass(%s), 'pg_class'), to_regclass(%s) is null",
        (name.as_string(), name.as_string()),
    ).fetchone()
    if found == (_COMMENT, False):
        return
    if found != (None, True):
        raise ForeignTableError(table.name)
    for statement in (
        "create table {name} (id bigint generated always as identity primary key, {columns})",
        "alter table {name} replica identity {identity}",
        "comment on table {name} is {comment}",
    ):
        connection.execute(
            sql.SQL(statement).format(
                name=name,
                columns=sql.SQL(table.columns),
                identity=sql.SQL(table.replica_identity),
                comment=sql.Literal(_COMMENT),
            )
        )


def _publish(connection: psycopg.Connection) -> None:
    publication = sql.Identifier(PUBLICATION)
    exists = connection.execute(
        "select 1 from pg_publication where pubname = %s", (PUBLICATION,)
    ).fetchone()
    if not exists:
        connection.execute(sql.SQL("create publication {}").format(publication))
    # A publication FOR ALL TABLES lists them here as well.
    published = connection.execute(
        "select tablename from pg_publication_tables where pubname = %s and schemaname = 'public'",
        (PUBLICATION,),
    ).fetchall()
    for table in TABLES:
        if (table.name,) not in published:
            connection.execute(
                sql.SQL("alter publication {} add table {}").format(
                    publication, sql.Identifier("public", table.name)
                )
            )


async def _change_one_row(connection: psycopg.AsyncConnection, random: Random) -> None:
    table = random.choice(TABLES)
    name = sql.Identifier("public", table.name)
    cursor = await connection.execute(sql.SQL("select id from {} order by id").format(name))
    ids = [row[0] for row in await cursor.fetchall()]
    row = table.row(random)
    statement = sql.SQL(_STATEMENTS[_choose_operation(len(ids), random)]).format(
        table=name,
        columns=sql.SQL(", ").join(map(sql.Identifier, row)),
        values=sql.SQL(", ").join(map(sql.Placeholder, row)),
    )
    await connection.execute(statement, {**row, "id": random.choice(ids) if ids else None})


def _choose_operation(rows: int, random: Random) -> _Operation:
    """Keep the number of rows between bounds, and otherwise mostly update."""
    if rows < _MIN_ROWS:
        return "insert"
    if rows >= _MAX_ROWS:
        return "delete"
    return random.choices(_OPERATIONS, weights=(3, 4, 2))[0]
