"""Relations and types as the stream has described them so far."""

from __future__ import annotations

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

    __slots__ = ("_outer", "_relations", "_types")

    def __init__(self, outer: RelationCache | None = None) -> None:
        self._outer = outer
        self._relations: dict[int, Relation] = {}
        self._types: dict[int, tuple[str, str]] = {}

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
        self._relations[message.relation_oid] = Relation(
            message.relation_oid, schema, message.name, identity, columns
        )

    def absorb(self, inner: RelationCache) -> None:
        """Take over what a stream has described: PostgreSQL will not say it again."""
        self._relations.update(inner._relations)
        self._types.update(inner._types)

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
