"""TopicRules: which topics, and which bindings, a relation's changes may go to at all.

CONFIGURATION_FILE's list ``realtime`` says it. A rule opens topics of one kind: those of
schemas, of tables, or of filters on a column. Without a file everything is open, but for the
server's own schema, which nothing opens.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Final

import attrs

from ..phoenix.messages import CHANNEL_PREFIX

__all__ = ["OWN_SCHEMA", "Opening", "TopicRules"]

OWN_SCHEMA: Final = "realtime"
"""The server's own: it says who listens to what, with the claims of their tokens. A publication
``FOR ALL TABLES`` has it, too."""
_ANY: Final = "*"


@attrs.frozen
class Opening:
    """What is open to one event of one relation.

    Attributes:
        topics: the open ones among the first three steps of the ladder, in its order.
        columns: those that filters may look at; None: all of them.
        tables: what bindings without a filter may name: pairs of a schema and a table, either
            may be ``*``. They stand on the same steps as the topics.
    """

    topics: tuple[str, ...]
    columns: frozenset[str] | None
    tables: tuple[tuple[str, str], ...] = attrs.field(default=(), eq=False)

    def allows_filter_on(self, columns: frozenset[str]) -> bool:
        """Say whether a filter may look at these columns."""
        return self.columns is None or columns <= self.columns


_CLOSED: Final = Opening((), frozenset())


class TopicRules:
    """Opens topics by rules.

    Args:
        rules: pairs of a relation (``schema``, ``schema:table`` or ``schema:table:column``,
            each part may be ``*``) and its events. None: everything is open.
    """

    def __init__(self, rules: Iterable[tuple[str, Iterable[str]]] | None = None) -> None:
        self._relations: dict[str, set[str]] | None = None
        if rules is not None:
            self._relations = {}
            for relation, events in rules:
                for event in events:
                    self._relations.setdefault(event, set()).add(relation)
        self._openings: dict[tuple[str, str, str], Opening] = {}

    def opening(self, schema: str, table: str, event: str) -> Opening:
        """Return what is open to an event of a table."""
        key = (schema, table, event)
        opening = self._openings.get(key)
        if opening is None:
            opening = self._openings[key] = self._find(schema, table, event)
        return opening

    def _find(self, schema: str, table: str, event: str) -> Opening:
        if schema == OWN_SCHEMA:
            return _CLOSED
        of_schema = f"{CHANNEL_PREFIX}{schema}"
        of_all = f"{CHANNEL_PREFIX}{_ANY}"
        of_table = f"{of_schema}:{table}"
        names = {
            of_schema: ((schema, _ANY),),
            of_all: ((_ANY, _ANY),),
            of_table: ((schema, table), (_ANY, table)),
        }
        if self._relations is None:
            return Opening(tuple(names), None, tuple(chain(*names.values())))
        relations = self._relations.get(event, set())
        tables = {f"{one}:{other}" for one in (_ANY, schema) for other in (_ANY, table)}
        steps = (
            (of_schema, {_ANY, schema}),
            (of_all, {_ANY}),
            (of_table, tables),
        )
        topics = tuple(topic for topic, wanted in steps if wanted & relations)
        columns = frozenset(
            relation.removeprefix(f"{name}:")
            for relation in relations
            for name in tables
            if relation.startswith(f"{name}:")
        )
        return Opening(
            topics,
            None if _ANY in columns else columns,
            tuple(chain(*(names[topic] for topic in topics))),
        )
