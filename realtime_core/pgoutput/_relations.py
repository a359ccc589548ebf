"""Relations and types as the stream has described them so far."""

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
    """What Relation and Type messages have said, the latest of each.

    Args:
        outer: asked for what is not known here. What is described inside a stream counts for
            its transaction only, until that commits: see :meth:`absorb`.
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
        # When each relation was described: transactions do not end in the order in which
        # they describe relations.
        self._clock: Iterator[int] = count() if outer is None else outer._clock
        self._said: dict[int, int] = {}
        # Inside a stream: by relation and subtransaction, and the relations of each of those.
        self._versions: dict[int, dict[int, tuple[int, Relation]]] = {}
        self._described_by: dict[int, set[int]] = {}

    def get(self, oid: int) -> Relation:
        """Return the relation.

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
        self._types[message.type_oid] = (message.namespace or "pg_catalog", message.name)

    def add_relation(self, message: RelationMessage) -> None:
        """Replace what was known of the relation.

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
        """Forget what a rolled back subtransaction has described.

        Its tables' locks are gone with it: another transaction may have given them a new
        shape, and PostgreSQL says so to whoever uses them next.
        """
        for oid in self._described_by.pop(subxid, ()):
            versions = self._versions[oid]
            del versions[subxid]
            if versions:
                self._set(oid, *next(reversed(versions.values())))
            else:
                del self._relations[oid], self._said[oid]

    def absorb(self, inner: RelationCache) -> None:
        """Take over what a stream has described: PostgreSQL will not say it again.

        Unless it has said something newer meanwhile.
        """
        for oid, relation in inner._relations.items():
            said = inner._said[oid]
            if said > self._said.get(oid, -1):
                self._set(oid, said, relation)
        # A Relation message comes after its types' messages each time, so their age is no matter.
        self._types.update(inner._types)

    def _set(self, oid: int, said: int, relation: Relation) -> None:
        self._relations[oid] = relation
        self._said[oid] = said
        if self.on_described is not None:
            self.on_described(oid)

    def _column(self, column: RelationColumn, relation: str) -> Column:
        oid = column.type_oid
        # A Type message wins: information_schema's types have fixed OIDs too.
        schema, name = self._type(oid) or ("pg_catalog", BUILTIN_TYPES.get(oid, ""))
        if not name:
            raise UnknownTypeError(oid, column=column.name, relation=relation)
        return Column(column.name, oid, name, schema, column.type_modifier, bool(column.flags & 1))

    def _type(self, oid: int) -> tuple[str, str] | None:
        described = self._types.get(oid)
        if described is None and self._outer is not None:
            return self._outer._type(oid)
        return described
