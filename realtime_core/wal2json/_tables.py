"""What the rows so far tell of their tables: columns, identity, what an UPDATE left out.

Theory of operation. There is no Relation message: a table is known from its rows. An INSERT
has all columns; an UPDATE leaves out unchanged TOAST without a sign. So each table has a
*relation*, made from the widest row that agrees with the latest, and each distinct list of
columns has a *layout* against it, worked out once and found again by that list. A column of
the relation that an UPDATE does not have is UNCHANGED if its type can be TOASTed. An INSERT
without it says that it was dropped; so does a list that no longer agrees.

The identity (``identity``, ``oldkeys``) is the whole old row under REPLICA IDENTITY FULL,
else the key. Which of the two it is must be inferred, see :meth:`Table._is_whole`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from ..changes import Relation, ReplicaIdentity
from ..errors import DecodeError
from ..records import UNCHANGED, Column, Field, Record, Shape
from ._rows import Names, Row, Signature, bytea_places, columns_of, fields_of
from ._types import can_be_toasted

__all__ = ["Table", "Tables"]

# Under FULL, format 1 has a list of its own for each combination of NULLs.
_MAX_LAYOUTS: Final = 512


class RowLayout(NamedTuple):
    """How a list of columns becomes a record of the relation."""

    relation: Relation
    bytea: tuple[int, ...]
    """Places of columns of type bytea, whose ``\\x`` wal2json leaves out."""
    places: tuple[int, ...] | None
    """For each column of the relation its place in the list, -1 if left out; None if all are."""


class IdentityLayout(NamedTuple):
    """How an identity becomes an old record."""

    relation: Relation
    bytea: tuple[int, ...]
    shape: Shape
    is_whole: bool
    """Whether it is an old row rather than a key."""
    places: tuple[int, ...]
    """Of its columns in the relation."""


class Tables:
    """Every table met so far."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, str], Table] = {}

    def get(self, schema: Any, name: Any) -> Table:
        """Return the table, a new one at the first call.

        Raises:
            DecodeError: if the names are not text.
        """
        table = self._tables.get((schema, name))
        if table is None:
            if not isinstance(schema, str) or not isinstance(name, str):
                raise DecodeError("the name of a schema or table is not a string")
            table = self._tables[schema, name] = Table(schema, name)
        return table


class Table:
    """One table."""

    def __init__(self, schema: str, name: str) -> None:
        self._schema = schema
        self._name = name
        # Equal relations are the same object, also when an earlier one comes back.
        self._relations: dict[tuple[tuple[Column, ...], ReplicaIdentity], Relation] = {}
        self._rows: dict[Signature, RowLayout] = {}
        self._identities: dict[Signature, IdentityLayout] = {}

        self._columns: tuple[Column, ...] = ()
        # Whether they are a row's, not just an identity's; whether an INSERT has told them all.
        self._seen_row = False
        self._seen_insert = False
        self._raw_primary_key: Any = None
        self._primary_key: Names | None = None
        self._key: Names | None = None
        self._is_full = False
        self.relation = self._make_relation()
        """The table as its last row showed it."""

    def set_primary_key(self, raw: Any, names: Names) -> None:
        """Take what ``include-pk`` says.

        Args:
            raw: as the text has it; call only if :meth:`has_primary_key` says that it is new.
            names: of its columns; none if the table has no primary key.
        """
        self._raw_primary_key = raw
        self._primary_key = names
        self._key = None
        self._is_full = False
        self._renew()

    def has_primary_key(self, raw: Any) -> bool:
        return bool(self._raw_primary_key == raw)

    def insert(self, row: Row) -> Record:
        """Return the record of an INSERT, whose columns are all that there are."""
        signature, values = row
        layout = self._rows.get(signature)
        if layout is None or layout.places is not None:
            layout = self._learn_row(signature, is_complete=True)
        return Record(layout.relation.shape, fields_of(values, layout.bytea))

    def update(
        self, row: Row, identity: Row | None, *, skips_null: bool
    ) -> tuple[Record, Record | None]:
        """Return new and old record of an UPDATE, the old one as pgoutput would send it.

        Args:
            row: the new row.
            identity: None if the text has none.
            skips_null: whether an identity leaves out NULLs, as format 1's does.
        """
        signature, values = row
        layout = self._rows.get(signature) or self._learn_row(signature, is_complete=False)
        if identity is None:
            return Record(layout.relation.shape, _new_fields(layout, values)), None

        old_signature, old_values = identity
        old_layout = self._identities.get(old_signature)
        if old_layout is None:
            old_layout = self._learn_identity(old_signature, signature[0], skips_null)
            # The identity may have had more to say of the relation.
            layout = self._rows.get(signature) or self._learn_row(signature, is_complete=False)
            if layout.relation is not old_layout.relation:
                raise DecodeError("the columns of a row and of its identity contradict each other")
        fields = _new_fields(layout, values)
        old_fields = fields_of(old_values, old_layout.bytea)
        shape, places = layout.relation.shape, old_layout.places
        if not old_layout.is_whole and all(
            fields[place] == old for place, old in zip(places, old_fields, strict=True)
        ):
            # An unchanged key, which wal2json repeats; pgoutput sends no old row.
            return Record(shape, fields), None
        if layout.places is not None:
            fields = _restore(fields, places, old_fields)
        return Record(shape, fields), Record(old_layout.shape, old_fields)

    def delete(self, identity: Row, *, skips_null: bool) -> Record:
        """Return the old record of a DELETE."""
        signature, values = identity
        layout = self._identities.get(signature)
        if layout is None:
            layout = self._learn_identity(signature, None, skips_null)
        return Record(layout.shape, fields_of(values, layout.bytea))

    def _learn_row(self, signature: Signature, *, is_complete: bool) -> RowLayout:
        columns = columns_of(signature)
        places = None if is_complete else self._left_out(columns)
        if places is None:
            if is_complete and not self._seen_insert:
                self._seen_insert = True
                # What looked like a whole row may have been a key, with all else left out.
                self._is_full = self._is_full and columns == self._columns
            self._seen_row = True
            self._set_columns(columns)
        layout = RowLayout(self.relation, bytea_places(columns), places)
        _remember(self._rows, signature, layout)
        return layout

    def _left_out(self, columns: tuple[Column, ...]) -> tuple[int, ...] | None:
        """Say where the relation's columns stand in ``columns``, if these can be its own.

        None if they cannot, or if none is left out.
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
        """Work out the layout of an identity.

        Args:
            signature: the identity's columns.
            row: of an UPDATE, the names of the columns that its new row has.
            skips_null: whether it may leave out NULLs.
        """
        columns = columns_of(signature)
        names = signature[0]
        known = set(self._columns)
        is_new = not known.issuperset(columns)
        if row is None:
            if is_new:
                # Another table than before: all that is known of it is this.
                self._seen_row = self._seen_insert = False
                self._is_full = False
                self._set_columns(columns)
        elif not set(names).issuperset(row):
            # A key; a TOASTed one that did not change is not in the row.
            present = {column.name for column in self._columns}
            missing = tuple(column for column in columns if column.name not in present)
            self._set_columns(missing + self._columns)
        elif is_new or (self._is_full and not skips_null):
            # A whole old row: it has what the row left out, and lacks what was dropped.
            self._set_columns(columns)
        self._is_full = self._is_whole(names, skips_null)
        self._key = None if self._is_full else names
        self._renew()
        return self._identity_layout(signature, columns)

    def _is_whole(self, names: Names, skips_null: bool) -> bool:
        """Say whether an identity is an old row, so that the table has REPLICA IDENTITY FULL.

        It is when it has all columns, and they are not just the primary key. Format 1 leaves
        out NULLs: there a row is also what has more than the primary key, or nothing at all;
        without ``include-pk``, what has other columns than the identity before.
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
            shape = Shape(tuple(relation.columns[index[name]] for name in names))
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
        """Make the relation anew if it has changed, and forget the layouts against it."""
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
    """Fill in unchanged TOAST from the old row."""
    restored = list(fields)
    for place, old in zip(places, old_fields, strict=True):
        if restored[place] is UNCHANGED:
            restored[place] = old
    return tuple(restored)
