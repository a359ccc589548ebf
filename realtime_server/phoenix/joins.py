"""Joins: parses the payload with which binding clients join.

The member ``config`` says what a channel asks for: bindings to tables, how it broadcasts, and
whether it is private, which this server does not serve. It is read into a :class:`JoinConfig`, or
refused with a reason that names the place in the payload. A join without ``config`` comes from a
topic client.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import islice
from typing import Any, Final, get_args, get_origin

import attrs
import orjson
from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

from realtime_core.errors import FilterError
from realtime_core.filters import Filter, parse_filter

from ..errors import JoinError, place_of
from .reasons import ConfigReason, ReplyReason

__all__ = [
    "ANY",
    "EVENTS",
    "MAX_WEIGHT",
    "TOO_MUCH",
    "TRUNCATE",
    "Binding",
    "JoinConfig",
    "parse_join",
    "parsing_join",
]

ANY: Final = "*"
"""Any schema or table; any event but TRUNCATE, which clients take for a DELETE if they do not
expect it."""
TRUNCATE: Final = "TRUNCATE"
EVENTS: Final = (ANY, "INSERT", "UPDATE", "DELETE", TRUNCATE)

MAX_BINDINGS: Final = 100
"""Bindings of one join."""
MAX_WEIGHT: Final = 500
"""Conditions that the filters of one join may have together. Each takes 0.1 ms from the join to the
first change; a regular expression counts as several."""
MAX_COLUMNS: Final = 1600
"""Columns that a ``select`` may name: no table in PostgreSQL has more."""
TOO_MUCH: Final = (
    f"the filters of one join cost as much as {MAX_WEIGHT} conditions at most, where a regular "
    "expression counts as 50; join several topics, or with fewer filters"
)
"""Why a join is refused whose filters cost more than :data:`MAX_WEIGHT`."""
DEFAULT_WAIT: Final = 15_000
"""Milliseconds for which a join with ``wait`` waits for its subscription if it names no timeout."""
MAX_WAIT: Final = 20_000
"""Milliseconds that it may name at most."""

_MAX_ID: Final = 2**31 - 1
_MOST_PROBLEMS: Final = 3


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
class JoinConfig:
    """The ``config`` of a join."""

    bindings: tuple[Binding, ...]
    """The bindings, in the order in which they were sent."""
    sent: tuple[Mapping[str, Any], ...]
    """The bindings as the client sent them, without members that this server does not know."""
    wait: float | None
    """Seconds to wait for the subscription before the reply; None: reply at once."""

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
        config = _converter.structure(payload, _SentJoin).config or _SentConfig()
    except BaseValidationError as exc:
        problems = list(islice(_problems(exc, ""), _MOST_PROBLEMS))
        end = "; nothing further was read" * (len(problems) == _MOST_PROBLEMS)
        raise JoinError(
            ConfigReason.PLACES.told(problems="; ".join(problems) + end),
            logged="its config is not understood",
        ) from None
    yield
    if config.private:
        # A channel that its client believes to be private must not get or send anything public.
        raise JoinError(ReplyReason.NO_PRIVATE_CHANNELS.told())
    sent = payload["config"] or {}
    options = config.postgres_changes_options
    return JoinConfig(
        (yield from _bindings(config.postgres_changes or [])),
        tuple(
            {name: entry[name] for name in _MEMBERS if name in entry}
            for entry in sent.get("postgres_changes") or ()
        ),
        _wait(options) if options is not None and options.wait else None,
    )


def _bindings(sent: list[_SentBinding]) -> Generator[None, None, tuple[Binding, ...]]:
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


def _binding(sent: _SentBinding, place: str) -> Binding:
    event = ANY if sent.event is None else sent.event.upper()
    if event not in EVENTS:
        raise JoinError(
            ConfigReason.EVENT.told(
                place=place, events=", ".join(EVENTS), event=_shown(sent.event)
            ),
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
    shown = None if select is None else sorted(select)
    what = [event, schema, table, text, shown, bool(sent.leaves)]
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


def _wait(options: _SentOptions) -> float:
    timeout = DEFAULT_WAIT if options.timeout is None else options.timeout
    return min(max(timeout, 0), MAX_WAIT) / 1000


# The shape of the payload. Members that are not named here are ignored, since clients add some.
# Those that are named but not used, such as `broadcast`, are still refused if they have another
# type.


@attrs.frozen
class _SentBinding:
    event: str | None = None
    schema: str | None = None
    table: str | None = None
    filter: str | None = None
    select: list[str] | None = None
    leaves: bool | None = None


_MEMBERS: Final = tuple(field.name for field in attrs.fields(_SentBinding))


@attrs.frozen
class _SentOptions:
    wait: bool | None = None
    timeout: float | None = None


@attrs.frozen
class _SentConfig:
    postgres_changes: list[_SentBinding] | None = None
    postgres_changes_options: _SentOptions | None = None
    broadcast: dict[str, Any] | None = None
    presence: dict[str, Any] | None = None
    private: bool | None = None


@attrs.frozen
class _SentJoin:
    config: _SentConfig | None = None


_NAMES: Final[dict[Any, str]] = {
    bool: "true or false",
    dict: "an object",
    float: "a number",
    list: "a list",
    str: "a string",
}


def _check(value: Any, kind: type) -> Any:
    # A JSON number is an int or a float in Python, where True is an int, too.
    fits = isinstance(value, kind) or (
        kind is float and isinstance(value, int) and not isinstance(value, bool)
    )
    if not fits:
        raise ValueError(f"must be {_NAMES[kind]}, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "something that is nested so deeply"
    return text if len(text) <= 40 else f"{text[:40]}…"


def _items(
    sent: list[Any], cls: Any, item: Any, structure: Callable[[Any, Any], Any], most: int
) -> list[Any]:
    """Read a list, whose length is checked first, and stop at the third problem."""
    if len(sent) > most:
        raise ValueError(f"has {len(sent)} entries, at most {most} are taken")
    found: list[Any] = []
    wrong: list[Exception] = []
    problems = 0
    for place, value in enumerate(sent):
        try:
            found.append(structure(value, item))
        except Exception as exc:
            note = IterableValidationNote(f"Structuring {cls} @ index {place}", place, item)
            exc.add_note(note)
            wrong.append(exc)
            problems += sum(1 for _ in _problems(exc, ""))
            if problems >= _MOST_PROBLEMS:
                break
    if wrong:
        raise IterableValidationError(f"While structuring {cls}", wrong, cls)
    return found


def _make_converter() -> Converter:
    converter = Converter()
    for kind in (bool, float, str):
        converter.register_structure_hook(kind, lambda value, _, kind=kind: _check(value, kind))

    def objects(cls: Any) -> Callable[[Any, Any], Any]:
        structure = make_dict_structure_fn(cls, converter)
        return lambda value, _: structure(_check(value, dict), cls)

    converter.register_structure_hook_factory(attrs.has, objects)

    def is_a(kind: type) -> Callable[[Any], bool]:
        return lambda cls: get_origin(cls) is kind

    converter.register_structure_hook_func(is_a(dict), lambda value, _: _check(value, dict))

    # A string is a sequence, too, but not a list.
    def lists(cls: Any) -> Callable[[Any, Any], Any]:
        (item,) = get_args(cls)
        structure = converter.get_structure_hook(item)
        most = MAX_BINDINGS if item is _SentBinding else MAX_COLUMNS
        return lambda value, _: _items(_check(value, list), cls, item, structure, most)

    converter.register_structure_hook_factory(is_a(list), lists)
    return converter


_converter: Final = _make_converter()


def _problems(exc: BaseException, path: str) -> Iterator[str]:
    """Yield each problem with its place in the payload."""
    if not isinstance(exc, BaseValidationError):
        yield f"{path} {exc}"
        return
    for inner in exc.exceptions:
        place = path
        for note in getattr(inner, "__notes__", ()):
            if isinstance(note, AttributeValidationNote):
                place = f"{path}.{note.name}" if path else note.name
            elif isinstance(note, IterableValidationNote):
                place = f"{path}[{note.index}]"
        yield from _problems(inner, place)
