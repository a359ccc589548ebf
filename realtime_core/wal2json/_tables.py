"""Infers what tables look like from their rows: columns, identity, what an UPDATE left out.

Theory of operation. wal2json has no Relation message, so a table is known from its rows only. An
INSERT has all columns. An UPDATE leaves out unchanged TOASTed values without a sign. So each table
has a *relation*, which is made from the row with the most columns that agrees with the latest row.
Each distinct list of columns has a *layout*, which says how such a row becomes a record of the
relation. It is made once and found again by that list. A column of the relation that an UPDATE does
not have is UNCHANGED if its type can be TOASTed. If an INSERT does not have it, it was dropped; the
same follows from a list that does not agree with the relation.

The identity of a row (``identity``, ``oldkeys``) is the whole old row under REPLICA IDENTITY FULL,
and otherwise the key. Which of the two it is has to be inferred: see :meth:`KnownTable._is_whole`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from ..changes import Relation, ReplicaIdentity
from ..errors import DecodeError
from ..records import UNCHANGED, Column, Field, Record, Shape
from ._rows import JsonRow, Names, Signature, bytea_places, columns_of, fields_of
from ._types import can_be_toasted

__all__ = ["KnownTable", "Tables"]

# Under REPLICA IDENTITY FULL, format 1 writes a different list for each combination of NULLs.
_MAX_LAYOUTS: Final = 512


class RowLayout(NamedTuple):
    """How a row with a certain list of columns becomes a record of the relation."""

    relation: Relation
    bytea: tuple[int, ...]
    """Places of columns of type bytea, whose ``\\x`` wal2json leaves out."""
    places: tuple[int, ...] | None
    """The place of each of the relation's columns in the list, or -1 if the list lacks the column;
    None if the list has all columns, in their order."""


class IdentityLayout(NamedTuple):
    """How an identity with a certain list of columns becomes an old record."""

    relation: Relation
    bytea: tuple[int, ...]
    """Places of columns of type bytea, whose ``\\x`` wal2json leaves out."""
    shape: Shape
    """The shape of the old record."""
    is_whole: bool
    """Whether the identity is a whole old row rather than a key."""
    places: tuple[int, ...]
    """The places of the identity's columns in the relation."""


class Tables:
    """The tables of which rows have come so far."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, str], KnownTable] = {}

    def get(self, schema: Any, name: Any) -> KnownTable:
        """Return a table; at the first call for its name, a new one.

        Raises:
            DecodeError: if a name is not a string.
        """
        table = self._tables.get((schema, name))
        if table is None:
            if not isinstance(schema, str) or not isinstance(name, str):
                raise DecodeError("the name of a schema or table is not a string")
            table = self._tables[schema, name] = KnownTable(schema, name)
        return table


class KnownTable:
    """One table as the decoder knows it.

    Attributes:
        relation: the table as its last row showed it.
    """

    def __init__(self, schema: str, name: str) -> None:
        self._schema = schema
        self._name = name
        # Equal relations are the same object, even if another one was in use in between.
        self._relations: dict[tuple[tuple[Column, ...], ReplicaIdentity], Relation] = {}
        # The layouts of rows and of identities with these columns, for the relation as it is.
        self._rows: dict[Signature, RowLayout] = {}
        self._identities: dict[Signature, IdentityLayout] = {}

        self._columns: tuple[Column, ...] = ()
        # Whether the columns are those of a row, rather than those of an identity only.
        self._seen_row = False
        # Whether the columns are those of an INSERT, which has all of them.
        self._seen_insert = False
        # What include-pk wrote, and the names of the primary key's columns; None before it did.
        self._raw_primary_key: Any = None
        self._primary_key: Names | None = None
        # The columns of the last identity that was a key; None if it was a whole row.
        self._key: Names | None = None
        # Whether the table has REPLICA IDENTITY FULL.
        self._is_full = False
        self.relation = self._make_relation()

    def set_primary_key(self, raw: Any, names: Names) -> None:
        """Set the primary key that ``include-pk`` writes.

        Args:
            raw: the primary key as JSON has it. Call this only if :meth:`has_primary_key` returns
                False for it.
            names: the names of its columns; empty if the table has no primary key.
        """
        self._raw_primary_key = raw
        self._primary_key = names
        self._key = None
        self._is_full = False
        self._renew()

    def has_primary_key(self, raw: Any) -> bool:
        """Return whether the primary key is known, and is the one that a message names."""
        return bool(self._raw_primary_key == raw)

    def insert(self, row: JsonRow) -> Record:
        """Return the record of an INSERT, which has all columns of the table."""
        signature, values = row
        layout = self._rows.get(signature)
        if layout is None or layout.places is not None:
            layout = self._learn_row(signature, is_complete=True)
        return Record(layout.relation.shape, fields_of(values, layout.bytea))

    def update(
        self, row: JsonRow, identity: JsonRow | None, *, skips_null: bool
    ) -> tuple[Record, Record | None]:
        """Return the new and the old record of an UPDATE.

        The old record is None wherever pgoutput would send none.

        Args:
            row: the new row.
            identity: the identity of the old row; None if the text has none.
            skips_null: whether identities leave out NULLs, as those of format 1 do.
        """
        signature, values = row
        layout = self._rows.get(signature) or self._learn_row(signature, is_complete=False)
        if identity is None:
            return Record(layout.relation.shape, _new_fields(layout, values)), None

        old_signature, old_values = identity
        old_layout = self._identities.get(old_signature)
        if old_layout is None:
            old_layout = self._learn_identity(old_signature, signature[0], skips_null)
            # The identity may have changed the relation.
            layout = self._rows.get(signature) or self._learn_row(signature, is_complete=False)
            if layout.relation is not old_layout.relation:
                raise DecodeError("the columns of a row and of its identity contradict each other")
        fields = _new_fields(layout, values)
        old_fields = fields_of(old_values, old_layout.bytea)
        shape, places = layout.relation.shape, old_layout.places
        if not old_layout.is_whole and all(
            fields[place] == old for place, old in zip(places, old_fields, strict=True)
        ):
            # The key has not changed. wal2json writes it anyway; pgoutput would send no old row.
            return Record(shape, fields), None
        if layout.places is not None:
            fields = _restore(fields, places, old_fields)
        return Record(shape, fields), Record(old_layout.shape, old_fields)

    def delete(self, identity: JsonRow, *, skips_null: bool) -> Record:
        """Return the old record of a DELETE.

        Args:
            identity: the identity of the old row.
            skips_null: whether identities leave out NULLs, as those of format 1 do.
        """
        signature, values = identity
        layout = self._identities.get(signature)
        if layout is None:
            layout = self._learn_identity(signature, None, skips_null)
        return Record(layout.shape, fields_of(values, layout.bytea))

    def _learn_row(self, signature: Signature, *, is_complete: bool) -> RowLayout:
        columns = columns_of(signature)
        if not is_complete:
            self._append(columns)
        places = None if is_complete else self._left_out(columns)
        if places is None:
            if is_complete and not self._seen_insert:
                self._seen_insert = True
                # An identity that was taken for a whole row may have been a key.
                self._is_full = self._is_full and columns == self._columns
            self._seen_row = True
            self._set_columns(columns)
        layout = RowLayout(self.relation, bytea_places(columns), places)
        _remember(self._rows, signature, layout)
        return layout

    def _append(self, columns: tuple[Column, ...]) -> None:
        """Take columns that were added to the table, if an UPDATE leaves out others.

        They stand behind those that are known, as PostgreSQL numbers them. Without that, what was
        left out because it is unchanged would be taken for dropped.
        """
        known = set(self._columns)
        added = len(columns)
        while added and columns[added - 1] not in known:
            added -= 1
        new = columns[added:]
        names = {column.name for column in self._columns}
        if not added or not new or not names.isdisjoint(column.name for column in new):
            return
        # The last that is known must be there: else it may have been renamed.
        if columns[added - 1] == self._columns[-1]:
            before = self._columns
            self._columns = before + new
            if self._left_out(columns) is None:
                self._columns = before
            else:
                self._renew()

    def _left_out(self, columns: tuple[Column, ...]) -> tuple[int, ...] | None:
        """Return the places of the relation's columns in a row that leaves out some of them.

        Returns:
            For each column of the relation its place in ``columns``, or -1 if it is left out; None
            if the row leaves out none, or cannot be one of this relation.
        """
        if len(columns) >= len(self._columns):
            return None
        places: list[int] = []
        found = 0
        for known in self._columns:
            if found < len(columns) and columns[found] == known:
                places.append(found)
                found += 1
            elif can_be_toasted(known.type_name, known.type_schema):
                places.append(-1)
            else:
                return None
        return tuple(places) if found == len(columns) else None

    def _learn_identity(
        self, signature: Signature, row: Names | None, skips_null: bool
    ) -> IdentityLayout:
        """Make the layout of an identity, and learn from it what the table looks like.

        Args:
            signature: the identity's columns.
            row: the names of the columns in the new row of an UPDATE; None for a DELETE.
            skips_null: whether the identity may leave out NULLs.
        """
        columns = columns_of(signature)
        names = signature[0]
        known = set(self._columns)
        is_new = not known.issuperset(columns)
        if row is None:
            if is_new:
                # The table was altered, and nothing but this identity is known of it now.
                self._seen_row = self._seen_insert = False
                self._is_full = False
                self._set_columns(columns)
        elif not set(names).issuperset(row):
            # The identity is a key, one of whose values is TOASTed, unchanged and so not in the
            # row.
            present = {column.name for column in self._columns}
            missing = tuple(column for column in columns if column.name not in present)
            self._set_columns(missing + self._columns)
        elif is_new or (self._is_full and not skips_null):
            # The identity is a whole old row: it has what the new row left out, and does not have
            # what was dropped.
            self._set_columns(columns)
        self._is_full = self._is_whole(names, skips_null)
        self._key = None if self._is_full else names
        self._renew()
        return self._identity_layout(signature, columns)

    def _is_whole(self, names: Names, skips_null: bool) -> bool:
        """Return whether a change's identity is the whole old row, as with REPLICA IDENTITY FULL.

        wal2json does not say which replica identity a table has, so it is concluded from the
        identity's columns. If they are just those of the primary key, the identity is a key. If
        they are all columns of the table, it is the whole row.

        Format 1 leaves out columns that are NULL, so fewer columns may be a whole row, too. There
        the identity is the whole row if it has more columns than the primary key, or none at all.
        Where the primary key is not known (without ``include-pk``), it is the whole row if its
        columns differ from those of the identity before: a key always has the same ones.

        Args:
            names: the columns of the identity.
            skips_null: whether columns that are NULL are left out, as in format 1.
        """
        if self._primary_key and set(names) == set(self._primary_key):
            return False
        if self._seen_row and len(names) >= len(self._columns):
            return True
        if not skips_null:
            return False
        if not names:
            return True
        if self._primary_key:
            return set(names) > set(self._primary_key)
        return self._is_full or (self._key is not None and self._key != names)

    def _identity_layout(self, signature: Signature, columns: tuple[Column, ...]) -> IdentityLayout:
        relation, names = self.relation, signature[0]
        if names == relation.shape.names:
            shape = relation.shape
        elif names == relation.key_shape.names:
            shape = relation.key_shape
        else:
            index = relation.shape.index
            columns = tuple(relation.columns[index[name]] for name in names)
            shape = Shape(columns, relation.shape.table)
        places = tuple(relation.shape.index[name] for name in names)
        layout = IdentityLayout(relation, bytea_places(columns), shape, self._is_full, places)
        _remember(self._identities, signature, layout)
        return layout

    def _set_columns(self, columns: tuple[Column, ...]) -> None:
        if columns != self._columns:
            self._columns = columns
            if self._key is not None and not {column.name for column in columns}.issuperset(
                self._key
            ):
                self._key = None
            self._renew()

    def _renew(self) -> None:
        """Make a new relation if the table has changed, and discard the layouts of the old one."""
        relation = self._make_relation()
        if relation is not self.relation:
            self.relation = relation
            self._rows.clear()
            self._identities.clear()

    def _make_relation(self) -> Relation:
        key = self._key if self._key is not None else (self._primary_key or ())
        kind = ReplicaIdentity.DEFAULT
        if self._is_full:
            kind = ReplicaIdentity.FULL
        elif (
            self._key is not None
            and self._primary_key is not None
            and set(self._key) != set(self._primary_key)
        ):
            kind = ReplicaIdentity.INDEX
        columns = tuple(
            Column(
                column.name,
                column.type_oid,
                column.type_name,
                column.type_schema,
                column.type_modifier,
                self._is_full or column.name in key,
            )
            for column in self._columns
        )
        relation = self._relations.get((columns, kind))
        if relation is None:
            relation = Relation(0, self._schema, self._name, kind, columns)
            _remember(self._relations, (columns, kind), relation)
        return relation


def _remember(cache: dict[Any, Any], key: Any, value: Any) -> None:
    if len(cache) >= _MAX_LAYOUTS:
        cache.clear()
    cache[key] = value


def _new_fields(layout: RowLayout, values: Sequence[Any]) -> tuple[Field, ...]:
    fields = fields_of(values, layout.bytea)
    if layout.places is None:
        return fields
    return tuple([UNCHANGED if place < 0 else fields[place] for place in layout.places])


def _restore(
    fields: tuple[Field, ...], places: tuple[int, ...], old_fields: tuple[Field, ...]
) -> tuple[Field, ...]:
    """Return the fields with unchanged TOASTed values taken from the old row."""
    restored = list(fields)
    for place, old in zip(places, old_fields, strict=True):
        if restored[place] is UNCHANGED:
            restored[place] = old
    return tuple(restored)
