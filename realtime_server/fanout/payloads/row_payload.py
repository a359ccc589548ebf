"""The payloads of changes as JSON, in the styles of topic clients and of binding clients.

What depends on the relation alone is computed once for it: names, the list ``columns``, and which
fields are timestamps. What depends on the change is rendered once for it. The frame around a
payload depends on topic and serializer, and is added as bytes elsewhere.

In the style of topic clients every value is PostgreSQL's text; only ``timestamp``
and ``timestamptz`` become ISO 8601. The typed style is in
:mod:`realtime_core.payloads`.
"""

from __future__ import annotations

import enum
from datetime import datetime
from functools import lru_cache
from itertools import repeat
from operator import is_
from typing import Any, Final, Protocol, TypeAlias

import orjson

from realtime_core import (
    UNCHANGED,
    Change,
    Column,
    Delete,
    Insert,
    LogicalMessage,
    Position,
    Record,
    Relation,
    Truncate,
    Update,
)
from realtime_core.payloads import Projection, identity_of

from .oversize import TOO_LARGE, is_larger, shortened

__all__ = [
    "AnyGap",
    "Plans",
    "RelationPlan",
    "RowPayload",
    "commit_timestamp",
    "gap_payload",
    "iso_timestamp",
    "row_payloads",
]

_TIMESTAMPS: Final = ("timestamp", "timestamptz")

_ALWAYS_UNCHANGED: Final = repeat(UNCHANGED)

_MOST_PROJECTIONS: Final = 1000
"""How many selections of columns are kept for one relation: clients can choose ever new ones."""

_MOST_PLANS: Final = 1000
"""How many relations' plans are kept."""


def iso_timestamp(text: str) -> str:
    """Return a timestamp as ISO 8601 in UTC with its fraction as received, or ``text``."""
    # PostgreSQL's ISO style with TimeZone UTC, by place: a pattern takes twice as long.
    # Infinity, BC and five-digit years stay as they are.
    fraction = text[19:].removesuffix("+00")
    if text[10:11] != " " or (fraction and not (fraction[0] == "." and fraction[1:].isdigit())):
        return text
    return f"{text[:10]}T{text[11:19]}{fraction}Z"


# Asked for with each of a transaction's rows: rendering takes 1.5 µs.
@lru_cache(maxsize=64)
def commit_timestamp(time: datetime) -> bytes:
    """Return a commit's time, which is in UTC, with microseconds."""
    return f"{time.isoformat(timespec='microseconds')[:26]}Z".encode()


class RelationPlan:
    """The parts that the payloads of a relation's changes have in common.

    Args:
        relation: the table, as the stream describes it.
        error: why something of the changes is not shown; None if nothing is wrong.
    """

    __slots__ = (
        "_error",
        "_of_short_changes",
        "_projections",
        "_timestamps",
        "heads",
        "relation",
        "table_topic",
        "truncate_head",
    )

    def __init__(self, relation: Relation, *, error: str | None = None) -> None:
        self.relation = relation
        self._error = error
        self._of_short_changes: RelationPlan | None = None
        self.table_topic = f"realtime:{relation.schema}:{relation.table}"
        columns = [_describe(column) for column in relation.columns]
        errors = None if error is None else [error]
        self.heads = {
            kind: _head(relation, kind, {"errors": errors, "columns": columns})
            for kind in ("INSERT", "UPDATE", "DELETE")
        }
        self.truncate_head = _head(relation, "TRUNCATE", {})
        self._timestamps = frozenset(
            column.name
            for column in relation.columns
            if column.type_schema == "pg_catalog" and column.type_name in _TIMESTAMPS
        )
        self._projections: dict[frozenset[str] | None, Projection] = {}

    @property
    def of_short_changes(self) -> RelationPlan:
        """The plan for changes that are too large, which are sent without their long values."""
        if self._of_short_changes is None:
            self._of_short_changes = RelationPlan(self.relation, error=TOO_LARGE)
        return self._of_short_changes

    def projection(self, select: frozenset[str] | None) -> Projection:
        """Return what renders typed payloads with the selected columns, or with all for None."""
        projection = self._projections.get(select)
        if projection is None:
            if len(self._projections) >= _MOST_PROJECTIONS:
                self._projections.clear()
            projection = Projection(self.relation, select, error=self._error)
            self._projections[select] = projection
        return projection

    def render(self, record: Record) -> dict[str, Any]:
        """Return a record's fields as payloads have them, without unchanged TOAST values."""
        row = record.fields
        fields = dict(zip(record.shape.names, row, strict=True))
        # map() runs no Python code for each column.
        if any(map(is_, row, _ALWAYS_UNCHANGED)):
            fields = {name: field for name, field in fields.items() if field is not UNCHANGED}
        for name in self._timestamps:
            value = fields.get(name)
            if isinstance(value, str):
                fields[name] = iso_timestamp(value)
        return fields


def _describe(column: Column) -> dict[str, Any]:
    return {
        "flags": ["key"] if column.is_key else [],
        "name": column.name,
        "type": column.type_name,
        # Topic clients expect it unsigned: 4294967295 for -1.
        "type_modifier": column.type_modifier & 0xFFFFFFFF,
    }


def _head(relation: Relation, kind: str, more: dict[str, Any]) -> bytes:
    """Return the beginning of a payload, up to the value of the commit's time."""
    start = {"schema": relation.schema, "table": relation.table, "type": kind, **more}
    return orjson.dumps(start)[:-1] + b',"commit_timestamp":"'


Plans: TypeAlias = dict[tuple[str, str], RelationPlan]
"""The plans of tables by schema and name; not by OID, which wal2json does not have."""


class RowPayload:
    """A change of one table; each form of its payload is rendered when it is needed, and once."""

    __slots__ = ("_payload", "_rendered", "_short", "_typed", "change", "event", "plan")

    def __init__(self, event: str, plan: RelationPlan, change: Change) -> None:
        self.event = event
        """The event: ``INSERT``, ``UPDATE``, ``DELETE`` or ``TRUNCATE``."""
        self.plan = plan
        self.change = change
        self._short: RowPayload | None = None
        self._rendered: dict[str, Any] | None = None
        self._payload: bytes | None = None
        self._typed: dict[tuple[str, frozenset[str] | None], bytes] = {}

    @property
    def rendered(self) -> dict[str, Any]:
        """The rendered fields of the new row, or of the old row for a DELETE."""
        if self._rendered is None:
            match self.change:
                case Insert(record=row) | Update(record=row) | Delete(old_record=row):
                    self._rendered = self.plan.render(row)
                case _:
                    self._rendered = {}
        return self._rendered

    @property
    def payload(self) -> bytes:
        """The payload in the style of topic clients."""
        if self._payload is None:
            self._payload = self._render()
        return self._payload

    def typed(self, event: str, select: frozenset[str] | None = None) -> bytes:
        """Return the payload for clients of ``postgres_changes``, whose values have JSON types.

        Args:
            event: the event to send: the change's own, or ``DELETE`` for an UPDATE after which the
                row no longer passes the client's filter. Such an UPDATE must have an old row.
            select: the names of the columns to show; None for all.
        """
        payload = self._typed.get((event, select))
        if payload is None:
            payload = self._typed[event, select] = self._render_typed(event, select)
        return payload

    @property
    def is_shortened(self) -> bool:
        """Whether :attr:`short` was used."""
        return self._short is not None

    @property
    def short(self) -> RowPayload:
        """The change without its long values, and with an error that says so.

        A TRUNCATE has no values, and is returned as it is.
        """
        if isinstance(self.change, Truncate | LogicalMessage):
            return self
        if self._short is None:
            plan, change = self.plan.of_short_changes, shortened(self.change)
            self._short = RowPayload(self.event, plan, change)
        return self._short

    def is_larger(self, most: int, select: frozenset[str] | None = None) -> bool:
        """Return whether the values of the shown columns have more bytes as text than ``most``."""
        if isinstance(self.change, Truncate | LogicalMessage):
            return False
        shown = None if select is None else self.plan.projection(select).shown
        return is_larger(self.change, most, shown)

    def _render(self) -> bytes:
        change, plan = self.change, self.plan
        assert change.transaction is not None
        commit_time = change.transaction.commit_time
        assert commit_time is not None  # pgoutput always has it
        time = commit_timestamp(commit_time)
        fields: dict[str, Any]
        match change:
            case Insert():
                fields = {"record": self.rendered}
            case Update(old_record=old):
                old_fields = {} if old is None else plan.render(old)
                fields = {"record": self.rendered, "old_record": old_fields}
            case Delete():
                fields = {"old_record": self.rendered}
            case _:
                return plan.truncate_head + time + b'"}'
        return plan.heads[self.event] + time + b'",' + orjson.dumps(fields)[1:]

    def _render_typed(self, event: str, select: frozenset[str] | None) -> bytes:
        new: Record | None = None
        old: Record | None = None
        match self.change:
            case Insert():
                new = self.change.record
            case Update():
                old = self.change.old_record
                if event == "UPDATE":
                    new = self.change.record
                    old = identity_of(self.plan.relation, new) if old is None else old
            case Delete():
                old = self.change.old_record
        return self.plan.projection(select).payload(event, self.change, new, old)


def row_payloads(change: Change, plans: Plans) -> list[RowPayload]:
    """Return a change's payloads: one, or one for each table of a TRUNCATE.

    Args:
        change: the change; a logical message has no payload.
        plans: a cache, which is filled here, and bounded.
    """
    match change:
        case Insert():
            return [RowPayload("INSERT", _plan(change.relation, plans), change)]
        case Update():
            return [RowPayload("UPDATE", _plan(change.relation, plans), change)]
        case Delete():
            return [RowPayload("DELETE", _plan(change.relation, plans), change)]
        case Truncate():
            return [
                RowPayload("TRUNCATE", _plan(relation, plans), change)
                for relation in change.relations
            ]
        case LogicalMessage():
            return []


def _plan(relation: Relation, plans: Plans) -> RelationPlan:
    name = (relation.schema, relation.table)
    plan = plans.get(name)
    # A new Relation message replaces the relation, and so its plan.
    if plan is None or plan.relation is not relation:
        if plan is None and len(plans) >= _MOST_PLANS:
            # Many tables may have been dropped since, which the stream does not say.
            plans.clear()
        plan = plans[name] = RelationPlan(relation)
    return plan


class AnyGap(Protocol):
    """A gap in the stream (:class:`~realtime_core.Gap`), or one for some channels only."""

    @property
    def after(self) -> Position | None: ...
    @property
    def until(self) -> Position: ...
    @property
    def reason(self) -> enum.Enum: ...


def gap_payload(gap: AnyGap, channel: str) -> dict[str, Any]:
    """Return the ``system`` payload that tells a channel of a gap.

    Its status is "ok", since "error" makes some clients join again, which would not help.
    """
    reason = gap.reason.value
    return {
        "channel": channel,
        "extension": "postgres_changes",
        "status": "ok",
        "message": f"Gap: {reason}",
        "gap": {
            "after": None if gap.after is None else str(gap.after),
            "until": str(gap.until),
            "reason": reason,
        },
    }
