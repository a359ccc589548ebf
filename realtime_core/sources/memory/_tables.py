"""MemoryTable: a table of a MemoryDatabase, whose rows are written by methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from ...changes import Delete, Insert, Relation, ReplicaIdentity, Transaction, Update
from ...oids import BUILTIN_TYPES
from ...records import UNCHANGED, Column, Field, Record
from ._texts import field_of

__all__ = ["Make", "MemoryTable", "make_relation"]

Make: TypeAlias = Callable[[Transaction, int], Any]
"""Makes a change, given its transaction and its index there."""

_OIDS: Final = {name: oid for oid, name in BUILTIN_TYPES.items()}
_FIRST_OWN_OID: Final = 16384


class MemoryTable:
    """A table of a MemoryDatabase; :meth:`MemoryDatabase.table` makes one.

    Values are Python objects, or PostgreSQL's text of them. Outside of
    :meth:`MemoryDatabase.transaction` each call of a method is a transaction of its own.
    """

    def __init__(
        self, relation: Relation, key: Sequence[str], write: Callable[[Make], None]
    ) -> None:
        self.relation = relation
        """The relation of its changes."""
        self._key = tuple(key)
        self._places = tuple(relation.shape.index[name] for name in key)
        self._write = write
        # The keys of this dict are the values of the primary key; numbers if there is none.
        self.rows: dict[tuple[Field, ...], tuple[Field, ...]] = {}
        """The rows, undecoded, by their keys."""
        self._count = 0

    def insert(self, **values: Any) -> None:
        """Insert a row; columns that are not named are NULL.

        Raises:
            TypeError: if a value is of a type that has no text here.
            ValueError: if there is a row with this key, or no such column, or a column's type
                cannot hold its value.
        """
        row = self._changed((None,) * len(self.relation.columns), values)
        key = self._key_of(row)
        if key in self.rows:
            raise ValueError(f"{self.relation} has a row with key {key} already")
        self.rows[key] = row
        relation = self.relation
        record = Record(relation.shape, row)
        self._write(lambda transaction, index: Insert(transaction, index, relation, record))

    def update(self, key: object, /, **values: Any) -> None:
        """Change some columns of a row.

        Args:
            key: the row's value in the key's column; a tuple if the key has several columns.
            values: the new values. UNCHANGED stands for a large value that stays as it is, and that
                PostgreSQL does not send.

        Raises:
            TypeError: if a value is of a type that has no text here.
            ValueError: if there is no such row or column, or no replica identity, or a column's
                type cannot hold its value.
        """
        relation = self.relation
        place, before = self._find(key)
        after = self._changed(before, values)
        new_place = self._key_of(after)
        if new_place != place and new_place in self.rows:
            raise ValueError(f"{relation} has a row with key {new_place} already")
        del self.rows[place]
        self.rows[new_place] = after
        full = relation.replica_identity is ReplicaIdentity.FULL
        sent = list(after)
        for name, value in values.items():
            # Under REPLICA IDENTITY FULL the value is taken from the old row.
            if value is UNCHANGED and not full:
                sent[relation.shape.index[name]] = UNCHANGED
        record, old = Record(relation.shape, tuple(sent)), None
        if full or self._identity(before) != self._identity(after):
            old = Record(relation.key_shape, self._identity(before))
        self._write(lambda transaction, index: Update(transaction, index, relation, record, old))

    def delete(self, key: object, /) -> None:
        """Delete a row.

        Args:
            key: the row's value in the key's column; a tuple if the key has several columns.

        Raises:
            ValueError: if there is no such row, or no replica identity.
        """
        relation = self.relation
        place, before = self._find(key)
        del self.rows[place]
        record = Record(relation.key_shape, self._identity(before))
        self._write(lambda transaction, index: Delete(transaction, index, relation, record))

    def _changed(self, row: tuple[Field, ...], values: Mapping[str, Any]) -> tuple[Field, ...]:
        fields = list(row)
        for name, value in values.items():
            if name not in self.relation.shape.index:
                raise ValueError(
                    f"{self.relation} has no column {name!r}; it has "
                    f"{', '.join(self.relation.shape.names)}"
                )
            if value is not UNCHANGED:
                place = self.relation.shape.index[name]
                fields[place] = self._field(place, value)
        for name, place in zip(self._key, self._places, strict=True):
            if fields[place] is None:
                raise ValueError(f"{self.relation} has no key without {name!r}: it cannot be NULL")
        return tuple(fields)

    def _field(self, place: int, value: Any) -> Field:
        column = self.relation.columns[place]
        try:
            return field_of(column, value)
        except ValueError as exc:
            raise ValueError(
                f"{self.relation} cannot hold {value!r} in column {column.name!r} of type "
                f"{column.type_name}: {exc}"
            ) from None

    def _key_of(self, row: tuple[Field, ...]) -> tuple[Field, ...]:
        if not self._key:
            self._count += 1
            return (str(self._count),)
        return tuple(row[place] for place in self._places)

    def _identity(self, row: tuple[Field, ...]) -> tuple[Field, ...]:
        return tuple(row[place] for place in self.relation.key_places)

    def _find(self, key: object) -> tuple[tuple[Field, ...], tuple[Field, ...]]:
        """Return a row's key in ``rows``, and the row."""
        relation = self.relation
        if not self._key:
            raise ValueError(f"{relation} has no key, by which its rows could be found")
        if not relation.key_places:
            raise ValueError(
                f"{relation} has no replica identity: PostgreSQL refuses UPDATE and DELETE on it"
            )
        values = key if isinstance(key, tuple) else (key,)
        if len(values) != len(self._places):
            raise ValueError(f"the key of {relation} has the columns {', '.join(self._key)}")
        place = tuple(map(self._field, self._places, values))
        if place not in self.rows:
            raise ValueError(f"{relation} has no row with key {key!r}")
        return place, self.rows[place]


def make_relation(
    oid: int,
    schema: str,
    table: str,
    columns: Mapping[str, str],
    key: Sequence[str],
    replica_identity: ReplicaIdentity,
) -> Relation:
    """Make the relation of a table.

    Args:
        oid: the table's OID.
        schema: its schema.
        table: its name.
        columns: the columns' types (``pg_type.typname``) by name. A type that is not built in
            gets an OID of its own.
        key: the columns of the primary key.
        replica_identity: which old values UPDATE and DELETE carry.

    Raises:
        ValueError: if the key names a column that is not there.
    """
    missing = [name for name in key if name not in columns]
    if missing:
        raise ValueError(f"the key of {table!r} names {missing[0]!r}, which is not a column")
    full = replica_identity is ReplicaIdentity.FULL
    has_identity = replica_identity is not ReplicaIdentity.NOTHING
    described = []
    for place, (name, type_name) in enumerate(columns.items()):
        type_oid = _OIDS.get(type_name)
        type_schema = schema if type_oid is None else "pg_catalog"
        if type_oid is None:
            type_oid = _FIRST_OWN_OID + 100 * oid + place
        is_key = full or (has_identity and name in key)
        described.append(Column(name, type_oid, type_name, type_schema, -1, is_key))
    return Relation(oid, schema, table, replica_identity, tuple(described))
