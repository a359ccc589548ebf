"""ReplicationConnection: reads a replication stream from libpq, and writes status updates to it.

psycopg has no cursor for replication, and its waiting functions answer a cancellation by
cancelling the server's command, which would end the stream. So SQL and commands go through
psycopg, but the stream is read here: when the socket is readable, libpq takes the bytes that have
come and hands out whole CopyData messages. The reader is woken when enough of them have come (see
:mod:`~realtime_core.sources._arrivals`). A read that is cancelled has taken nothing.

``psycopg.generators`` is not a documented interface of psycopg; the integration tests show whether
it still does what this module needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, generators
from psycopg.pq import ExecStatus

from ..changes import GapReason
from ..errors import ConnectionLostError, SlotLostError, SourceError
from ..lsn import LSN
from ..replication import commands
from ..replication.protocol import Payload
from ._arrivals import Arrivals, ExpectsMore
from ._copy_data import taker
from ._postgres_errors import translate
from ._sessions import ReplicationSession, break_off
from .prompt_future import PromptFuture

__all__ = ["ReplicationConnection"]

logger = logging.getLogger("realtime.source")

_PATIENCE: Final = 0.2
"""Seconds that a server needs at most to end its stream, unless it is sending a large
transaction."""
# SQLSTATE and source file of the warning "skipped loading publication", which are the same in any
# language. Other warnings have the same SQLSTATE.
_SKIPPED_PUBLICATION: Final = ("55000", "pgoutput.c")


class ReplicationConnection(ReplicationSession):
    """A session that takes SQL and commands first, and streams after :meth:`start`.

    Args:
        connection: an open connection in replication mode.
        slot: name of the slot, for commands and for errors.
    """

    def __init__(self, connection: AsyncConnection[Any], slot: str) -> None:
        super().__init__(connection, slot)
        # libpq's connection.
        self._pgconn = connection.pgconn
        self._loop = asyncio.get_running_loop()
        # The future that a read waits for; None while no read waits.
        self._ready: PromptFuture | None = None
        # The socket's file descriptor while the event loop watches whether it is readable. To
        # start and to stop watching for each wait would take as long as handling a message.
        self._watched: int | None = None
        # Whether the event loop watches whether the socket takes more bytes.
        self._writing = False
        # Whether libpq may have messages that were not taken yet.
        self._may_hold = True
        # Whether no more messages will come.
        self._is_over = False
        # The error that reading the socket has ended with. It is raised after the messages that
        # came before it have been read.
        self._failure: psycopg.Error | None = None
        # The command that has started the stream.
        self._command = b""
        # The last status update.
        self._last_sent = b""
        # The text of PostgreSQL 18's warning that it skips a publication, if it ends the stream.
        self._skipped: str | None = None
        # How many payloads waited to be read when that warning came.
        self._before_skipped = 0
        # Whether that warning does not end the stream.
        self._ignores_missing_publications = False
        # Takes the messages that have come out of libpq.
        self._take_copy_data = taker(self._pgconn)
        # The messages that no read has returned yet.
        self._arrivals = Arrivals(self._wake)
        # Whether the bytes of the socket are encrypted.
        self._encrypted = self._pgconn.ssl_in_use or self._pgconn.used_gssapi
        connection.add_notice_handler(self._notice)

    async def start(
        self,
        start: LSN,
        options: dict[str, str],
        expects_more: ExpectsMore | None = None,
        *,
        ignores_missing_publications: bool = False,
    ) -> None:
        """Start the stream. From then on only use :meth:`read`, :meth:`send` and :meth:`stop`.

        Args:
            start: the LSN to stream from.
            options: the output plugin's options.
            expects_more: takes a message and returns whether more of its transaction is about to
                come; a read then waits a moment for that. None if a read shall never wait.
            ignores_missing_publications: whether PostgreSQL 18 may leave out changes for which it
                finds no publication. If not, that ends the stream, as in older versions.

        Raises:
            SourceError: if the server refuses, saying why.
        """
        self._arrivals.expects_more = expects_more
        self._ignores_missing_publications = ignores_missing_publications
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

    async def read(self) -> list[Payload]:
        """Wait for CopyData payloads, and return those that have come: at least one.

        Small transactions are returned as a whole. Cancelling a read loses nothing.

        Raises:
            SourceError: if the stream has ended, saying why.
        """
        arrivals = self._arrivals
        while True:
            if self._may_hold:
                # libpq may have read these messages from the socket before, and then the socket
                # does not become readable for them.
                self._take()
            if arrivals.is_due:
                payloads = arrivals.take()
                if payloads:
                    return payloads
                self._raise_end()
            await self._readable()

    def _take(self) -> None:
        """Take the messages that libpq has, unless enough of them wait to be read."""
        arrivals = self._arrivals
        if arrivals.is_due:
            arrivals.hurry()
            return
        payloads = arrivals.payloads
        if self._skipped is not None:
            self._before_skipped = len(payloads)
        try:
            status = -1 if self._is_over else self._take_copy_data(payloads, sys.maxsize)
        except psycopg.Error as exc:
            self._is_over, self._failure = True, exc
        else:
            if status == 0 and self._failure is None and self._skipped is None:
                self._may_hold = False
                if payloads:
                    arrivals.look()
                return
            # The stream has ended, which libpq reports only once. The payloads that came before are
            # returned first.
            self._is_over = status < 0 or self._failure is not None
        if self._skipped is not None:
            # What came behind the warning lies behind the gap.
            del payloads[self._before_skipped :]
        arrivals.hurry()

    def _raise_end(self) -> None:
        """Raise the reason why the stream has ended; return if that has not come yet."""
        if self._skipped is not None:
            raise SlotLostError(
                self._slot,
                f"PostgreSQL leaves changes out: {self._skipped}",
                GapReason.SLOT_OLDER_THAN_PUBLICATION,
            )
        if self._failure is not None:
            raise translate(self._failure, self._slot) from self._failure
        try:
            # Until libpq has the whole result, get_result() would block.
            if self._pgconn.is_busy():
                return
            result = self._pgconn.get_result()
        except psycopg.Error as exc:
            raise translate(exc, self._slot) from exc
        if result is not None and result.status == ExecStatus.FATAL_ERROR:
            raise translate(psycopg.errors.error_from_result(result), self._slot)
        raise ConnectionLostError("the server ended the stream: it is probably shutting down")

    async def _readable(self) -> None:
        """Wait until there is something to read: payloads, the end of the stream, or an error."""
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
            # No read waits. The bytes stay in the socket, and TCP holds the server back.
            self.unwatch()
            return
        # This must not wait until the reader is resumed, or the event loop would find the socket
        # readable once more.
        self._consume()

    def _consume(self) -> None:
        """Take what has come to the socket."""
        try:
            self._pgconn.consume_input()
            if self._encrypted:
                # The TLS or GSSAPI library may have more bytes, for which the socket does not
                # become readable.
                self._pgconn.consume_input()
        except psycopg.Error as exc:
            self._failure = exc
        self._may_hold = True
        self._take()

    def glance(self) -> bool:
        """Take what has come, without waiting; return whether a read would return it at once."""
        if not self._arrivals.is_due:
            self._consume()
        return self._arrivals.is_due and bool(self._arrivals.payloads)

    def _wake(self) -> None:
        if self._ready is not None:
            self._ready.resume()

    def unwatch(self) -> None:
        """Let the event loop not watch the socket until the next read."""
        if self._watched is not None:
            self._loop.remove_reader(self._watched)
            self._watched = None

    @property
    def waiting(self) -> bool:
        """Whether a :meth:`read` waits for the socket."""
        return self._ready is not None

    def send(self, payload: bytes) -> None:
        """Queue a status update, and write as much as the socket takes.

        Write errors surface in the next :meth:`read`.
        """
        self._last_sent = payload
        try:
            self._pgconn.put_copy_data(payload)
            self._flush()
        except psycopg.Error:
            self._stop_writing()

    def _flush(self) -> None:
        # libpq also reads from the socket while it cannot write to it.
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
        """Break the connection, so that every call that waits for it fails."""
        break_off(self._pgconn)

    async def stop(self, within: float) -> None:
        """End the stream and close the connection; the slot is free when this returns.

        If that takes longer than ``within`` seconds, the connection is just closed.
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
        """Tell the server that the stream shall end, and read until it has ended it."""
        self._pgconn.put_copy_end()
        self._flush()
        await self._drain()

    async def _drain(self) -> None:
        """Read to the end of the stream, and ignore why it has ended."""
        self._ignores_missing_publications, self._skipped = True, None
        with contextlib.suppress(SourceError):
            while True:
                await self.read()

    async def _break_off(self) -> None:
        """End the stream of a server that is sending a large transaction.

        Such a server would first send the transaction to its end, so its command is cancelled. It
        may not have read the last status update by then. So the stream is started once more: the
        server reads that update before it looks for something to send.
        """
        await self.sql.cancel_safe()
        await self._drain()
        while True:
            if self._pgconn.is_busy():
                await self._readable()
            elif self._pgconn.get_result() is None:
                break
        # From here on psycopg watches the socket.
        self.unwatch()
        self._stop_writing()
        self._is_over, self._failure = False, None
        self._arrivals.take()
        await self._start()
        self.send(self._last_sent)
        await self._end_copy()

    def close(self) -> None:
        """Close the connection at once."""
        self._stop_writing()
        self.unwatch()
        self._arrivals.close()
        super().close()

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized != "WARNING":
            return
        logger.warning("PostgreSQL warns: %s", notice.message_primary)
        is_skipped = (notice.sqlstate, notice.source_file) == _SKIPPED_PUBLICATION
        if is_skipped and not self._ignores_missing_publications:
            self._skipped = notice.message_primary
            self._before_skipped = len(self._arrivals.payloads)
