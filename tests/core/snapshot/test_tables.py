"""The statement that copies a table."""

from __future__ import annotations

from realtime_core import Column, Relation, ReplicaIdentity
from realtime_core.snapshot.tables import CopiedTable


def table(*, key: tuple[str, ...] = (), filters: tuple[str, ...] = ()) -> CopiedTable:
    columns = tuple(
        Column(name, 23, "int4", "pg_catalog", -1, is_key=False) for name in ("id", 'a "b"')
    )
    relation = Relation(1, "shop", "Item", ReplicaIdentity.DEFAULT, columns)
    return CopiedTable(relation, 1, key, filters, is_partitioned=False, estimate=None)


def test_all_rows_come_in_the_order_of_the_key() -> None:
    assert table(key=('a "b"', "id")).copy_statement() == (
        'COPY (SELECT "id", "a ""b""" FROM ONLY "shop"."Item" ORDER BY "a ""b""", "id") TO STDOUT'
    )


def test_a_row_comes_if_one_filter_lets_it_through() -> None:
    assert table(filters=("id > 1", "a = 2 OR b")).copy_statement() == (
        'COPY (SELECT "id", "a ""b""" FROM ONLY "shop"."Item" '
        "WHERE ((id > 1) OR (a = 2 OR b)\n)) TO STDOUT"
    )


def test_a_chunk_has_the_rows_behind_a_key() -> None:
    chunk = table(key=("id",), filters=("f",)).copy_statement(
        where="w -- really", after=("o'clock \\",), limit=10
    )
    assert chunk == (
        'COPY (SELECT "id", "a ""b""" FROM ONLY "shop"."Item" WHERE ((f)\n) AND (w -- really\n) '
        r"""AND (ROW("id") > ROW(E'o''clock \\')"""
        '\n) ORDER BY "id" LIMIT 10) TO STDOUT'
    )
    rows = table(key=("id", "b")).copy_statement(keys=[("1", "x"), ("2", "y")])
    assert """ROW("id", "b") IN (ROW(E'1', E'x'), ROW(E'2', E'y'))""" in rows
