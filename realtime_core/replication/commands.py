"""Texts of replication commands, quoted.

Replication commands take no parameters, so quoting happens here and nowhere else. See
"Streaming Replication Protocol" in the PostgreSQL documentation for the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from ..lsn import LSN

__all__ = [
    "check_slot_name",
    "create_slot",
    "pgoutput_options",
    "quote_identifier",
    "quote_literal",
    "start_replication",
]

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


def create_slot(name: str, *, plugin: str = "pgoutput", temporary: bool) -> str:
    """Make a logical slot that exports no snapshot."""
    kind = " TEMPORARY" if temporary else ""
    # The older option syntax: all of PostgreSQL 14 to 18 read it.
    return (
        f"CREATE_REPLICATION_SLOT {quote_identifier(check_slot_name(name))}{kind} "
        f"LOGICAL {quote_identifier(plugin)} NOEXPORT_SNAPSHOT"
    )


def start_replication(slot: str, start: LSN, options: Mapping[str, str]) -> str:
    """Stream from a logical slot; at ``0/0`` from where it stands."""
    pairs = ", ".join(
        f"{quote_identifier(name)} {quote_literal(value)}" for name, value in options.items()
    )
    return f"START_REPLICATION SLOT {quote_identifier(slot)} LOGICAL {start} ({pairs})"


def pgoutput_options(publications: Iterable[str]) -> dict[str, str]:
    """The options of pgoutput's protocol 1 for these publications."""
    names = ",".join(quote_identifier(name) for name in publications)
    return {"proto_version": "1", "publication_names": names}
