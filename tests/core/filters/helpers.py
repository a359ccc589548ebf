"""Relations and rows for tests of filters, written as short as they come."""

from __future__ import annotations

from realtime_core import (
    LSN,
    Column,
    Delete,
    Insert,
    Record,
    Relation,
    ReplicaIdentity,
    Transaction,
    Update,
)
from realtime_core.oids import BUILTIN_TYPES
from realtime_core.records import Field

OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}
TRANSACTION = Transaction(7, LSN(100), None)


def relation(
    identity: ReplicaIdentity = ReplicaIdentity.DEFAULT,
    *,
    schema: str = "public",
    table: str = "t",
    key: str = "id",
    **columns: str,
) -> Relation:
    """Return a relation of columns and their types; ``key`` names the identity's column."""
    described = tuple(
        Column(
            name,
            OIDS.get(type_name, 99999),
            type_name,
            "pg_catalog" if type_name in OIDS else "public",
            -1,
            name == key or identity is ReplicaIdentity.FULL,
        )
        for name, type_name in columns.items()
    )
    return Relation(4711, schema, table, identity, described)


def row(of: Relation, *fields: Field) -> Record:
    return Record(of.shape, fields)


def key(of: Relation, *fields: Field) -> Record:
    return Record(of.key_shape, fields)


def insert(of: Relation, *fields: Field) -> Insert:
    return Insert(TRANSACTION, 0, of, row(of, *fields))


def update(of: Relation, new: Record, old: Record | None = None) -> Update:
    return Update(TRANSACTION, 0, of, new, old)


def delete(of: Relation, old: Record) -> Delete:
    return Delete(TRANSACTION, 0, of, old)
