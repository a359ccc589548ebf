"""SnapshotSlot: the session that exports a snapshot, and keeps the temporary slot behind it.

PostgreSQL drops the slot with the session, and with it the WAL behind the snapshot. Nothing is sent
on the session for as long as the tables are copied, so its socket is watched: a snapshot whose slot
is gone is copied for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import psycopg
from psycopg.pq import ConnStatus

from ..errors import ConnectionLostError
from ..lsn import LSN
from ._plugin import PluginFacts
from ._sessions import ReplicationSession
from ._slot_checks import log_when_slow
from .stream_options import StreamSettings

__all__ = ["SnapshotSlot"]

_NOTHING: Final = b"SELECT 1"


class SnapshotSlot:
    """A temporary slot, and the snapshot at its consistent point.

    Args:
        session: the session that has exported the snapshot.
        lsn: the slot's consistent point.
        snapshot: the name of the snapshot.
    """

    def __init__(self, session: ReplicationSession, lsn: LSN, snapshot: str) -> None:
        self.lsn = lsn
        """The slot's consistent point."""
        self.snapshot = snapshot
        """The name of the snapshot, for ``SET TRANSACTION SNAPSHOT``."""
        self._session = session
        # What the server has said last without having been asked.
        self._notice = "it was closed"
        # The socket that is watched. libpq closes it when the connection is lost.
        self._socket = session.sql.pgconn.socket
        # Called when the slot is gone; None while nobody watches.
        self._lost: Callable[[ConnectionLostError], None] | None = None

    @classmethod
    async def make(cls, settings: StreamSettings, plugin: PluginFacts, name: str) -> SnapshotSlot:
        """Connect, create the slot and export the snapshot.

        Args:
            settings: the source's settings.
            plugin: the output plugin.
            name: the slot's name.

        Raises:
            SourceError: if that fails.
        """
        session = await ReplicationSession.connect(
            settings.dsn,
            name,
            # It is idle for as long as the copy takes.
            settings={**plugin.session_settings, "idle_session_timeout": "0"},
            names=settings.setting_names,
        )
        try:
            lsn, snapshot = await log_when_slow(
                session.export_snapshot(plugin.name), dsn=settings.dsn, name=name, pid=session.pid
            )
        except BaseException:
            session.close()
            raise
        return cls(session, lsn, snapshot)

    async def release(self, lost: Callable[[ConnectionLostError], None]) -> None:
        """End the transaction that exports the snapshot: whoever needs it has it by now.

        It would hold back VACUUM until the slot is dropped.

        Args:
            lost: called once if the session is lost, and so the slot.
        """
        await self._session.sql.execute(_NOTHING)
        self._lost = lost
        self._session.sql.add_notice_handler(self._note)
        asyncio.get_running_loop().add_reader(self._socket, self._on_readable)

    def _note(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        self._notice = diagnostic.message_primary or self._notice

    def _on_readable(self) -> None:
        """Take what the server sends: a changed setting, or why it ends the session."""
        pgconn = self._session.sql.pgconn
        try:
            pgconn.consume_input()
            pgconn.is_busy()
        except psycopg.OperationalError:
            pass
        if pgconn.status == ConnStatus.BAD:
            lost = self._lost
            self.close()
            if lost is not None:
                lost(
                    ConnectionLostError(
                        "the session with the snapshot's temporary slot has ended "
                        f"({self._notice}); PostgreSQL ends it, too, if WAL beyond "
                        "max_slot_wal_keep_size was written since the snapshot"
                    )
                )

    def close(self) -> None:
        """Close the session; PostgreSQL then drops the slot."""
        if self._lost is not None:
            self._lost = None
            asyncio.get_running_loop().remove_reader(self._socket)
        self._session.close()
