"""Translates errors that PostgreSQL raises to SourceErrors that say what to do.

They are told apart by their SQLSTATE. An error while connecting has none: see :mod:`.failures`.
"""

from __future__ import annotations

import re
from typing import Final

from psycopg import Error

from .._text import one_line
from ..changes import GapReason
from ..errors import (
    ConnectionLostError,
    OutputPluginError,
    OutputPluginNotAllowedError,
    PrivilegeError,
    SlotInUseError,
    SlotLostError,
    SlotUnavailableError,
    SourceError,
)

__all__ = ["translate"]

_PID: Final = re.compile(r"PID (\d+)")
# This finds the English text; a server that speaks another language gets a more general error.
_NOT_ALLOWED: Final = re.compile(r'library "(.+)" may not be used as an output plugin')
# The source files of PostgreSQL that report a missing WAL segment, whatever the language.
_READS_WAL: Final = frozenset({"walsender.c", "xlog.c"})
_NOT_INSTALLED: Final = re.compile(r'could not access file "(wal2json)"')


def _drop(slot: str) -> str:
    return f"run SELECT pg_drop_replication_slot('{slot}')"


def translate(exc: Error, slot: str) -> SourceError:
    """Return the SourceError for what psycopg raised during a command, or while streaming.

    Args:
        exc: the error.
        slot: name of the slot that the connection is about.
    """
    text = one_line(str(exc))
    error: SourceError
    if exc.sqlstate == "58P01" and exc.diag.source_file in _READS_WAL:
        error = SlotLostError(
            slot,
            f"the stream of slot {slot!r} cannot go on ({text}); the changes in it are lost: to "
            f"begin again, set replace_slot=True and on_gap='continue', or {_drop(slot)}",
            GapReason.WAL_REMOVED,
        )
    else:
        error = _translated(exc.sqlstate or "", text, slot)
    error.sqlstate = exc.sqlstate
    return error


def _translated(state: str, text: str, slot: str) -> SourceError:
    match state:
        case "55006":
            found = _PID.search(text)
            return SlotInUseError(slot, int(found[1]) if found else None)
        case "42501" if found := _NOT_ALLOWED.search(text):
            return OutputPluginNotAllowedError(found[1])
        case "42501":
            return PrivilegeError(
                f"the role lacks a privilege ({text}): GRANT it, or run ALTER ROLE … REPLICATION "
                "if it is replication that the role may not start"
            )
        case "53400":
            return SlotUnavailableError(
                slot,
                f"slot {slot!r} cannot be created ({text}); drop an unused slot or raise "
                "max_replication_slots",
            )
        case "53300":
            return ConnectionLostError(
                f"no free connection ({text}); stop another client or raise the limit"
            )
        case "53200" if "max_locks_per_transaction" in text:
            return SourceError(
                f"the server has no room for more locks ({text}): a snapshot locks each of its "
                "tables, with partitions and indexes; raise max_locks_per_transaction, or take "
                "fewer tables"
            )
        case "42710":
            return SlotInUseError(slot, None)
        case "55000":
            return SlotLostError(
                slot,
                f"the stream of slot {slot!r} cannot go on ({text}); if the slot is lost, so are "
                "the changes in it: to begin again, set replace_slot=True and on_gap='continue', "
                f"or {_drop(slot)}",
            )
        case "58P01" if found := _NOT_INSTALLED.search(text):
            return OutputPluginError(
                f"the output plugin {found[1]!r} is not installed on the server ({text}); install "
                "its package there, or use PgoutputSource, which needs none"
            )
        case "58P01":
            return SlotUnavailableError(
                slot,
                f"slot {slot!r} cannot be created or read ({text}); check that its output plugin "
                "is installed on the server, and that nobody has removed files there",
            )
        case "42704":
            return SlotUnavailableError(
                slot,
                f"slot {slot!r} cannot be read ({text}); if it is older than its publication, set "
                f"replace_slot=True and on_gap='continue', or {_drop(slot)}",
            )
    if state[:2] in ("08", "57") or not state:
        return ConnectionLostError(f"the connection to PostgreSQL was lost ({text})")
    return SourceError(f"PostgreSQL reported {state}: {text}")
