"""pgoutput's messages, one class each.

Fields are those of "Logical Replication Message Formats" in the PostgreSQL
documentation, in its order. Nothing is interpreted here: a relation is an OID, a time is
microseconds since 2000-01-01 UTC, a tuple is its fields.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

from ..lsn import LSN
from ..records import Field

__all__ = [
    "BeginMessage",
    "CommitMessage",
    "DeleteMessage",
    "Fields",
    "InsertMessage",
    "LogicalMessageMessage",
    "Message",
    "OriginMessage",
    "RelationColumn",
    "RelationMessage",
    "TruncateMessage",
    "TypeMessage",
    "UpdateMessage",
]

Fields: TypeAlias = tuple[Field, ...]
"""A TupleData: text fields as str, binary ones as bytes, None, UNCHANGED."""


@attrs.frozen
class BeginMessage:
    """``B``: a transaction begins. It is committed already."""

    final_lsn: LSN
    """Of the commit record."""
    commit_time: int
    xid: int


@attrs.frozen
class CommitMessage:
    """``C``: all of the transaction has been sent."""

    flags: int
    commit_lsn: LSN
    end_lsn: LSN
    commit_time: int


@attrs.frozen
class OriginMessage:
    """``O``: the transaction was replicated from elsewhere. Comes right after its Begin."""

    lsn: LSN
    name: str


@attrs.frozen
class RelationColumn:
    """One column of a Relation message."""

    flags: int
    """1: part of the replica identity."""
    name: str
    type_oid: int
    type_modifier: int


@attrs.frozen
class RelationMessage:
    """``R``: describes a table before its first row, and again after DDL."""

    relation_oid: int
    namespace: str
    """Empty for ``pg_catalog``."""
    name: str
    replica_identity: str
    """``d``, ``n``, ``f`` or ``i``."""
    columns: tuple[RelationColumn, ...]


@attrs.frozen
class TypeMessage:
    """``Y``: names a type with an OID from 10000 up; of a domain, its base type."""

    type_oid: int
    namespace: str
    name: str


# The three row messages are attrs.define: one is made for every row (137 ns; frozen 348).
@attrs.define
class InsertMessage:
    """``I``."""

    relation_oid: int
    new: Fields


@attrs.define
class UpdateMessage:
    """``U``."""

    relation_oid: int
    old: Fields | None
    old_is_key: bool
    """True for a ``K`` tuple: only the identity's columns were sent, the rest is null."""
    new: Fields


@attrs.define
class DeleteMessage:
    """``D``."""

    relation_oid: int
    old: Fields
    old_is_key: bool


@attrs.frozen
class TruncateMessage:
    """``T``."""

    options: int
    """1: CASCADE, 2: RESTART IDENTITY."""
    relation_oids: tuple[int, ...]


@attrs.frozen
class LogicalMessageMessage:
    """``M``: what ``pg_logical_emit_message`` wrote (option ``messages``)."""

    flags: int
    """1: transactional."""
    lsn: LSN
    prefix: str
    content: bytes


Message: TypeAlias = (
    BeginMessage
    | CommitMessage
    | OriginMessage
    | RelationMessage
    | TypeMessage
    | InsertMessage
    | UpdateMessage
    | DeleteMessage
    | TruncateMessage
    | LogicalMessageMessage
)
