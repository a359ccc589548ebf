"""Webhooks in CONFIGURATION_FILE: which changes go to which endpoint.

.. code-block:: json

    {"name": "audit", "relation": "public:users", "events": ["INSERT", "UPDATE"],
     "filter": "age=gte.18", "select": ["id", "name"],
     "config": {"endpoint": "https://example.org/hook"}}

Only ``config.endpoint`` has to be there. ``event``, the original's, is one event or ``*``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from realtime_core.errors import FilterError
from realtime_core.filters import Filter, parse_filter

from ._relations import EVENTS, check_relation

__all__ = ["Webhook", "read_webhooks"]

_KEYS: Final = ("name", "event", "events", "relation", "filter", "select", "config")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_EXAMPLE: Final = (
    '{"event": "*", "relation": "*", "config": {"endpoint": "https://example.org/hook"}}'
)


@attrs.frozen
class Webhook:
    """Where changes of interest go.

    Attributes:
        endpoint: an http or https URL. It may be a secret, so it is not shown.
        name: what logs, metrics and dead letters call it.
        events: some of :data:`EVENTS`.
        relation: ``*``, ``schema`` or ``schema:table``.
        filter: rows that do not pass it are left out, and so is TRUNCATE; None: all of them.
        select: the columns that are sent; None: all of them.
    """

    endpoint: str = attrs.field(repr=False)
    name: str = "webhook-1"
    events: tuple[str, ...] = EVENTS
    relation: str = "*"
    filter: Filter | None = None
    select: tuple[str, ...] | None = None


def read_webhooks(items: list[Any]) -> tuple[Webhook, ...]:
    """Read the file's list.

    Raises:
        ValueError: with the first thing that is wrong, its place, and the remedy.
    """
    found: dict[str, Webhook] = {}
    for index, item in enumerate(items):
        place = f"webhooks[{index}]"
        webhook = _webhook(place, f"webhook-{index + 1}", item)
        if webhook.name in found:
            raise ValueError(
                f"{place} in the file has the name {webhook.name!r}, which another has; "
                "give each a name of its own"
            )
        found[webhook.name] = webhook
    return tuple(found.values())


def _webhook(place: str, name: str, item: Any) -> Webhook:
    fields = item if isinstance(item, dict) else {}
    config = fields.get("config")
    config = config if isinstance(config, dict) else {}
    endpoint = config.get("endpoint")
    if not isinstance(endpoint, str) or not _is_url(endpoint):
        raise ValueError(
            f"{place} in the file has no config.endpoint with an http or https URL; use {_EXAMPLE}"
        )
    # A misspelt filter would send more than was meant.
    for keys, known in ((fields, _KEYS), (config, ("endpoint",))):
        for key in keys:
            if key not in known:
                raise ValueError(f"{place} in the file has the key {key!r}; use {', '.join(known)}")
    called = fields.get("name", name)
    if not isinstance(called, str) or not _NAME.fullmatch(called):
        raise ValueError(
            f"{place} in the file has the name {called!r}; use up to 64 letters, digits and _ . -"
        )
    relation = fields.get("relation", "*")
    check_relation(place, relation, most=2)
    return Webhook(
        endpoint,
        name=called,
        events=_events(place, fields),
        relation=relation,
        filter=_filter(place, fields.get("filter")),
        select=_select(place, fields.get("select")),
    )


def _events(place: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
    if "events" not in fields:
        event = fields.get("event", "*")
        if event not in ("*", *EVENTS):
            raise ValueError(
                f"{place} in the file has the event {event!r}; use *, {', '.join(EVENTS)}"
            )
        return EVENTS if event == "*" else (event,)
    if "event" in fields:
        raise ValueError(f"{place} in the file has both event and events; leave one of them out")
    events = fields["events"]
    if not isinstance(events, list) or not events or not all(event in EVENTS for event in events):
        raise ValueError(
            f"{place} in the file has the events {events!r}; use a list of {', '.join(EVENTS)}"
        )
    return tuple(event for event in EVENTS if event in events)


def _filter(place: str, text: Any) -> Filter | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise ValueError(f'{place} in the file has a filter that is no text; use "id=eq.99"')
    try:
        parsed = parse_filter(text)
        # It says what a regular expression lacks, the package for them included.
        parsed.regex_size()
    except FilterError as exc:
        raise ValueError(f"{place} in the file has the filter {text!r}: {exc}") from None
    return None if parsed.root is None else parsed


def _select(place: str, names: Any) -> tuple[str, ...] | None:
    if names is None:
        return None
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) and name for name in names)
    ):
        raise ValueError(
            f"{place} in the file has the select {names!r}; use a list of columns, as in "
            '["id", "name"], or leave it out for all of them'
        )
    return tuple(dict.fromkeys(names))


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
