"""Sessions: connections to the database, and the settings that they are opened with.

The session's settings decide how PostgreSQL writes values as text, so every connection that streams
pins them. There is a connection that takes replication commands, and one for SQL beside the stream.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Self

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection
from psycopg.pq.abc import PGconn

from ..errors import SourceError
from ..lsn import LSN
from ..replication import commands
from . import catalog
from ._dsn import parse_dsn
from ._postgres_errors import translate
from .failures import connection_failed
from .stream_options import Dsn

__all__ = [
    "ReplicationSession",
    "break_off",
    "copying_connection",
    "plain_connection",
    "stream_parameters",
]

# These settings decide how values are written as text, so they must not be left to the user's
# settings. Warnings have to come, because PostgreSQL 18 reports by one that it skips a publication.
_PINNED: Final = {
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "timezone": "UTC",
    "bytea_output": "hex",
    "client_min_messages": "warning",
}

# Keepalive probes detect a server that is gone while nothing is sent. The timeout in milliseconds
# detects one that does not confirm the status updates which are sent every few seconds.
_NOTICE_A_LOST_PEER: Final = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "tcp_user_timeout": 60_000,
}


async def _current(dsn: Dsn) -> str:
    """Return the connection string; call ``dsn`` for it if it is a function."""
    return dsn if isinstance(dsn, str) else await dsn()


def _parameters(dsn: str) -> dict[str, Any]:
    try:
        parameters = parse_dsn(dsn)
    except ValueError as exc:
        raise SourceError(str(exc)) from None
    parameters["client_encoding"] = "UTF8"
    for name, value in _NOTICE_A_LOST_PEER.items():
        parameters.setdefault(name, value)
    if "PGCONNECT_TIMEOUT" not in os.environ:
        parameters.setdefault("connect_timeout", 10)
    return parameters


def stream_parameters(
    dsn: str, *, sender_timeout: float | None = None, more: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the parameters of a connection that streams, with the pinned settings.

    The user's own ``options`` (or PGOPTIONS) are kept, and stand before the pinned ones: of two
    values for a setting PostgreSQL takes the last one.

    Args:
        dsn: the connection string.
        sender_timeout: ``wal_sender_timeout`` for this connection, in seconds.
        more: settings that are pinned besides.

    Raises:
        SourceError: if ``dsn`` is not a connection string.
    """
    parameters = _parameters(dsn)
    settings = {**_PINNED, **(more or {})}
    if sender_timeout is not None:
        settings["wal_sender_timeout"] = f"{round(sender_timeout * 1000)}ms"
    own = " ".join(f"-c {name}={value}" for name, value in settings.items())
    theirs = parameters.get("options") or os.environ.get("PGOPTIONS", "")
    parameters["options"] = f"{theirs} {own}".strip()
    parameters["replication"] = "database"
    return parameters


def break_off(connection: PGconn) -> None:
    """Break a connection, so that every call that waits for it fails."""
    with contextlib.suppress(psycopg.Error, OSError):
        descriptor = os.dup(connection.socket)
        with socket.socket(fileno=descriptor) as twin:
            twin.shutdown(socket.SHUT_RDWR)


@contextlib.asynccontextmanager
async def plain_connection(
    dsn: Dsn, slot: str, *, names: Mapping[str, str] | None = None
) -> AsyncIterator[AsyncConnection[Any]]:
    """Open a connection for SQL, which does not stream.

    Args:
        dsn: the connection string, or a function that returns it.
        slot: name of the slot that the SQL is about, for errors.
        names: what the application calls libpq's parameters, for errors.

    Raises:
        SourceError: if the connection cannot be opened, or if psycopg raises an error inside of
            the ``async with`` block.
    """
    text = await _current(dsn)
    try:
        connection = await AsyncConnection.connect(**_parameters(text), autocommit=True)
    except psycopg.Error as exc:
        raise connection_failed(exc, names) from exc
    async with connection:
        try:
            yield connection
        except psycopg.Error as exc:
            raise translate(exc, slot) from exc


# These settings would break off a copy that takes long, and older servers do not know all of them.
_NO_TIMEOUTS: Final = """
    SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
    WHERE name OPERATOR(pg_catalog.=) ANY (ARRAY['statement_timeout', 'transaction_timeout',
        'idle_in_transaction_session_timeout', 'idle_session_timeout', 'lock_timeout'])
"""


async def copying_connection(
    dsn: Dsn, *, settings: Mapping[str, str], names: Mapping[str, str] | None
) -> AsyncConnection[Any]:
    """Open a connection for SQL that writes values as the stream does.

    Args:
        dsn: the connection string, or a function that returns it.
        settings: settings of the session, which the output plugin needs.
        names: what the application calls libpq's parameters, for errors.

    Raises:
        SourceError: if the connection cannot be opened.
    """
    # Where row level security would leave rows out, there is an error.
    # Compiling a query over the catalogs takes longer than running it.
    own = {**settings, "row_security": "off", "jit": "off"}
    parameters = stream_parameters(await _current(dsn), more=own)
    del parameters["replication"]
    try:
        connection = await AsyncConnection.connect(**parameters, autocommit=True)
    except psycopg.Error as exc:
        raise connection_failed(exc, names) from exc
    try:
        await connection.execute(_NO_TIMEOUTS)
    except BaseException:
        connection.pgconn.finish()
        raise
    return connection


class ReplicationSession:
    """A connection in replication mode, which takes SQL and replication commands.

    Args:
        connection: an open connection in replication mode.
        slot: name of the slot that the commands are about.
    """

    def __init__(self, connection: AsyncConnection[Any], slot: str) -> None:
        self.sql = connection
        """The connection as psycopg knows it, for SQL before the stream is started."""
        self.pid = connection.pgconn.backend_pid
        """Process ID of the walsender."""
        self._slot = slot

    @classmethod
    async def connect(
        cls,
        dsn: Dsn,
        slot: str,
        *,
        sender_timeout: float | None = None,
        settings: Mapping[str, str] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> Self:
        """Open a connection in replication mode.

        Args:
            dsn: the connection string, or a function that returns it.
            slot: name of the slot.
            sender_timeout: ``wal_sender_timeout`` for this connection, in seconds.
            settings: more settings of the session, which the output plugin needs.
            names: what the application calls libpq's parameters, for errors.

        Raises:
            SourceError: if the connection cannot be opened, saying why.
        """
        text = await _current(dsn)
        try:
            connection = await AsyncConnection.connect(
                **stream_parameters(text, sender_timeout=sender_timeout, more=settings),
                autocommit=True,
                # In replication mode PostgreSQL takes the simple query protocol only.
                cursor_factory=AsyncClientCursor,
            )
        except psycopg.Error as exc:
            raise connection_failed(exc, names) from exc
        return cls(connection, slot)

    async def identify_system(self) -> tuple[int, int]:
        """Return the cluster's system identifier and its timeline."""
        row = await self._one_row("IDENTIFY_SYSTEM")
        return int(row[0]), int(row[1])

    async def timeline_history(self, timeline: int) -> str:
        """Return the text of a timeline's history file."""
        row = await self._one_row(commands.timeline_history(timeline))
        content = row[1]
        return content.decode() if isinstance(content, bytes) else str(content)

    async def create_slot(self, plugin: str, *, temporary: bool, failover: bool) -> LSN:
        """Create the slot; return its consistent point, the LSN from which it streams."""
        row = await self._one_row(
            commands.create_slot(self._slot, plugin=plugin, temporary=temporary, failover=failover)
        )
        return LSN.parse(row[1])

    async def export_snapshot(self, plugin: str) -> tuple[LSN, str]:
        """Create the slot as a temporary one; return its consistent point, and a snapshot's name.

        Transactions may use the snapshot until the next command of this session.
        """
        row = await self._one_row(commands.export_snapshot(self._slot, plugin=plugin))
        return LSN.parse(row[1]), row[2]

    async def copy_slot(self, source: str, *, temporary: bool, failover: bool) -> LSN:
        """Create the slot as a copy of another one; return the LSN from which it streams."""
        copy = "SELECT pg_catalog.pg_copy_logical_replication_slot({}, {}, {})"
        names = map(commands.quote_literal, (source, self._slot))
        await self._execute(copy.format(*names, "true" if temporary else "false"))
        status = await catalog.slot(self.sql, self._slot)
        assert status is not None
        if failover:
            await self.set_failover()
        return status.confirmed_flush_lsn

    async def set_failover(self) -> None:
        """Let standbys keep a copy of the slot."""
        await self._execute(commands.set_failover(self._slot))

    async def drop_slot(self) -> None:
        """Drop the slot."""
        await self._execute(commands.drop_replication_slot(self._slot))

    def close(self) -> None:
        """Close the connection at once."""
        self.sql.pgconn.finish()

    async def _one_row(self, command: str) -> Any:
        return await (await self._execute(command)).fetchone()

    async def _execute(self, command: str) -> psycopg.AsyncCursor[Any]:
        try:
            return await self.sql.execute(command.encode())
        except psycopg.Error as exc:
            raise translate(exc, self._slot) from exc
