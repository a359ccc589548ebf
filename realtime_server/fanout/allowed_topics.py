"""TopicRules: the topics and bindings to which the configuration file lets changes go.

The list ``realtime`` in CONFIGURATION_FILE says it. A rule allows topics of one kind: those of
schemas, of tables, or of filters on a column. Without a file everything is allowed, except for
the server's own schema, whose changes are sent to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Final

import attrs

from ..phoenix.messages import CHANNEL_PREFIX

__all__ = ["OWN_SCHEMA", "ROW_EVENTS", "EventRules", "TopicRules"]

OWN_SCHEMA: Final = "realtime"
"""The server's own schema. Its rows say who listens to what, with the claims of their tokens, and a
publication ``FOR ALL TABLES`` has them, too."""
ROW_EVENTS: Final = ("INSERT", "UPDATE", "DELETE")
"""The events of rows."""
_ANY: Final = "*"


@attrs.frozen
class EventRules:
    """Where the changes of one table and event may be sent."""

    topics: tuple[str, ...]
    """The allowed topics without a filter, in this order: ``realtime:<schema>``, ``realtime:*``,
    ``realtime:<schema>:<table>``."""
    columns: frozenset[str] | None
    """The columns that filters may read; None: all of them."""
    tables: tuple[tuple[str, str], ...] = attrs.field(default=(), eq=False)
    """The tables that bindings without a filter may name, as pairs of a schema and a table of which
    either may be ``*``: for each of ``topics`` the bindings that ask for the same."""

    def allows_filter_on(self, columns: frozenset[str]) -> bool:
        """Return whether a filter may read these columns."""
        return self.columns is None or columns <= self.columns


_NOTHING: Final = EventRules((), frozenset())


class TopicRules:
    """The rules of the configuration file.

    Args:
        rules: pairs of what is allowed (``schema``, ``schema:table`` or ``schema:table:column``, of
            which each part may be ``*``) and the events for which it is. None: everything is.
    """

    def __init__(self, rules: Iterable[tuple[str, Iterable[str]]] | None = None) -> None:
        self._relations: dict[str, set[str]] | None = None
        if rules is not None:
            self._relations = {}
            for relation, events in rules:
                for event in events:
                    self._relations.setdefault(event, set()).add(relation)
        self._known: dict[tuple[str, str, str], EventRules] = {}

    def for_event(self, schema: str, table: str, event: str) -> EventRules:
        """Return where an event of a table may be sent."""
        key = (schema, table, event)
        rules = self._known.get(key)
        if rules is None:
            rules = self._known[key] = self._find(schema, table, event)
        return rules

    def _find(self, schema: str, table: str, event: str) -> EventRules:
        if schema == OWN_SCHEMA:
            return _NOTHING
        of_schema = f"{CHANNEL_PREFIX}{schema}"
        of_all = f"{CHANNEL_PREFIX}{_ANY}"
        of_table = f"{of_schema}:{table}"
        names = {
            of_schema: ((schema, _ANY),),
            of_all: ((_ANY, _ANY),),
            of_table: ((schema, table), (_ANY, table)),
        }
        if self._relations is None:
            return EventRules(tuple(names), None, tuple(chain(*names.values())))
        relations = self._relations.get(event, set())
        tables = {f"{one}:{other}" for one in (_ANY, schema) for other in (_ANY, table)}
        kinds = (
            (of_schema, {_ANY, schema}),
            (of_all, {_ANY}),
            (of_table, tables),
        )
        topics = tuple(topic for topic, wanted in kinds if wanted & relations)
        columns = frozenset(
            relation.removeprefix(f"{name}:")
            for relation in relations
            for name in tables
            if relation.startswith(f"{name}:")
        )
        return EventRules(
            topics,
            None if _ANY in columns else columns,
            tuple(chain(*(names[topic] for topic in topics))),
        )
