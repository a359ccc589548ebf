"""Checks of replication slots: the one to use, how many are free, and how much WAL others keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from psycopg import AsyncConnection

from ..replication.commands import quote_literal
from .findings import Finding, rows, size
from .server import Server

__all__ = ["check_slots"]

_MUCH: Final = 1024**3
"""How many bytes of WAL a slot that nobody reads has to keep to be reported."""
_SECOND: Final = "_replay"
"""The end of the name of a second slot, behind the name of the first: realtime_server keeps in it
what clients have missed."""
_LONG: Final = 30
"""Seconds after which a transaction is reported, because the creation of a slot waits for it."""

_SLOTS: Final = """
    SELECT slot_name AS name, slot_type, database, plugin, active_pid, wal_status,
           pg_wal_lsn_diff(
               CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                   ELSE pg_current_wal_lsn() END, restart_lsn)::float8 AS retained
    FROM pg_replication_slots ORDER BY slot_name
"""

_TRANSACTIONS: Final = """
    SELECT pid, NULL::text AS gid, extract(epoch FROM now() - xact_start)::int AS age
    FROM pg_stat_activity
    WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
      AND xact_start < clock_timestamp() - make_interval(secs => %(long)s)
    UNION ALL
    SELECT NULL, gid, extract(epoch FROM now() - prepared)::int
    FROM pg_prepared_xacts
    WHERE prepared < clock_timestamp() - make_interval(secs => %(long)s)
    ORDER BY age DESC
"""


async def check_slots(
    connection: AsyncConnection[Any],
    server: Server,
    *,
    slot: str | None,
    plugin: str,
    persistent: bool,
    names: Mapping[str, str],
) -> list[Finding]:
    """Check the replication slots.

    Args:
        connection: an open connection.
        server: the server.
        slot: name of the slot to use; None for a temporary one.
        plugin: the output plugin to use.
        persistent: whether the source waits for a slot in use.
        names: the names of the application's settings for ``slot`` and ``plugin``.
    """
    slots = await rows(connection, _SLOTS)
    ours = next((row for row in slots if row["name"] == slot), None)
    findings = []
    if ours is not None:
        findings.append(_own(ours, server, plugin, persistent, names))
    else:
        findings.append(_free(slots, server))
        transactions = await rows(connection, _TRANSACTIONS, {"long": _LONG})
        findings += map(_transaction, transactions)
    findings += _others(slots, slot)
    return findings


def _drop(name: str) -> str:
    return f"SELECT pg_drop_replication_slot({quote_literal(name)});"


def _own(
    row: dict[str, Any], server: Server, plugin: str, persistent: bool, names: Mapping[str, str]
) -> Finding:
    check, name = "slot", row["name"]
    found = None
    if row["slot_type"] != "logical":
        found = "is a physical one"
    elif row["database"] != server.database:
        found = f"belongs to database {row['database']}, not {server.database}"
    elif row["plugin"] != plugin:
        remedy = "drop it, and the changes in it are lost, or choose another name"
        if "plugin" in names and row["plugin"] in ("pgoutput", "wal2json"):
            remedy = f"set {names['plugin']}={row['plugin']} to go on with it; or {remedy}"
        return Finding.problem(
            check,
            f"slot {name} uses the output plugin {row['plugin']}, not {plugin}",
            _drop(name),
            remedy=remedy,
        )
    if found is not None:
        return Finding.problem(check, f"slot {name} {found}", remedy="choose another name")
    if row["wal_status"] == "lost":
        return Finding.problem(
            check,
            f"slot {name} is lost: PostgreSQL has invalidated it or removed WAL that it needs",
            _drop(name),
            remedy="the changes since its last position are lost; the slot is recreated after this",
        )
    if row["active_pid"] is not None:
        message = f"slot {name} is in use by PID {row['active_pid']}"
        if persistent:
            return Finding.warning(check, message, remedy="it is waited for until it is free")
        return Finding.problem(
            check,
            message,
            f"SELECT pg_terminate_backend({row['active_pid']});",
            remedy="stop its consumer, which may reconnect after this",
        )
    return Finding.ok(check, f"slot {name} is there and keeps {size(row['retained'] or 0)} of WAL")


def _free(slots: Sequence[dict[str, Any]], server: Server) -> Finding:
    check = "free replication slots"
    free = server.max_replication_slots - server.replication_slots
    message = f"{max(free, 0)} of {server.max_replication_slots} replication slots are free"
    if free > 0:
        return Finding.ok(check, message)
    return Finding.problem(
        check,
        message,
        f"ALTER SYSTEM SET max_replication_slots = {server.max_replication_slots + 10};",
        *(_drop(row["name"]) for row in slots if row["active_pid"] is None),
        remedy="restart PostgreSQL after the first, or drop a slot that nobody needs",
    )


def _transaction(row: dict[str, Any]) -> Finding:
    check, age = "long transactions", row["age"]
    if row["gid"] is None:
        return Finding.warning(
            check,
            f"a transaction of PID {row['pid']} has been running for {age} s: the creation of a "
            "slot waits for it",
            f"SELECT pg_terminate_backend({row['pid']});",
        )
    gid = quote_literal(row["gid"])
    return Finding.warning(
        check,
        f"transaction {gid} has been prepared for {age} s: the creation of a slot waits for it",
        f"COMMIT PREPARED {gid};",
        f"ROLLBACK PREPARED {gid};",
        remedy="run one of these, in its database",
    )


def _others(slots: Sequence[dict[str, Any]], slot: str | None) -> Iterator[Finding]:
    by_name = {row["name"]: row for row in slots}
    for row in slots:
        if row["name"] == slot or row["active_pid"] is not None:
            continue
        main = row["name"].removesuffix(_SECOND)
        is_second = main != row["name"] and row["plugin"] == "pgoutput"
        if is_second and main not in by_name:
            message = (
                f"is left over from replay, whose slot {main} is not there any more, and keeps "
                f"{size(row['retained'] or 0)} of WAL"
            )
        elif is_second and by_name[main]["active_pid"] is not None and row["wal_status"] != "lost":
            # realtime_server keeps it behind on purpose, and bounds what it keeps.
            continue
        elif row["wal_status"] == "lost":
            message = "is lost and only takes up one of max_replication_slots"
        elif (row["retained"] or 0) > _MUCH:
            message = f"is read by nobody and keeps {size(row['retained'])} of WAL"
        else:
            continue
        yield Finding.warning(
            "other slots",
            f"slot {row['name']} {message}",
            _drop(row["name"]),
            remedy="drop it if its consumer does not come back",
        )
