"""CONFIGURATION_FILE: which tables' changes are broadcast, and which webhooks are called.

.. code-block:: json

    {"realtime": [{"relation": "public:users", "events": ["INSERT"]}],
     "webhooks": [{"event": "*", "relation": "*", "config": {"endpoint": "https://…"}}]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

__all__ = ["EVENTS", "ConfigurationFile", "RelationRule", "Webhook"]

EVENTS: Final = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
"""Types of changes, in the payloads' words."""


@attrs.frozen
class RelationRule:
    """Events of a kind of topic that are broadcast.

    Attributes:
        relation: ``schema`` for the topics of schemas, ``schema:table`` for those of tables,
            ``schema:table:column`` for those of filters; each part may be ``*``. ``*`` alone
            is every schema and the topic ``realtime:*``.
        events: some of :data:`EVENTS`.
    """

    relation: str
    events: tuple[str, ...]


@attrs.frozen
class Webhook:
    """Where transactions go that have a change of interest.

    Attributes:
        event: one of :data:`EVENTS`, or ``*``.
        relation: ``*``, ``schema`` or ``schema:table``.
        endpoint: an http or https URL.
    """

    event: str
    relation: str
    endpoint: str


@attrs.frozen
class ConfigurationFile:
    """What the file says; without one, everything is broadcast and there are no webhooks."""

    realtime: tuple[RelationRule, ...] = tuple(
        RelationRule(relation, EVENTS) for relation in ("*", "*:*", "*:*:*")
    )
    webhooks: tuple[Webhook, ...] = ()
    path: str | None = None

    @classmethod
    def read(cls, path: str) -> ConfigurationFile:
        """Read a file.

        Raises:
            ValueError: with the first thing that is wrong and the remedy.
        """
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except OSError as exc:
            raise ValueError(
                f"the file cannot be read ({exc.strerror}); name a JSON file that can"
            ) from None
        except (ValueError, RecursionError) as exc:
            raise ValueError(f"the file is not JSON ({exc}); mend it") from None
        if not isinstance(content, dict):
            raise ValueError('the file is no JSON object; use {"realtime": […], "webhooks": […]}')
        config = cls(path=path, webhooks=tuple(map(_webhook, *_items(content, "webhooks"))))
        if "realtime" not in content:
            return config
        return attrs.evolve(config, realtime=tuple(map(_rule, *_items(content, "realtime"))))


def _items(content: Mapping[str, Any], key: str) -> tuple[list[str], list[Any]]:
    """Return each item's place in the file, and each item."""
    items = content.get(key, [])
    if not isinstance(items, list):
        raise ValueError(f"{key} in the file is no list; use a list of objects")
    return [f"{key}[{index}]" for index in range(len(items))], items


def _rule(place: str, item: Any) -> RelationRule:
    example = '{"relation": "public:users", "events": ["INSERT"]}'
    fields = item if isinstance(item, dict) else {}
    if not isinstance(relation := fields.get("relation"), str):
        raise ValueError(f"{place} in the file has no relation; use {example}")
    _check_relation(place, relation, most=3)
    events = fields.get("events")
    if not isinstance(events, list) or not all(event in EVENTS for event in events):
        raise ValueError(
            f"{place} in the file needs events, a list of {', '.join(EVENTS)}; use {example}"
        )
    return RelationRule(relation, tuple(events))


def _webhook(place: str, item: Any) -> Webhook:
    example = '{"event": "*", "relation": "*", "config": {"endpoint": "https://example.org/hook"}}'
    fields = item if isinstance(item, dict) else {}
    config = fields.get("config")
    endpoint = config.get("endpoint") if isinstance(config, dict) else None
    if not isinstance(endpoint, str) or not _is_url(endpoint):
        raise ValueError(
            f"{place} in the file has no config.endpoint with an http or https URL; use {example}"
        )
    event = fields.get("event", "*")
    if event not in ("*", *EVENTS):
        raise ValueError(f"{place} in the file has the event {event!r}; use *, {', '.join(EVENTS)}")
    relation = fields.get("relation", "*")
    _check_relation(place, relation, most=2)
    return Webhook(event, relation, endpoint)


def _check_relation(place: str, relation: object, *, most: int) -> None:
    parts = relation.split(":", most - 1) if isinstance(relation, str) else [""]
    if not all(parts):
        form = ", ".join(("schema", "schema:table", "schema:table:column")[:most])
        raise ValueError(f"{place} in the file has the relation {relation!r}; use *, {form}")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
