"""The SQL that writes rows and changes to another database, executed by SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import pytest

from realtime_core import (
    LSN,
    UNCHANGED,
    Column,
    Delete,
    Insert,
    Record,
    Relation,
    ReplicaIdentity,
    Snapshot,
    SnapshotProgress,
    Transaction,
    Update,
    sqlite_values,
)
from realtime_core.oids import BUILTIN_TYPES
from realtime_core.records import Field
from realtime_core.sql import RowStatements

OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}
TRANSACTION = Transaction(1, LSN(1), None)


def table(*columns: tuple[str, str]) -> Relation:
    """A table whose first column is the key."""
    made = [
        Column(name, OIDS[kind], kind, "pg_catalog", -1, place == 0)
        for place, (name, kind) in enumerate(columns)
    ]
    return Relation(1, "public", "t", ReplicaIdentity.DEFAULT, tuple(made))


T = table(("id", "int4"), ('we"ird', "text"), ("large", "text"))


def record(*fields: Field) -> Record:
    return Record(T.shape, fields)


def inserted(*fields: Field) -> Insert:
    return Insert(TRANSACTION, 0, T, record(*fields))


def updated(*fields: Field, former: str | None = None) -> Update:
    old = None if former is None else Record(T.key_shape, (former,))
    return Update(TRANSACTION, 0, T, record(*fields), old)


def deleted(number: str) -> Delete:
    return Delete(TRANSACTION, 0, T, Record(T.key_shape, (number,)))


def applied(events: Iterable[Snapshot | Insert | Update | Delete]) -> list[tuple[object, ...]]:
    convert = sqlite_values.converters(T)
    statements = RowStatements(T, ["id"], table='"t"', mark="?", convert=convert)
    with sqlite3.connect(":memory:") as target:
        target.execute('create table t (id integer primary key, "we""ird" text, large text)')
        for event in events:
            statement, values = statements.step(event)
            cursor = target.execute(statement.sql, values)
            assert cursor.rowcount == 1 or not statement.finds_a_row
        rows = target.execute("select * from t order by id").fetchall()
        target.execute(statements.empty.sql)
        assert target.execute("select * from t").fetchall() == []
    target.close()
    return rows


def test_a_table_becomes_what_its_events_make_of_it() -> None:
    assert applied(
        [
            Snapshot(T, record("1", "a", "x"), SnapshotProgress(T, 1, None, 1, 1, None, 0, 1)),
            inserted("2", None, "y"),
            inserted("3", "c", "z"),
            # Once more, as after a crash.
            inserted("3", "d", "z"),
            updated("1", "b", UNCHANGED),
            updated("4", "c", UNCHANGED, former="2"),
            updated("5", "e", "v"),
            deleted("3"),
        ]
    ) == [(1, "b", "x"), (4, "c", "y"), (5, "e", "v")]


def test_an_update_and_a_delete_of_a_row_that_is_missing_find_none() -> None:
    for event in (updated("1", "b", UNCHANGED), updated("2", "b", "x", former="1"), deleted("1")):
        with pytest.raises(AssertionError):
            applied([event])


def test_the_texts_are_those_of_postgresql() -> None:
    pair = table(("id", "int4"), ("path", "text"))
    statements = RowStatements(
        pair,
        ["id", "path"],
        table='"public"."t"',
        equality={"path": ('OPERATOR("ext".=)', "::ext.ltree")},
    )
    row = Record(pair.shape, ("1", "a"))
    statement, values = statements.step(Insert(TRANSACTION, 0, pair, row))
    assert statement.sql == (
        'INSERT INTO "public"."t" ("id", "path") VALUES ($1, $2) '
        'ON CONFLICT ("id", "path") DO NOTHING'
    )
    assert values == ("1", "a")
    statement, values = statements.step(Delete(TRANSACTION, 0, pair, row))
    assert statement.sql == (
        'DELETE FROM "public"."t" WHERE "id" = $1 AND "path" OPERATOR("ext".=) $2::ext.ltree'
    )
    assert list(values) == ["1", "a"]
