"""CONFIGURATION_FILE: which tables' changes are broadcast, and which webhooks are called.

.. code-block:: json

    {"realtime": [{"relation": "public:users", "events": ["INSERT"]}],
     "webhooks": [{"event": "*", "relation": "*", "config": {"endpoint": "https://…"}}]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from ._relations import EVENTS, check_relation
from .webhooks import Webhook, read_webhooks

__all__ = ["ConfigurationFile", "RelationRule"]


@attrs.frozen
class RelationRule:
    """Which events are broadcast to a kind of topic.

    Attributes:
        relation: ``schema`` for the topics of schemas, ``schema:table`` for those of tables,
            ``schema:table:column`` for those of filters; each part may be ``*``. ``*`` alone
            is every schema and the topic ``realtime:*``.
        events: some of :data:`EVENTS`.
    """

    relation: str
    events: tuple[str, ...]


@attrs.frozen
class ConfigurationFile:
    """The content of the file; without one all events are broadcast, and there are no webhooks."""

    realtime: tuple[RelationRule, ...] = tuple(
        RelationRule(relation, EVENTS) for relation in ("*", "*:*", "*:*:*")
    )
    """Which events are broadcast to which topics."""
    webhooks: tuple[Webhook, ...] = ()
    """Which webhooks are called for which changes."""
    path: str | None = None
    """The file's path; None without a file."""

    @classmethod
    def read(cls, path: str) -> ConfigurationFile:
        """Read a file.

        Raises:
            ValueError: if the file is invalid; it has the first problem and the remedy.
        """
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except OSError as exc:
            raise ValueError(
                f"the file cannot be read ({exc.strerror}); name a JSON file that can"
            ) from None
        except (ValueError, RecursionError) as exc:
            raise ValueError(f"the file is not JSON ({exc}); correct it") from None
        if not isinstance(content, dict):
            raise ValueError(
                'the file is not a JSON object; use {"realtime": […], "webhooks": […]}'
            )
        config = cls(path=path, webhooks=read_webhooks(_items(content, "webhooks")))
        if "realtime" not in content:
            return config
        rules = enumerate(_items(content, "realtime"))
        return attrs.evolve(
            config, realtime=tuple(_rule(f"realtime[{index}]", item) for index, item in rules)
        )


def _items(content: Mapping[str, Any], key: str) -> list[Any]:
    items = content.get(key, [])
    if not isinstance(items, list):
        raise ValueError(f"{key} in the file is not a list; use a list of objects")
    return items


def _rule(place: str, item: Any) -> RelationRule:
    example = '{"relation": "public:users", "events": ["INSERT"]}'
    fields = item if isinstance(item, dict) else {}
    if not isinstance(relation := fields.get("relation"), str):
        raise ValueError(f"{place} in the file has no relation; use {example}")
    check_relation(place, relation, most=3)
    events = fields.get("events")
    if not isinstance(events, list) or not all(event in EVENTS for event in events):
        raise ValueError(
            f"{place} in the file needs events, a list of {', '.join(EVENTS)}; use {example}"
        )
    return RelationRule(relation, tuple(events))
