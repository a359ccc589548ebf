"""Joins: parses the payload with which binding clients join.

The member ``config`` says what a channel asks for: bindings to tables, how it broadcasts, and
whether it is private, which this server does not serve. It is read into a :class:`JoinConfig`, or
refused with a reason that names the place in the payload. A join without ``config`` comes from a
topic client. The shape is in :mod:`.join_shape`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from itertools import islice
from typing import Any, Final

import attrs
import orjson
from cattrs.errors import BaseValidationError

from realtime_core.errors import FilterError
from realtime_core.filters import Filter, parse_filter

from ..errors import JoinError, place_of
from .join_shape import (
    MEMBERS,
    MOST_PROBLEMS,
    SentBinding,
    SentOptions,
    flag,
    problems_of,
    read_config,
    shown,
)
from .reasons import ConfigReason, ReplyReason

__all__ = [
    "ANY",
    "EVENTS",
    "MAX_WEIGHT",
    "TOO_MUCH",
    "TRUNCATE",
    "Binding",
    "BroadcastConfig",
    "JoinConfig",
    "PresenceConfig",
    "ReplayConfig",
    "parse_join",
    "parsing_join",
]

ANY: Final = "*"
"""Any schema or table; any event but TRUNCATE, which clients take for a DELETE if they do not
expect it."""
TRUNCATE: Final = "TRUNCATE"
EVENTS: Final = (ANY, "INSERT", "UPDATE", "DELETE", TRUNCATE)

MAX_WEIGHT: Final = 500
"""Conditions that the filters of one join may have together. Each takes 0.1 ms from the join to the
first change; a regular expression counts as several."""
TOO_MUCH: Final = (
    f"the filters of one join cost as much as {MAX_WEIGHT} conditions at most, where a regular "
    "expression counts as 50; join several topics, or with fewer filters"
)
"""Why a join is refused whose filters cost more than :data:`MAX_WEIGHT`."""
DEFAULT_WAIT: Final = 15_000
"""Milliseconds for which a join with ``wait`` waits for its subscription if it names no timeout."""
MAX_WAIT: Final = 20_000
"""Milliseconds that it may name at most."""

MAX_KEY_BYTES: Final = 255
"""Bytes of the key by which a channel's client is present."""

MAX_REPLAYED: Final = 25
"""Stored broadcasts that a join may ask for."""
MAX_TIME: Final = 253_402_300_799_000
"""Milliseconds from 1970 to the end of the year 9999."""

_MAX_ID: Final = 2**31 - 1


@attrs.frozen
class Binding:
    """One entry of a join's ``postgres_changes``: the changes that it asks for."""

    event: str
    """One of :data:`EVENTS`."""
    schema: str
    """A name, or :data:`ANY`."""
    table: str
    """A name, or :data:`ANY`."""
    filter_text: str
    """The filter as the client sent it; empty if there is none."""
    filter: Filter | None = attrs.field(eq=False, repr=False)
    """The same, parsed."""
    select: frozenset[str] | None
    """Names of the columns to show; None: all."""
    leaves: bool
    """Whether an UPDATE after which a row passes the filter no more is sent, as a DELETE."""
    id: int
    """Identifies the binding to the client: never 0, and the same for equal bindings."""

    @property
    def columns(self) -> frozenset[str]:
        """The columns that the filter reads."""
        return frozenset() if self.filter is None else self.filter.columns

    def wants(self, event: str) -> bool:
        """Return whether the binding asks for events of this type."""
        return self.event == event or (self.event == ANY and event != TRUNCATE)


@attrs.frozen
class ReplayConfig:
    """Which stored broadcasts a channel wants first: ``replay`` of ``config.broadcast``."""

    since: float = 0.0
    """Milliseconds since 1970."""
    limit: int = 10
    """How many, of the newest."""


@attrs.frozen
class BroadcastConfig:
    """How a channel broadcasts: the member ``broadcast`` of ``config``."""

    acknowledges: bool = False
    """``ack``: whether a broadcast of its client is answered."""
    hears_itself: bool = False
    """``self``: whether its client gets its own broadcasts."""
    takes_bytes: bool = True
    """``bytes``: whether its client gets broadcasts whose payload is not JSON."""
    replay: ReplayConfig | None = None
    """``replay``: what it wants of broadcasts that are stored; only of a private channel."""
    wants_stream_notice: bool = False
    """``replication_ready``: whether it is told when the database's changes are being read."""


@attrs.frozen
class PresenceConfig:
    """What a channel asks of presence: the member ``presence`` of ``config``."""

    key: str = ""
    """Names its client to others; several may have the same. Empty: it gets one of its own."""
    is_enabled: bool = False
    """Whether its client is told who is present, even if it tracks nothing itself."""


@attrs.frozen
class JoinConfig:
    """The ``config`` of a join."""

    bindings: tuple[Binding, ...]
    """The bindings, in the order in which they were sent."""
    sent: tuple[Mapping[str, Any], ...]
    """The bindings as the client sent them, without members that this server does not know."""
    wait: float | None
    """Seconds to wait for the subscription before the reply; None: reply at once."""
    broadcast: BroadcastConfig = BroadcastConfig()
    """How the channel broadcasts."""
    is_private: bool = False
    """Whether policies decide who may read and write there."""
    presence: PresenceConfig = PresenceConfig()
    """What it asks of presence."""

    def response(self) -> dict[str, Any]:
        """Return the response for the reply: the bindings as they were sent, each with its id.

        Clients compare them with their own bindings.
        """
        return {
            "postgres_changes": [
                {**sent, "id": binding.id}
                for sent, binding in zip(self.sent, self.bindings, strict=True)
            ]
        }


def parse_join(payload: Any) -> JoinConfig | None:
    """Parse a join's payload without a pause: see :func:`parsing_join`."""
    steps = parsing_join(payload)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            config: JoinConfig | None = end.value
            return config


def parsing_join(payload: Any) -> Generator[None, None, JoinConfig | None]:
    """Parse a join's payload, and yield now and then: a hundred long filters take 0.1 s.

    Returns:
        What the join asks for; None for a join without ``config``.

    Raises:
        JoinError: if ``config`` is malformed, with the place and what belongs there, or asks for
            something that this server does not serve.
    """
    if not isinstance(payload, dict) or "config" not in payload:
        return None
    try:
        config = read_config(payload)
    except BaseValidationError as exc:
        problems = list(islice(problems_of(exc), MOST_PROBLEMS))
        end = "; nothing further was read" * (len(problems) == MOST_PROBLEMS)
        raise JoinError(
            ConfigReason.PLACES.told(problems="; ".join(problems) + end),
            logged="its config is not understood",
        ) from None
    yield
    sent = payload["config"] or {}
    options = config.postgres_changes_options
    return JoinConfig(
        (yield from _bindings(config.postgres_changes or [])),
        tuple(
            {name: entry[name] for name in MEMBERS if name in entry}
            for entry in sent.get("postgres_changes") or ()
        ),
        _wait(options) if options is not None and options.wait else None,
        _broadcast(config.broadcast or {}, is_private=config.private is True),
        presence=_presence(config.presence),
        is_private=config.private is True,
    )


def _flag(place: str, value: Any) -> bool | None:
    value = flag(value)
    if value is not None and not isinstance(value, bool):
        raise _wrong(place, "true or false", value)
    return value


def _broadcast(sent: dict[str, Any], *, is_private: bool) -> BroadcastConfig:
    flags = {
        name: _flag(f"config.broadcast.{name}", sent.get(name))
        for name in ("ack", "self", "bytes", "replication_ready")
    }
    replay = _replay(sent.get("replay"))
    if replay is not None and not is_private:
        raise JoinError(ReplyReason.NO_BROADCAST_REPLAY.told())
    takes_bytes = flags["bytes"] is not False
    return BroadcastConfig(
        bool(flags["ack"]),
        bool(flags["self"]),
        takes_bytes,
        replay,
        wants_stream_notice=bool(flags["replication_ready"]),
    )


def _replay(sent: Any) -> ReplayConfig | None:
    if sent is None:
        return None
    place = "config.broadcast.replay"
    if not isinstance(sent, dict):
        raise _wrong(place, "an object", sent)
    since, limit = sent.get("since"), sent.get("limit")
    if since is None:
        since = 0
    if isinstance(since, bool) or not isinstance(since, int | float) or not 0 <= since <= MAX_TIME:
        raise _wrong(f"{place}.since", "a time in milliseconds since 1970", since)
    if limit is None:
        limit = ReplayConfig().limit
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_REPLAYED:
        raise _wrong(f"{place}.limit", f"a whole number from 1 to {MAX_REPLAYED}", limit)
    return ReplayConfig(float(since), limit)


def _presence(sent: dict[str, Any] | None) -> PresenceConfig:
    if sent is None:
        return _NO_PRESENCE
    key = sent.get("key")
    if key is not None and not isinstance(key, str):
        if not isinstance(key, (int, float)):
            raise _wrong("config.presence.key", "a string", key)
        key = orjson.dumps(key).decode()
    key = key or ""
    if len(key.encode()) > MAX_KEY_BYTES:
        raise _wrong("config.presence.key", f"{MAX_KEY_BYTES} bytes at most", key)
    # supabase-js before 2.54 sends no such member.
    is_enabled = _flag("config.presence.enabled", sent.get("enabled"))
    return PresenceConfig(key, is_enabled is not False)


_NO_PRESENCE: Final = PresenceConfig()


def _wrong(place: str, right: str, value: Any) -> JoinError:
    told = ConfigReason.PLACES.told(problems=f"{place} must be {right}, not {shown(value)}")
    return JoinError(told, logged="its config is not understood")


def _bindings(sent: list[SentBinding]) -> Generator[None, None, tuple[Binding, ...]]:
    ids: dict[int, Binding] = {}
    found = []
    weight = 0
    for place, entry in enumerate(sent):
        where = f"config.postgres_changes[{place}]"
        binding = _binding(entry, where)
        if binding.filter is not None:
            weight += binding.filter.weight
            if weight > MAX_WEIGHT:
                raise JoinError(ConfigReason.FILTER.told(place=where, problem=TOO_MUCH))
        while ids.setdefault(binding.id, binding) != binding:
            binding = attrs.evolve(binding, id=binding.id % _MAX_ID + 1)
        found.append(binding)
        yield
    return tuple(found)


def _binding(sent: SentBinding, place: str) -> Binding:
    event = ANY if sent.event is None else sent.event.upper()
    if event not in EVENTS:
        raise JoinError(
            ConfigReason.EVENT.told(place=place, events=", ".join(EVENTS), event=shown(sent.event)),
            logged=f"{place}.event is none of {', '.join(EVENTS)}",
        )
    schema = "public" if sent.schema is None else sent.schema
    table = ANY if sent.table is None else sent.table
    text = sent.filter or ""
    one_table = ANY not in (schema, table)
    filter = _filter(text, place, one_table=one_table) if text else None
    if filter is not None and event == TRUNCATE:
        raise JoinError(ConfigReason.FILTER_OF_TRUNCATE.told(place=place))
    if sent.select is not None and not one_table:
        raise JoinError(ConfigReason.SELECT_OF_MANY_TABLES.told(place=place))
    if sent.leaves:
        if filter is None:
            raise JoinError(ConfigReason.LEAVES_WITHOUT_FILTER.told(place=place))
        if event not in (ANY, "DELETE"):
            raise JoinError(ConfigReason.LEAVES_OF_EVENT.told(place=place))
    select = None if sent.select is None else frozenset(sent.select)
    columns = None if select is None else sorted(select)
    what = [event, schema, table, text, columns, bool(sent.leaves)]
    digest = hashlib.blake2b(orjson.dumps(what), digest_size=8).digest()
    id = int.from_bytes(digest, "big") % _MAX_ID + 1
    return Binding(event, schema, table, text, filter, select, bool(sent.leaves), id)


def _filter(text: str, place: str, *, one_table: bool) -> Filter | None:
    if not one_table:
        raise JoinError(ConfigReason.FILTER_OF_MANY_TABLES.told(place=place))
    try:
        filter = parse_filter(text)
    except FilterError as exc:
        raise JoinError(
            ConfigReason.FILTER.told(place=place, problem=exc),
            logged=f"{place}.filter cannot be used, {place_of(exc)}",
        ) from exc
    return None if filter.root is None else filter


def _wait(options: SentOptions) -> float:
    timeout = DEFAULT_WAIT if options.timeout is None else options.timeout
    return min(max(timeout, 0), MAX_WAIT) / 1000
