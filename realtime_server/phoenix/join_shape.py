"""The shape of a join's payload: what its members may be, and the words for what they are not.

Members that are not named here are ignored, since clients add some. A boolean may be the text
``true`` or ``false``, in any case.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final, get_args, get_origin

import attrs
from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

__all__ = [
    "MAX_BINDINGS",
    "MAX_COLUMNS",
    "MEMBERS",
    "MOST_PROBLEMS",
    "SentBinding",
    "SentConfig",
    "SentOptions",
    "flag",
    "problems_of",
    "read_config",
    "shown",
]

MAX_BINDINGS: Final = 100
"""Bindings of one join."""
MAX_COLUMNS: Final = 1600
"""Columns that a ``select`` may name: no table in PostgreSQL has more."""
MOST_PROBLEMS: Final = 3
"""Problems of one join that are told."""


@attrs.frozen
class SentBinding:
    """One entry of ``postgres_changes``."""

    event: str | None = None
    schema: str | None = None
    table: str | None = None
    filter: str | None = None
    select: list[str] | None = None
    leaves: bool | None = None


MEMBERS: Final = tuple(field.name for field in attrs.fields(SentBinding))
"""What an entry of ``postgres_changes`` may have."""


@attrs.frozen
class SentOptions:
    """``postgres_changes_options``."""

    wait: bool | None = None
    timeout: float | None = None


@attrs.frozen
class SentConfig:
    """``config``."""

    postgres_changes: list[SentBinding] | None = None
    postgres_changes_options: SentOptions | None = None
    broadcast: dict[str, Any] | None = None
    presence: dict[str, Any] | None = None
    private: bool | None = None


@attrs.frozen
class _SentJoin:
    config: SentConfig | None = None


_BOOLEANS: Final = {"true": True, "false": False}
_NAMES: Final[dict[Any, str]] = {
    bool: "true or false",
    dict: "an object",
    float: "a number",
    list: "a list",
    str: "a string",
}


def read_config(payload: Any) -> SentConfig:
    """Read the ``config`` of a join's payload.

    Raises:
        BaseValidationError: if it has another shape; see :func:`problems_of`.
    """
    return _converter.structure(payload, _SentJoin).config or SentConfig()


def _check(value: Any, kind: type) -> Any:
    if kind is bool:
        value = flag(value)
    # A JSON number is an int or a float in Python, where True is an int, too.
    fits = isinstance(value, kind) or (
        kind is float and isinstance(value, int) and not isinstance(value, bool)
    )
    if not fits:
        raise ValueError(f"must be {_NAMES[kind]}, not {shown(value)}")
    return value


def flag(value: Any) -> Any:
    """Return a boolean that may be written as text; anything else as it is."""
    if isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    return value


def shown(value: Any) -> str:
    """Return a value as JSON for a reason; only its beginning if it is long."""
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
            problems += sum(1 for _ in problems_of(exc))
            if problems >= MOST_PROBLEMS:
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
        most = MAX_BINDINGS if item is SentBinding else MAX_COLUMNS
        return lambda value, _: _items(_check(value, list), cls, item, structure, most)

    converter.register_structure_hook_factory(is_a(list), lists)
    return converter


_converter: Final = _make_converter()


def problems_of(exc: BaseException, path: str = "") -> Iterator[str]:
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
        yield from problems_of(inner, place)
