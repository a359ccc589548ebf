"""WantedTables: the tables of which clients have asked for rows since the server started.

Where all changes of a database come, and the clients of this server want those of a few tables, the
others need not be read. A table stays wanted when its clients leave: they may come back, and get
what they missed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..phoenix.joins import ANY
from ..phoenix.messages import CHANNEL_PREFIX
from .groups import Subscription

__all__ = ["WantedTables"]

_MOST: Final = 10_000
"""Names after which every table counts as wanted: clients may make up as many as they like."""


class WantedTables:
    """Which tables' rows clients have asked for, whether these topics are allowed or not."""

    def __init__(self) -> None:
        # Topics without a filter, and pairs of schema and table, of which bindings may name any.
        self._topics: set[str] = set()
        self._tables: set[tuple[str, str]] = set()
        # By schema and table: whether one is wanted. Emptied when more is asked for.
        self._known: dict[tuple[str, str], bool] = {}
        self.on_more: Callable[[], None] = lambda: None
        """Called when more is asked for, before it is decided where the channel begins."""

    def note(self, subscription: Subscription) -> None:
        """Note what a channel asks for, before it is decided where its changes begin."""
        topic, bindings = subscription.topic, subscription.bindings
        before = len(self._topics) + len(self._tables)
        if before >= _MOST:
            return
        if bindings is not None:
            self._tables.update((binding.schema, binding.table) for binding in bindings)
        elif topic.filters:
            self._tables.update((item.schema, item.table) for item in topic.filters)
        else:
            self._topics.add(topic.name)
        if len(self._topics) + len(self._tables) > before:
            self._known.clear()
            self.on_more()

    def want(self, schema: str) -> None:
        """Have the rows of all tables of a schema read, whatever clients ask for."""
        self._tables.add((schema, ANY))
        self._known.clear()

    def wants(self, schema: str, table: str) -> bool:
        """Return whether any client has asked for rows of a table."""
        name = (schema, table)
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            known = self._known[name] = self._look_up(schema, table)
        return known

    def _look_up(self, schema: str, table: str) -> bool:
        if len(self._topics) + len(self._tables) >= _MOST:
            return True
        of_schema = f"{CHANNEL_PREFIX}{schema}"
        topics = (f"{CHANNEL_PREFIX}{ANY}", of_schema, f"{of_schema}:{table}")
        tables = ((schema, table), (schema, ANY), (ANY, table), (ANY, ANY))
        return not (self._topics.isdisjoint(topics) and self._tables.isdisjoint(tables))
