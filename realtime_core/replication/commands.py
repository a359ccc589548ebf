"""Texts of replication commands, quoted.

Replication commands take no parameters, so quoting happens here and nowhere else. See
"Streaming Replication Protocol" in the PostgreSQL documentation for the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from ..lsn import LSN

__all__ = [
    "check_slot_name",
    "create_slot",
    "drop_replication_slot",
    "pgoutput_options",
    "quote_identifier",
    "quote_literal",
    "set_failover",
    "start_replication",
    "timeline_history",
    "wal2json_options",
]

_NO_PREFIX: Final = "realtime-core:no-messages"
_SLOT_NAME: Final = re.compile(r"[a-z0-9_]{1,63}", re.ASCII)


def quote_identifier(name: str) -> str:
    """Quote a name. A NUL cannot be in one.

    Raises:
        ValueError: if ``name`` is empty or has a NUL.
    """
    if not name or "\0" in name:
        raise ValueError(f"not a name: {name!r}")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Quote a string as the replication grammar reads it: only quotes are doubled.

    Raises:
        ValueError: if ``text`` has a NUL.
    """
    if "\0" in text:
        raise ValueError(f"a string cannot contain NUL: {text!r}")
    return "'" + text.replace("'", "''") + "'"


def check_slot_name(name: str) -> str:
    """Return ``name`` if PostgreSQL would take it for a slot.

    Raises:
        ValueError: otherwise, saying what is allowed.
    """
    if _SLOT_NAME.fullmatch(name) is None:
        raise ValueError(
            f"{name!r} is no name for a replication slot: use 1 to 63 lower-case letters, "
            "digits and underscores"
        )
    return name


def create_slot(
    name: str, *, plugin: str = "pgoutput", temporary: bool, failover: bool = False
) -> str:
    """Make a logical slot that exports no snapshot.

    Args:
        failover: let standbys keep a copy; PostgreSQL 17.
    """
    kind = " TEMPORARY" if temporary else ""
    # The older option syntax, where it will do: all of PostgreSQL 14 to 18 read it.
    options = "(SNAPSHOT 'nothing', FAILOVER)" if failover else "NOEXPORT_SNAPSHOT"
    return (
        f"CREATE_REPLICATION_SLOT {quote_identifier(check_slot_name(name))}{kind} "
        f"LOGICAL {quote_identifier(plugin)} {options}"
    )


def set_failover(name: str) -> str:
    """Let standbys keep a copy of an existing slot; PostgreSQL 17."""
    return f"ALTER_REPLICATION_SLOT {quote_identifier(name)} (FAILOVER)"


def drop_replication_slot(name: str) -> str:
    """Drop a slot that nobody streams from."""
    return f"DROP_REPLICATION_SLOT {quote_identifier(name)}"


def timeline_history(timeline: int) -> str:
    """Ask for the history file of a timeline."""
    return f"TIMELINE_HISTORY {timeline}"


def start_replication(slot: str, start: LSN, options: Mapping[str, str]) -> str:
    """Stream from a logical slot; at ``0/0`` from where it stands."""
    pairs = ", ".join(
        f"{quote_identifier(name)} {quote_literal(value)}" for name, value in options.items()
    )
    return f"START_REPLICATION SLOT {quote_identifier(slot)} LOGICAL {start} ({pairs})"


def pgoutput_options(
    publications: Iterable[str],
    *,
    streaming: Literal["off", "on", "parallel"] = "off",
    messages: bool = False,
    origin: Literal["any", "none"] = "any",
) -> dict[str, str]:
    """The options of pgoutput for these publications, in the lowest protocol that will do."""
    protocol = {"off": "1", "on": "2", "parallel": "4"}[streaming]
    options = {
        "proto_version": protocol,
        "publication_names": ",".join(quote_identifier(name) for name in publications),
    }
    # What is off is not mentioned: older servers know no such option.
    if streaming != "off":
        options["streaming"] = streaming
    if messages:
        options["messages"] = "true"
    if origin != "any":
        options["origin"] = origin
    return options


def wal2json_options(
    *,
    format_version: Literal[1, 2] = 2,
    tables: Iterable[tuple[str | None, str | None]] | None = None,
    exclude_tables: Iterable[tuple[str | None, str | None]] = (),
    actions: Iterable[str] | None = None,
    messages: bool = False,
    message_prefixes: Iterable[str] | None = None,
) -> dict[str, str]:
    """The options of wal2json that leave out least, and those that choose.

    Args:
        tables: pairs of schema and table, None for any; None for all tables.
        exclude_tables: likewise.
        actions: None for all.
        messages: whether to send logical messages.
        message_prefixes: None for all; they cannot be escaped.
    """
    options = {
        "format-version": str(format_version),
        "include-xids": "true",
        "include-timestamp": "true",
        "include-lsn": "true",
        "include-pk": "true",
        "include-type-oids": "true",
        "include-domain-data-type": "true",
        "include-origin": "true",
        "numeric-data-types-as-string": "true",
    }
    if format_version == 1:
        # A transaction as one text would be as large as it is, here and on the server.
        options["write-in-chunks"] = "true"
    if tables is not None:
        options["add-tables"] = ",".join(map(_wal2json_table, tables))
    if exclude := ",".join(map(_wal2json_table, exclude_tables)):
        options["filter-tables"] = exclude
    if actions is not None:
        options["actions"] = ",".join(actions)
    if not messages:
        # There is no option for none, only for those with a prefix.
        options["add-msg-prefixes"] = _NO_PREFIX
    elif message_prefixes is not None:
        options["add-msg-prefixes"] = ",".join(message_prefixes)
    return options


def _wal2json_table(pair: tuple[str | None, str | None]) -> str:
    return ".".join("*" if name is None else _wal2json_name(name) for name in pair)


def _wal2json_name(name: str) -> str:
    """Escape what wal2json's lists of names take for their own."""
    return "".join(f"\\{letter}" if letter in " ',.*\\" else letter for letter in name)
