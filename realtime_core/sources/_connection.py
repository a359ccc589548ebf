"""ReplicationConnection: the only place that touches libpq's connection directly.

psycopg has no replication cursor, and its waiting functions answer a cancellation by
cancelling the server's command, which would end the stream. So commands go through
psycopg, and the stream is read here: when the socket is readable, libpq takes what is
there and hands out whole CopyData messages, and a reader is woken when it is worth its while
(:mod:`~realtime_core.sources._arrivals`). A cancelled read has taken nothing.

``psycopg.generators`` is not a documented interface; the integration tests hold it to
what this module needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, generators
from psycopg.pq import ExecStatus

from ..changes import GapReason
from ..errors import ConnectionLostError, SlotLostError, SourceError
from ..lsn import LSN
from ..replication import commands
from ._arrivals import Arrivals, GoesOn
from ._errors import translate
from ._prompt import PromptFuture
from ._sessions import ReplicationSession

__all__ = ["ReplicationConnection"]

logger = logging.getLogger("realtime.source")

_PATIENCE: Final = 0.2
"""Seconds in which a server that is not amid a large transaction has ended its stream."""
# How to know "skipped loading publication" in any language; other warnings share its SQLSTATE.
_SKIPPED_PUBLICATION: Final = ("55000", "pgoutput.c")


class ReplicationConnection(ReplicationSession):
    """A session that streams: SQL and commands first, then the stream."""

    def __init__(self, connection: AsyncConnection[Any], slot: str) -> None:
        super().__init__(connection, slot)
        self._pgconn = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._ready: PromptFuture | None = None
        # The socket that the loop watches for us: to begin and to end that for each wait would
        # take as long as what comes.
        self._watched: int | None = None
        self._writing = False
        # Whether libpq may hold what was not taken yet, and whether nothing more will come.
        self._may_hold = True
        self._is_over = False
        # What went wrong while the socket was read, to be raised behind what came before it.
        self._failure: psycopg.Error | None = None
        # How the stream was started, and the last status update.
        self._command = b""
        self._last_sent = b""
        # PostgreSQL 18's warning that it skips a publication, where that ends the stream.
        self._skipped: str | None = None
        self._may_skip = False
        self._arrivals = Arrivals(self._wake)
        self._encrypted = self._pgconn.ssl_in_use or self._pgconn.used_gssapi
        connection.add_notice_handler(self._notice)

    async def start(
        self,
        start: LSN,
        options: dict[str, str],
        goes_on: GoesOn | None = None,
        *,
        may_skip: bool = False,
    ) -> None:
        """Begin to stream. From now on only :meth:`read`, :meth:`send`, :meth:`stop`.

        Args:
            start: from where.
            options: the output plugin's.
            goes_on: says of a message whether more of its transaction is about to come, for
                which a read waits a moment; None: it does not wait.
            may_skip: whether PostgreSQL 18 may leave out what it finds no publication for. If
                not, that ends the stream, as it does before PostgreSQL 18.

        Raises:
            SourceError: if the server refuses, saying why.
        """
        self._arrivals.goes_on = goes_on
        self._may_skip = may_skip
        self._command = commands.start_replication(self._slot, start, options).encode()
        await self._start()

    async def _start(self) -> None:
        try:
            self._pgconn.send_query(self._command)
            results = await self.sql.wait(generators.execute(self._pgconn))
        except psycopg.Error as exc:
            raise translate(exc, self._slot) from exc
        if results[-1].status != ExecStatus.COPY_BOTH:
            raise translate(psycopg.errors.error_from_result(results[-1]), self._slot)

    async def read(self) -> list[memoryview]:
        """Return the CopyData payloads that came, at least one, small transactions whole.

        Cancelling it loses nothing.

        Raises:
            SourceError: when the stream ended, saying why.
        """
        arrivals = self._arrivals
        while True:
            if self._may_hold:
                # An earlier read of the socket may have brought it, and then the socket will not
                # wake us for it.
                self._take()
            if arrivals.is_due:
                payloads = arrivals.take()
                if payloads:
                    return payloads
                self._raise_end()
            await self._readable()

    def _take(self) -> None:
        """Take what libpq holds, unless there is enough to be read."""
        arrivals = self._arrivals
        if arrivals.is_due:
            arrivals.hurry()
            return
        payloads, get_copy_data = arrivals.payloads, self._pgconn.get_copy_data
        try:
            while not self._is_over:
                size, data = get_copy_data(1)
                if self._skipped is not None:
                    # That came on the way to this payload, which lies behind the gap.
                    self._is_over = size < 0
                    break
                if size > 0:
                    payloads.append(data)
                elif size == 0 and self._failure is None:
                    self._may_hold = False
                    if payloads:
                        arrivals.look()
                    return
                else:
                    # libpq says so only once, and what came before it goes out first.
                    self._is_over = True
        except psycopg.Error as exc:
            self._is_over, self._failure = True, exc
        arrivals.hurry()

    def _raise_end(self) -> None:
        """Say why nothing will come, unless that is still on its way."""
        if self._skipped is not None:
            raise SlotLostError(
                self._slot,
                f"PostgreSQL leaves changes out: {self._skipped}",
                GapReason.SLOT_OLDER_THAN_PUBLICATION,
            )
        if self._failure is not None:
            raise translate(self._failure, self._slot) from self._failure
        try:
            # get_result() would block for it.
            if self._pgconn.is_busy():
                return
            result = self._pgconn.get_result()
        except psycopg.Error as exc:
            raise translate(exc, self._slot) from exc
        if result is not None and result.status == ExecStatus.FATAL_ERROR:
            raise translate(psycopg.errors.error_from_result(result), self._slot)
        raise ConnectionLostError("the server ended the stream: it is probably shutting down")

    async def _readable(self) -> None:
        """Wait until libpq has taken something from the socket."""
        try:
            descriptor = self._pgconn.socket
        except psycopg.Error as exc:
            raise translate(exc, self._slot) from exc
        self._ready = ready = PromptFuture(loop=self._loop)
        if self._watched is None:
            self._loop.add_reader(descriptor, self._on_readable)
            self._watched = descriptor
        try:
            await ready
        finally:
            self._ready = None

    def _on_readable(self) -> None:
        if self._ready is None:
            # Nobody waits. What comes stays in the socket, and holds the server back.
            self._unwatch()
            return
        try:
            # At once, or the loop would find the socket readable again before we are resumed.
            self._pgconn.consume_input()
            if self._encrypted:
                # The encrypting library may hold bytes that make no socket readable.
                self._pgconn.consume_input()
        except psycopg.Error as exc:
            self._failure = exc
        self._may_hold = True
        self._take()

    def _wake(self) -> None:
        if self._ready is not None:
            self._ready.resume()

    def _unwatch(self) -> None:
        if self._watched is not None:
            self._loop.remove_reader(self._watched)
            self._watched = None

    @property
    def waiting(self) -> bool:
        """Whether a :meth:`read` waits for the socket."""
        return self._ready is not None

    def send(self, payload: bytes) -> None:
        """Queue a status update and send what the socket takes.

        A dead socket is read()'s news.
        """
        self._last_sent = payload
        try:
            self._pgconn.put_copy_data(payload)
            self._flush()
        except psycopg.Error:
            self._stop_writing()

    def _flush(self) -> None:
        # While the socket takes nothing, libpq reads from it.
        self._may_hold = True
        try:
            done = self._pgconn.flush() == 0
        except psycopg.Error:
            done = True
        if done:
            self._stop_writing()
        elif not self._writing:
            self._loop.add_writer(self._pgconn.socket, self._flush)
            self._writing = True

    def _stop_writing(self) -> None:
        if self._writing:
            self._loop.remove_writer(self._pgconn.socket)
            self._writing = False

    def interrupt(self, reason: str) -> None:
        """End a :meth:`read` that waits, with a :exc:`ConnectionLostError`."""
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(ConnectionLostError(reason))

    def abort(self) -> None:
        """Let whatever waits for this connection find it broken."""
        with contextlib.suppress(psycopg.Error, OSError):
            descriptor = os.dup(self._pgconn.socket)
            with socket.socket(fileno=descriptor) as twin:
                twin.shutdown(socket.SHUT_RDWR)

    async def stop(self, within: float) -> None:
        """End the stream in good order, so that the slot is free when this returns.

        Past ``within`` seconds the connection is just closed.
        """
        try:
            async with asyncio.timeout(within):
                try:
                    async with asyncio.timeout(_PATIENCE):
                        await self._end_copy()
                except TimeoutError:
                    await self._break_off()
        except (psycopg.Error, TimeoutError, SourceError):
            pass
        finally:
            self.close()

    async def _end_copy(self) -> None:
        """Say that we are done, and read until the server is, too."""
        self._pgconn.put_copy_end()
        self._flush()
        await self._drain()

    async def _drain(self) -> None:
        """Read to the end of the stream, whatever ended it."""
        self._may_skip, self._skipped = True, None
        with contextlib.suppress(SourceError):
            while True:
                await self.read()

    async def _break_off(self) -> None:
        """End a stream whose server is amid a transaction, all of which it would send first.

        It may not have read our last status update by then. So it streams again, and finds that
        before it looks for something to send.
        """
        await self.sql.cancel_safe()
        await self._drain()
        while True:
            if self._pgconn.is_busy():
                await self._readable()
            elif self._pgconn.get_result() is None:
                break
        # psycopg watches the socket itself now.
        self._unwatch()
        self._stop_writing()
        self._is_over, self._failure = False, None
        self._arrivals.take()
        await self._start()
        self.send(self._last_sent)
        await self._end_copy()

    def close(self) -> None:
        """Close the connection at once."""
        self._stop_writing()
        self._unwatch()
        self._arrivals.close()
        super().close()

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized != "WARNING":
            return
        logger.warning("PostgreSQL warns: %s", notice.message_primary)
        is_skipped = (notice.sqlstate, notice.source_file) == _SKIPPED_PUBLICATION
        if is_skipped and not self._may_skip:
            self._skipped = notice.message_primary
