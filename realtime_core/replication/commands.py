"""The texts of replication commands, and of the output plugins' options.

Replication commands take no parameters, so names and values are quoted here, and nowhere else. See
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
    "export_snapshot",
    "parse_table",
    "pgoutput_options",
    "quote_identifier",
    "quote_literal",
    "set_failover",
    "start_replication",
    "timeline_history",
    "wal2json_options",
]

_NO_PREFIX: Final = "realtime-core:no-messages"
_NAME: Final = r'(?:"((?:[^"]|"")+)"|([^".]+))'
_TABLE: Final = re.compile(rf"{_NAME}\.{_NAME}")
_SLOT_NAME: Final = re.compile(r"[a-z0-9_]{1,63}", re.ASCII)


def quote_identifier(name: str) -> str:
    """Quote a name.

    Raises:
        ValueError: if ``name`` is empty or has a NUL.
    """
    if not name or "\0" in name:
        raise ValueError(f"not a name: {name!r}")
    return '"' + name.replace('"', '""') + '"'


def parse_table(text: str) -> tuple[str, str]:
    """Return the schema and the table that ``schema.table`` names.

    Either may be quoted, as in ``public."Orders"``; one that is not stays as it is written, too.

    Raises:
        ValueError: if ``text`` has another form.
    """
    found = _TABLE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r}, which is not schema.table")
    schema, table = (quoted or bare for quoted, bare in (found.group(1, 2), found.group(3, 4)))
    return schema.replace('""', '"'), table.replace('""', '"')


def quote_literal(text: str) -> str:
    """Quote a string for the replication grammar, which knows no escape but a doubled quote.

    Raises:
        ValueError: if ``text`` has a NUL.
    """
    if "\0" in text:
        raise ValueError(f"a string cannot contain NUL: {text!r}")
    return "'" + text.replace("'", "''") + "'"


def check_slot_name(name: str) -> str:
    """Return ``name`` if PostgreSQL accepts it as the name of a replication slot.

    Raises:
        ValueError: if it does not, saying what is allowed.
    """
    if _SLOT_NAME.fullmatch(name) is None:
        raise ValueError(
            f"{name!r} cannot be the name of a replication slot: use 1 to 63 lower-case letters, "
            "digits and underscores"
        )
    return name


def create_slot(
    name: str, *, plugin: str = "pgoutput", temporary: bool, failover: bool = False
) -> str:
    """Return the command that creates a logical slot, without exporting a snapshot.

    Args:
        name: name of the slot.
        plugin: its output plugin.
        temporary: whether it is dropped when its connection ends.
        failover: whether standbys keep a copy of it (PostgreSQL 17).
    """
    kind = " TEMPORARY" if temporary else ""
    # The older syntax of options is enough without failover, and PostgreSQL 14 to 18 all read it.
    options = "(SNAPSHOT 'nothing', FAILOVER)" if failover else "NOEXPORT_SNAPSHOT"
    return (
        f"CREATE_REPLICATION_SLOT {quote_identifier(check_slot_name(name))}{kind} "
        f"LOGICAL {quote_identifier(plugin)} {options}"
    )


def export_snapshot(name: str, *, plugin: str) -> str:
    """Return the command that creates a temporary logical slot, and exports a snapshot.

    The snapshot is what a transaction would see that began at the slot's consistent point. It is
    there until the connection's next command.

    Args:
        name: name of the slot.
        plugin: its output plugin.
    """
    return (
        f"CREATE_REPLICATION_SLOT {quote_identifier(check_slot_name(name))} TEMPORARY "
        f"LOGICAL {quote_identifier(plugin)} EXPORT_SNAPSHOT"
    )


def set_failover(name: str) -> str:
    """Return the command that lets standbys keep a copy of an existing slot (PostgreSQL 17)."""
    return f"ALTER_REPLICATION_SLOT {quote_identifier(name)} (FAILOVER)"


def drop_replication_slot(name: str) -> str:
    """Return the command that drops a slot."""
    return f"DROP_REPLICATION_SLOT {quote_identifier(name)}"


def timeline_history(timeline: int) -> str:
    """Return the command that asks for the history file of a timeline."""
    return f"TIMELINE_HISTORY {timeline}"


def start_replication(slot: str, start: LSN, options: Mapping[str, str]) -> str:
    """Return the command that starts to stream from a logical slot.

    Args:
        slot: name of the slot.
        start: the LSN to stream from; ``0/0`` stands for the slot's confirmed position, and
            PostgreSQL uses that one for an earlier LSN, too.
        options: the output plugin's options.
    """
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
    """Return pgoutput's options, with the lowest version of its protocol that has all of them.

    Args:
        publications: names of the publications to stream.
        streaming: whether to send transactions that are still running.
        messages: whether to send logical messages.
        origin: ``"none"`` to leave out changes that were replicated from elsewhere.
    """
    protocol = {"off": "1", "on": "2", "parallel": "4"}[streaming]
    options = {
        "proto_version": protocol,
        "publication_names": ",".join(quote_identifier(name) for name in publications),
    }
    # An option that is off is left out, because older servers refuse an option they do not know.
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
    """Return wal2json's options: all that add information, and those that select changes.

    Args:
        format_version: 1 or 2.
        tables: pairs of schema and table, of which None stands for any; None for all tables.
        exclude_tables: pairs of tables to leave out.
        actions: which kinds of changes to send; None for all.
        messages: whether to send logical messages.
        message_prefixes: which prefixes of messages to send, None for all; wal2json has no way to
            escape a character in one.
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
        # Without this, each transaction is one text, and has to fit into memory here and there.
        options["write-in-chunks"] = "true"
    if tables is not None:
        options["add-tables"] = ",".join(map(_wal2json_table, tables))
    if exclude := ",".join(map(_wal2json_table, exclude_tables)):
        options["filter-tables"] = exclude
    if actions is not None:
        options["actions"] = ",".join(actions)
    if not messages:
        # wal2json has no option for no messages, so ask for a prefix that nobody uses.
        options["add-msg-prefixes"] = _NO_PREFIX
    elif message_prefixes is not None:
        options["add-msg-prefixes"] = ",".join(message_prefixes)
    return options


def _wal2json_table(pair: tuple[str | None, str | None]) -> str:
    return ".".join("*" if name is None else _wal2json_name(name) for name in pair)


def _wal2json_name(name: str) -> str:
    """Escape the characters that have a meaning in wal2json's lists of tables."""
    return "".join(f"\\{letter}" if letter in " ',.*\\" else letter for letter in name)
