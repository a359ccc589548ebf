"""StoredMessages: reads what was broadcast in a private room lately, from ``realtime.messages``.

The server's role reads it, which policies do not bind: whether a client may have it is decided
before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

import psycopg
from psycopg_pool import PoolTimeout

from ..config.database.connections import Connections, Dsn, brief
from ..fanout.recent_commits import RecentCommits
from ..logs import LineLimit
from ..phoenix.binary import MAX_NAME_BYTES
from ..phoenix.broadcasts import Broadcast
from ..phoenix.joins import ReplayConfig
from ..phoenix.messages import CHANNEL_PREFIX
from ..rls.lookup.commit_visibility import until_settled

__all__ = ["StoredMessages"]

logger = logging.getLogger("realtime.messages")

_CONNECTIONS: Final = 2
_WAITING: Final = 100
"""Reads that may wait for a connection."""
_WITHIN: Final = 2.0
"""Seconds that a read may wait, and then take."""
_VISIBLE_WITHIN: Final = 2.0
"""Seconds that a read may wait for what members have got, until the database shows it."""
_SILENT: Final = 2.5
"""Seconds after which nobody is there that would end a read which takes too long."""

# What is too large may be hundreds of megabytes, and is not fetched. Ties are by insertion. The
# rows that policies are tried with are older than all that is stored. A client's clock may be a
# little ahead; what is of a later day would be the newest for good.
_READ: Final = """
    SELECT m.event, m.payload::text, m.binary_payload, m.id::text
    FROM realtime.messages m
    WHERE m.topic = %(topic)s AND m.extension = 'broadcast' AND m.private AND m.event IS NOT NULL
        AND m.inserted_at >= greatest(
            pg_catalog.timezone('utc', pg_catalog.to_timestamp(%(since)s)), '2000-01-01'
        )
        AND m.inserted_at <= pg_catalog.timezone('utc', pg_catalog.now() + interval '1 minute')
        AND (
            m.expires_at IS NULL
            OR m.expires_at > pg_catalog.timezone('utc', pg_catalog.clock_timestamp())
        )
        AND (m.binary_payload IS NULL OR %(bytes)s)
        AND pg_catalog.octet_length(m.event) + coalesce(
            pg_catalog.octet_length(m.binary_payload), pg_catalog.octet_length(m.payload::text), 2
        ) <= %(most)s
    ORDER BY m.inserted_at DESC, m.tableoid DESC, m.ctid DESC
    LIMIT %(limit)s
"""


class StoredMessages:
    """Reads messages, while it is open as a context manager.

    Args:
        dsn: returns the connection string, with the server's role.
        max_payload_bytes: of a payload (MAX_PAYLOAD_BYTES); what is larger is never sent.
        commits: of which transactions members have got messages lately, which a read has to see;
            None: of none ever.
    """

    def __init__(self, dsn: Dsn, *, max_payload_bytes: int, commits: RecentCommits | None) -> None:
        milliseconds = round(_WITHIN * 1000)
        self._connections = Connections(
            dsn,
            name="stored messages",
            size=_CONNECTIONS,
            settings="SET search_path TO pg_catalog, pg_temp; SET jit = off;"
            f"SET statement_timeout = {milliseconds}; SET lock_timeout = {milliseconds}",
        )
        self._max_payload_bytes = max_payload_bytes
        self._commits = commits
        self._waiting = 0
        self._lines = LineLimit()

    async def __aenter__(self) -> Self:
        """Open the pool of connections; it connects when it is needed."""
        await self._connections.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connections.__aexit__(exc_type, exc, traceback)

    async def read(
        self, topic: str, wanted: ReplayConfig, *, takes_bytes: bool
    ) -> list[Broadcast] | None:
        """Read the newest messages of a private room.

        Args:
            topic: of the room, without ``realtime:``.
            wanted: since when, and how many.
            takes_bytes: whether to read those whose payload is bytes, too.

        Returns:
            The messages, oldest first; None if they cannot be read now, or lack what members have
            got already.
        """
        if self._waiting >= _WAITING:
            return None
        self._waiting += 1
        try:
            for left in reversed(range(_CONNECTIONS + 1)):
                try:
                    return await self._read(topic, wanted, takes_bytes)
                except PoolTimeout:
                    # Others take their time; to wait once more would be to queue behind them.
                    self._tell("no connection is free in time")
                    break
                except psycopg.OperationalError as exc:
                    # After a restart of PostgreSQL the connections of the pool are broken, and
                    # where the database has moved nobody answers on them.
                    if not left:
                        self._tell(brief(exc))
        except psycopg.Error as exc:
            self._tell(brief(exc))
        finally:
            self._waiting -= 1
        return None

    async def _read(
        self, topic: str, wanted: ReplayConfig, takes_bytes: bool
    ) -> list[Broadcast] | None:
        parameters = {
            "topic": topic,
            "since": wanted.since / 1000,
            "limit": wanted.limit,
            "bytes": takes_bytes,
            "most": self._max_payload_bytes,
        }
        async with self._connections.one(within=_WITHIN) as connection:
            if not await self._shows_what_members_have(connection):
                return None
            with _cut_if_silent(connection):
                cursor = await connection.execute(_READ, parameters)
                rows = await cursor.fetchall()
        found = []
        for event, payload, binary, id_ in reversed(rows):
            content = (payload or "{}").encode() if binary is None else binary
            broadcast = Broadcast(event, content, binary is None, b'{"id":"%b"}' % id_.encode())
            # What the stream does not bring either.
            if broadcast.size <= self._max_payload_bytes and (
                broadcast.is_json or _fits(event, CHANNEL_PREFIX + topic)
            ):
                found.append(broadcast)
        return found

    async def _shows_what_members_have(self, connection: psycopg.AsyncConnection[Any]) -> bool:
        """Wait until queries see all that members have got; return whether they do in time."""
        if self._commits is None or not (xids := self._commits.xids()):
            return True
        try:
            with _cut_if_silent(connection):
                async with asyncio.timeout(_VISIBLE_WITHIN):
                    await until_settled(connection, xids)
        except TimeoutError:
            self._tell(
                "queries do not see yet what members have got; PostgreSQL may wait for a "
                "synchronous standby (synchronous_standby_names)"
            )
            return False
        self._commits.settle(xids)
        return True

    def _tell(self, problem: str) -> None:
        if self._lines.take() is not None:
            logger.warning("stored messages cannot be read: %s", problem)


def _fits(*names: str) -> bool:
    """Return whether a binary frame can have these names."""
    return all(len(name.encode()) <= MAX_NAME_BYTES for name in names)


@contextlib.contextmanager
def _cut_if_silent(connection: psycopg.AsyncConnection[Any]) -> Iterator[None]:
    """Have what waits for an answer on a connection end after a while."""
    timer = asyncio.get_running_loop().call_later(_SILENT, _cut, connection)
    try:
        yield
    finally:
        timer.cancel()


def _cut(connection: psycopg.AsyncConnection[Any]) -> None:
    """End what waits for an answer on a connection. To cancel it would wait for an answer, too."""
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as same,
    ):
        same.shutdown(socket.SHUT_RDWR)
