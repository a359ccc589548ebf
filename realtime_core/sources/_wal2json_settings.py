"""Wal2JsonSettings: the checked arguments of a Wal2JsonSource, and the plugin's options."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias, get_args

import attrs
from attrs.converters import optional

from ..replication.commands import wal2json_options
from ._argument_errors import strings, type_of
from ._checked_settings import CheckedSettings, check_choice

__all__ = ["TablePattern", "Wal2JsonAction", "Wal2JsonSettings"]

TablePattern: TypeAlias = tuple[str | None, str | None]
"""A schema and a table, of which None stands for any."""
Wal2JsonAction: TypeAlias = Literal["insert", "update", "delete", "truncate"]
"""A kind of change, as wal2json names it."""

_ACTIONS: Final[tuple[str, ...]] = get_args(Wal2JsonAction)
_DECISIVE: Final = ("format-version", "add-tables", "filter-tables", "actions", "add-msg-prefixes")
"""The plugin's options that decide which changes the stream has."""
_PREFIX: Final = re.compile(r"[^\s,\\\0]+")


def _tables(name: str, value: Any) -> tuple[TablePattern, ...]:
    """Return pairs of schema and table, each once and sorted.

    Raises:
        TypeError: if they are not pairs of names.
    """
    wanted = f"{name} is a list of pairs of schema and table, not {type_of(value)}"
    if isinstance(value, str):
        raise TypeError(f"{wanted}: use [{_pair_in(value)!r}]")
    try:
        pairs = list(value)
    except TypeError:
        raise TypeError(wanted) from None
    for pair in pairs:
        if isinstance(pair, str):
            raise TypeError(f"{name} has {pair!r}: write the pair {_pair_in(pair)!r}")
        if isinstance(pair, list):
            raise TypeError(f"{name} has {pair!r}: write the pair {tuple(pair)!r}")
        if not isinstance(pair, tuple):
            raise TypeError(f"{name} has {pair!r}: it takes pairs of schema and table")
        if not all(part is None or isinstance(part, str) for part in pair):
            raise TypeError(f"{name} has {pair!r}: a pair's names are str or None")
    # Sorted, because they are part of positions: the order in which they were given must not
    # make positions differ.
    return tuple(sorted(set(pairs), key=repr))


def _pair_in(text: str) -> TablePattern:
    """Return the pair that a text is likely to stand for."""
    schema, dot, table = text.partition(".")
    return (schema, table) if dot else (None, text)


# A converter is not told its field, which the errors name.


def _as_tables(value: Iterable[TablePattern]) -> tuple[TablePattern, ...]:
    return _tables("tables", value)


def _as_exclude_tables(value: Iterable[TablePattern]) -> tuple[TablePattern, ...]:
    return _tables("exclude_tables", value)


def _as_actions(value: Iterable[str]) -> tuple[str, ...]:
    return strings("actions", value)


def _as_prefixes(value: Iterable[str]) -> tuple[str, ...]:
    return strings("message_prefixes", value)


@attrs.frozen(kw_only=True)
class Wal2JsonSettings(CheckedSettings):
    """The arguments of :class:`Wal2JsonSource`, which describes them.

    Raises:
        ConfigError: with every problem, if they cannot work.
        TypeError: if an argument has a wrong type.
    """

    format_version: Literal[1, 2] = attrs.field(
        default=2, validator=check_choice, metadata={"choices": (1, 2)}
    )
    tables: tuple[TablePattern, ...] | None = attrs.field(
        default=None, converter=optional(_as_tables)
    )
    exclude_tables: tuple[TablePattern, ...] = attrs.field(default=(), converter=_as_exclude_tables)
    actions: tuple[str, ...] | None = attrs.field(default=None, converter=optional(_as_actions))
    messages: bool = attrs.field(default=False)
    message_prefixes: tuple[str, ...] | None = attrs.field(
        default=None, converter=optional(_as_prefixes)
    )

    @tables.validator
    @exclude_tables.validator
    def _check_pairs(self, field: attrs.Attribute[Any], pairs: Iterable[Any] | None) -> None:
        self.problems.extend(
            f"{field.name} has {pair!r}, which is not a pair of schema and table"
            for pair in pairs or ()
            if not _is_table(pair)
        )

    @tables.validator
    def _check_tables(self, field: attrs.Attribute[Any], tables: Any) -> None:
        if tables == ():
            self.problems.append("tables is empty: name at least one, or leave it out for all")

    @actions.validator
    def _check_actions(self, field: attrs.Attribute[Any], actions: Any) -> None:
        if actions is not None and (not actions or not set(actions) <= set(_ACTIONS)):
            self.problems.append(f"actions has {actions!r}; choose from {', '.join(_ACTIONS)}")

    @messages.validator
    def _check_messages(self, field: attrs.Attribute[Any], messages: bool) -> None:
        if messages and self.format_version == 1:
            self.problems.append(
                "messages need format_version=2: format 1 does not tell their place"
            )

    @message_prefixes.validator
    def _check_prefixes(self, field: attrs.Attribute[Any], prefixes: Any) -> None:
        if prefixes is None:
            return
        if not self.messages:
            self.problems.append("message_prefixes is of no use without messages=True")
        if not (prefixes and all(map(_PREFIX.fullmatch, prefixes))):
            self.problems.append(
                f"message_prefixes is {prefixes!r}; name at least one, and none that is empty "
                "or has white space, a comma or a backslash, which wal2json cannot be told"
            )

    def plugin_options(self) -> dict[str, str]:
        """Return the plugin's options for START_REPLICATION."""
        return wal2json_options(
            format_version=self.format_version,
            tables=self.tables,
            exclude_tables=self.exclude_tables,
            actions=self.actions,
            messages=self.messages,
            message_prefixes=self.message_prefixes,
        )

    def identity(self) -> tuple[str, ...]:
        """Return what decides which changes the stream has, and so their indexes in positions."""
        options = self.plugin_options()
        decisive = {name: options.get(name) for name in _DECISIVE}
        if not self.messages:
            del decisive["add-msg-prefixes"]
        return (
            "wal2json",
            *(f"{name}={value}" for name, value in decisive.items() if value is not None),
            *(["messages"] if self.messages else []),
        )


def _is_table(pair: tuple[str | None, ...]) -> bool:
    return len(pair) == 2 and all(name is None or (name and "\0" not in name) for name in pair)
