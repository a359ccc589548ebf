"""Rules: which changes are sent to an endpoint, and which of their columns.

A change is for an endpoint if its event and relation are, and if it passes the filter, by its new
row, of a DELETE by what is known of the old one. What cannot be judged is not sent, counted, and
said in the log: it might be what was to be left out.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

import attrs

from realtime_core import (
    Change,
    Delete,
    Insert,
    LogicalMessage,
    Record,
    Relation,
    Truncate,
    Update,
)
from realtime_core.errors import FilterError, FilterMatchError
from realtime_core.filters import CompiledFilter, EnumOrders
from realtime_core.records import Shape

from ..config import Webhook
from ..errors import place_of
from ..fanout.allowed_topics import OWN_SCHEMA
from ..fanout.payloads.row_payload import RelationPlan, RowPayload
from ..logs import of_webhook
from .log_throttle import LogThrottle

__all__ = ["Rules"]

logger = logging.getLogger("realtime.webhooks")

_MOST_TABLES: Final = 1000
"""How many tables' rules are remembered."""
_MOST_NAMED: Final = 20
"""How many columns of a table the log names."""


@attrs.frozen(eq=False)
class _Table:
    """A webhook's rules for a relation.

    Attributes:
        relation: the relation as the stream describes it.
        wanted: whether any of its changes may be sent.
        filter: the filter; None if there is none, or if the webhook's does not fit the relation.
        selection: the columns that are sent; None: all of them.
    """

    relation: Relation
    wanted: bool
    filter: CompiledFilter | None = None
    selection: _Selection | None = None


class Rules:
    """The rules of one webhook: which changes it gets, and which columns of them.

    Args:
        webhook: the webhook's configuration.
        enums: the labels of enum types in their order, for filters.
    """

    def __init__(self, webhook: Webhook, enums: EnumOrders) -> None:
        self._webhook = webhook
        self._enums = enums
        self._tables: dict[tuple[str, str], _Table] = {}
        self._may_say = LogThrottle()
        self.errors = 0
        """Changes that could not be judged, and were not sent."""

    def wanted(self, row: RowPayload) -> RowPayload | None:
        """Return what an endpoint gets of a change; None if it does not get the change."""
        if row.event not in self._webhook.events:
            return None
        table = self._table(row.plan.relation)
        if not table.wanted or not self._passes(table, row.change):
            return None
        if table.selection is None:
            return row
        return RowPayload(row.event, table.selection.plan, table.selection.cut(row.change))

    def _passes(self, table: _Table, change: Change) -> bool:
        if self._webhook.filter is None:
            return True
        if isinstance(change, Truncate | LogicalMessage):
            return False
        if table.filter is None:
            self.errors += 1
            return False
        try:
            return table.filter.passes(change)
        except FilterMatchError:
            self.errors += 1
            if self._may_say(table.relation.table):
                # Without the error's text, which has the value.
                logger.warning(
                    "webhook %r: its filter cannot judge a row of %s, which is not sent",
                    self._webhook.name,
                    table.relation,
                    extra=of_webhook(
                        self._webhook.name, "filter_failed", table=str(table.relation)
                    ),
                )
            return False

    def _table(self, relation: Relation) -> _Table:
        key = (relation.schema, relation.table)
        table = self._tables.get(key)
        # A new Relation message makes a new relation.
        if table is None or table.relation is not relation:
            if table is None and len(self._tables) >= _MOST_TABLES:
                self._tables.clear()
            table = self._tables[key] = self._look_at(relation)
        return table

    def _look_at(self, relation: Relation) -> _Table:
        webhook = self._webhook
        schema, _, name = webhook.relation.partition(":")
        if (
            relation.schema == OWN_SCHEMA
            or schema not in ("*", relation.schema)
            or name not in ("", "*", relation.table)
        ):
            return _Table(relation, wanted=False)
        compiled = None
        if webhook.filter is not None:
            try:
                compiled = webhook.filter.compile(relation, enums=self._enums)
            except FilterError as exc:
                # Without the error's text, which has the filter's values.
                logger.error(
                    "webhook %r: its filter does not fit %s, none of whose rows is sent; mend it, "
                    "%s; the table's columns are %s",
                    webhook.name,
                    relation,
                    place_of(exc),
                    ", ".join(relation.shape.names[:_MOST_NAMED]),
                    extra=of_webhook(
                        webhook.name, "filter_misfit", table=str(relation), reason=place_of(exc)
                    ),
                )
        selection = None
        if webhook.select is not None:
            selection = _Selection(relation, webhook.select)
            for missing in set(webhook.select).difference(relation.shape.names):
                logger.warning(
                    "webhook %r: %s has no column %r, which its select names",
                    webhook.name,
                    relation,
                    missing,
                    extra=of_webhook(
                        webhook.name, "column_missing", table=str(relation), column=missing
                    ),
                )
        return _Table(relation, wanted=True, filter=compiled, selection=selection)


class _Selection:
    """The selected columns of a relation."""

    def __init__(self, relation: Relation, names: Collection[str]) -> None:
        columns = tuple(column for column in relation.columns if column.name in names)
        identity = relation.replica_identity
        selected = Relation(relation.oid, relation.schema, relation.table, identity, columns)
        self.plan = RelationPlan(selected)
        self._names = names
        # A whole row has another shape than a key: of each, the shape of what is left of it, and
        # where that stands.
        self._shapes: dict[Shape, tuple[Shape, tuple[int, ...]]] = {}

    def cut(self, change: Change) -> Change:
        """Return a change with these columns only."""
        relation = self.plan.relation
        match change:
            case Insert(record=new):
                return attrs.evolve(change, relation=relation, record=self._cut(new))
            case Update(record=new, old_record=old):
                return attrs.evolve(
                    change,
                    relation=relation,
                    record=self._cut(new),
                    old_record=None if old is None else self._cut(old),
                )
            case Delete(old_record=old):
                return attrs.evolve(change, relation=relation, old_record=self._cut(old))
            case _:
                return change

    def _cut(self, record: Record) -> Record:
        found = self._shapes.get(record.shape)
        if found is None:
            columns = record.shape.columns
            places = tuple(
                place for place, column in enumerate(columns) if column.name in self._names
            )
            shape = Shape(tuple(columns[place] for place in places))
            found = self._shapes[record.shape] = shape, places
        shape, places = found
        fields = record.fields
        return Record(shape, tuple(fields[place] for place in places))
