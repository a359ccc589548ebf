"""RelationCache: relations and types, as the stream has described them so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

from ..changes import Relation, ReplicaIdentity
from ..errors import UnknownRelationError, UnknownTypeError
from ..oids import BUILTIN_TYPES
from ..records import Column
from .messages import RelationColumn, RelationMessage, TypeMessage

__all__ = ["RelationCache"]


class RelationCache:
    """The latest Relation message of each table, and the latest Type message of each type.

    A streamed transaction has a cache of its own on top of the stream's: what it describes holds
    for itself only, until it commits (see :meth:`absorb`).

    Args:
        outer: the cache that is asked for whatever is not in this one.
    """

    __slots__ = (
        "_clock",
        "_described_by",
        "_outer",
        "_relations",
        "_said",
        "_types",
        "_versions",
        "on_described",
    )

    def __init__(self, outer: RelationCache | None = None) -> None:
        self._outer = outer
        self.on_described: Callable[[int], None] | None = None
        """Called with the OID of each relation that is described anew."""
        self._relations: dict[int, Relation] = {}
        self._types: dict[int, tuple[str, str]] = {}
        # Relation messages are numbered, because transactions do not end in the order in which
        # they describe relations. All caches of a stream share the counter; _said holds the
        # number of each relation's message.
        self._clock: Iterator[int] = count() if outer is None else outer._clock
        self._said: dict[int, int] = {}
        # Inside a stream block, a relation has a version for each subtransaction that has described
        # it, and each subtransaction a set of the relations that it has described.
        self._versions: dict[int, dict[int, tuple[int, Relation]]] = {}
        self._described_by: dict[int, set[int]] = {}

    def get(self, oid: int) -> Relation:
        """Return the relation with this OID.

        Raises:
            UnknownRelationError: if it was never described.
        """
        relation = self._relations.get(oid)
        if relation is not None:
            return relation
        if self._outer is not None:
            return self._outer.get(oid)
        raise UnknownRelationError(oid)

    def add_type(self, message: TypeMessage) -> None:
        """Note a type's name."""
        self._types[message.type_oid] = (message.namespace or "pg_catalog", message.name)

    def add_relation(self, message: RelationMessage) -> None:
        """Note a relation, in place of its former version.

        Raises:
            UnknownTypeError: if a column's type is not known.
        """
        schema = message.namespace or "pg_catalog"
        name = f"{schema}.{message.name}"
        columns = tuple(self._column(column, name) for column in message.columns)
        identity = ReplicaIdentity(message.replica_identity)
        oid = message.relation_oid
        relation = Relation(oid, schema, message.name, identity, columns)
        self._set(oid, next(self._clock), relation)
        if message.xid is not None:
            versions = self._versions.setdefault(oid, {})
            versions.pop(message.xid, None)
            versions[message.xid] = (self._said[oid], relation)
            self._described_by.setdefault(message.xid, set()).add(oid)

    def abort(self, subxid: int) -> None:
        """Forget the relations that a rolled back subtransaction has described.

        The rollback has released the locks on these tables, so another transaction may have
        altered them since. PostgreSQL describes them again to the next transaction that uses them.
        """
        for oid in self._described_by.pop(subxid, ()):
            versions = self._versions[oid]
            del versions[subxid]
            if versions:
                self._set(oid, *next(reversed(versions.values())))
            else:
                del self._relations[oid], self._said[oid]

    def absorb(self, inner: RelationCache) -> None:
        """Take over what a streamed transaction has described, now that it has committed.

        PostgreSQL does not describe these relations again to later transactions. A relation that
        was described again since then keeps the newer version.
        """
        for oid, relation in inner._relations.items():
            said = inner._said[oid]
            if said > self._said.get(oid, -1):
                self._set(oid, said, relation)
        # PostgreSQL sends the types' messages before every Relation message that uses them, so an
        # older name of a type does no harm.
        self._types.update(inner._types)

    def _set(self, oid: int, said: int, relation: Relation) -> None:
        self._relations[oid] = relation
        self._said[oid] = said
        if self.on_described is not None:
            self.on_described(oid)

    def _column(self, column: RelationColumn, relation: str) -> Column:
        oid = column.type_oid
        # A Type message goes before the built-in names: PostgreSQL sends one for types that initdb
        # made, too, as those of information_schema.
        schema, name = self._type(oid) or ("pg_catalog", BUILTIN_TYPES.get(oid, ""))
        if not name:
            raise UnknownTypeError(oid, column=column.name, relation=relation)
        return Column(column.name, oid, name, schema, column.type_modifier, bool(column.flags & 1))

    def _type(self, oid: int) -> tuple[str, str] | None:
        described = self._types.get(oid)
        if described is None and self._outer is not None:
            return self._outer._type(oid)
        return described
