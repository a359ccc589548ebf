"""The registry of RLS mode's channels, which checks joins and keeps ``realtime.subscription``.

The table ``realtime.subscription`` has a row for each channel and table. It is for people who look
at it, and for callers of ``realtime.apply_rls``; the server itself goes by its memory. A row is
written before its join is answered. Each server writes its own rows, marked with its node, and
compares them with its channels at an interval. It also deletes the rows of servers that ended
without deleting them, once their time is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any, Final
from uuid import UUID

import attrs
import psycopg
from psycopg_pool import PoolTimeout

from ..config import OutputPlugin
from ..config.database.connections import Connections, brief
from ..errors import RefusedError, UnavailableError
from ..fanout.cancellation import cancel_within
from ..fanout.subscription_specs import SubscriptionSpec
from ..phoenix.reasons import RlsReason
from .subscription_table import Registration, SubscriptionTable, limit_time
from .viewers import Viewer

__all__ = ["SubscriptionRegistry"]

logger = logging.getLogger("realtime.rls")

_MISSED_SYNCS: Final = 3
"""How many comparisons a server may miss before others delete its rows."""
_RETRY: Final = 1.0
"""After how many seconds a failed comparison is tried again."""
_ATTEMPTS: Final = 3
"""How often a join's rows are tried to be written."""
_PATIENCE: Final = 2.0
"""How many seconds each attempt waits for a connection; clients wait no longer than ten."""


class SubscriptionRegistry:
    """The joined channels of one server, and their rows in ``realtime.subscription``.

    Args:
        connections: a pool of connections with the server's role.
        publications: the publications whose changes are sent.
        plugin: the output plugin that the changes come from.
        node: names the server among others, and among its earlier runs.
        interval: how many seconds there are between two comparisons of rows and channels.
        enum_orders: the labels of enum types in their declared order, by schema and name; kept up
            to date here.
        ignored_claims: the names of claims that no policy reads.
        asks_for_deleted: whether a deleted row is sent to those who could see it, if all of its
            values are known.
        statement_timeout: how many seconds a statement of a join may take.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        publications: Collection[str],
        plugin: OutputPlugin = OutputPlugin.PGOUTPUT,
        node: str,
        interval: float,
        enum_orders: dict[tuple[str, str], tuple[str, ...]],
        ignored_claims: Collection[str] = (),
        asks_for_deleted: bool = False,
        statement_timeout: float = 2.0,
    ) -> None:
        # The pool of connections.
        self._connections = connections
        # The SQL of the server's rows.
        self._table = SubscriptionTable(
            publications=publications,
            plugin=plugin,
            node=node,
            enum_orders=enum_orders,
            asks_for_deleted=asks_for_deleted,
        )
        # Seconds from one comparison of rows and channels to the next.
        self._interval = interval
        # Seconds that a statement of a join may take.
        self._statement_timeout = statement_timeout
        # The names of claims that no policy reads.
        self._ignored = frozenset(ignored_claims)
        # The joined channels, and those whose join is being checked.
        self._registrations: dict[UUID, Registration] = {}
        # The channels that have left, and whose rows are to be deleted.
        self._removed: set[UUID] = set()
        # Wakes the task that deletes rows, and compares them with the channels.
        self._woken = asyncio.Event()
        self.is_quiet = False
        """Whether comparisons, and so queries of the database, pause until a client joins."""

    async def refresh_enum_orders(self) -> None:
        """Read the orders of enum types' labels, for filters.

        Raises:
            psycopg.Error: if the query fails.
        """
        async with self._connections.one() as connection:
            await self._table.refresh_enum_orders(connection)

    async def register(
        self, wants: Sequence[tuple[SubscriptionSpec, ...]], claims: Mapping[str, Any]
    ) -> Registration:
        """Check a join, and write its rows into ``realtime.subscription``.

        Args:
            wants: what the join asks for; for each item, all the ways in which it can be read.
            claims: the claims of the verified token.

        Raises:
            RefusedError: if the join is refused; it says why.
        """
        registration = Registration(tuple(wants), Viewer.of(claims, self._ignored))
        if not wants:
            # It gets no changes, and has no rows: the database need not be asked.
            return registration
        # First, or a comparison would delete its rows as belonging to no channel.
        self._registrations[registration.id] = registration
        try:
            await self._write(registration)
        except BaseException:
            self.remove(registration)
            raise
        return registration

    async def renew(self, registration: Registration, claims: Mapping[str, Any]) -> Viewer:
        """Check a joined channel for the claims of a new token, and write its rows again.

        Returns:
            The channel's viewer from now on. If the channel was removed meanwhile, it is unchanged.

        Raises:
            RefusedError: if the channel is refused with these claims; it says why.
        """
        viewer = Viewer.of(claims, self._ignored)
        if not registration.wants:
            registration.viewer = viewer
        elif viewer is not registration.viewer:
            await self._write(attrs.evolve(registration, viewer=viewer), renewed=True)
            if registration.id in self._registrations:
                registration.viewer = viewer
            else:
                self._removed.add(registration.id)
                self._woken.set()
        return registration.viewer

    def remove(self, registration: Registration) -> None:
        """Forget a channel; its rows are deleted soon."""
        if self._registrations.pop(registration.id, None) is not None:
            self._removed.add(registration.id)
            self._woken.set()

    async def run(self) -> None:
        """Delete the rows of removed channels, and repair rows that differ from the channels; never
        return.

        A server without channels goes on until the rows of a server that was killed would have been
        deleted. Then it makes no queries until a client joins.
        """
        loop = asyncio.get_running_loop()
        due = loop.time()
        in_vain = 0
        while True:
            try:
                # Before the comparison, so that it is done even if each comparison fails.
                await self._delete()
                if loop.time() >= due:
                    await self.refresh_enum_orders()
                    await self._reconcile()
                    due = loop.time() + self._interval
                    in_vain = 0 if self._registrations else in_vain + 1
            except psycopg.Error as exc:
                logger.warning(
                    "the rows of realtime.subscription cannot be kept up to date: %s",
                    brief(exc),
                )
                await asyncio.sleep(_RETRY)
            except Exception:
                logger.exception(
                    "the rows of realtime.subscription cannot be kept up to date "
                    "(a bug in realtime_server: please report it)"
                )
                await asyncio.sleep(self._interval)
            else:
                self.is_quiet = in_vain > _MISSED_SYNCS
                left = None if self.is_quiet else max(due - loop.time(), 0.0)
                try:
                    async with asyncio.timeout(left):
                        await self._woken.wait()
                except TimeoutError:
                    pass
                if self._registrations:
                    in_vain = 0

    async def close(self) -> None:
        """Delete the server's rows, if the database can be reached."""
        deleting = asyncio.create_task(self._delete_own())
        await cancel_within({deleting}, 2 * _RETRY)
        try:
            reason = "the database does not answer" if deleting.cancelled() else deleting.result()
        except psycopg.Error as exc:
            reason = brief(exc)
        if reason is not None:
            logger.warning(
                "rows stay in realtime.subscription until another server removes them: %s", reason
            )

    async def _delete_own(self) -> None:
        async with self._connections.one(within=_RETRY) as connection:
            await self._table.delete_own(connection)

    # Rows.

    async def _write(self, registration: Registration, *, renewed: bool = False) -> None:
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    await self._write_once(registration, renewed)
                    return
                except (psycopg.errors.QueryCanceled, TimeoutError) as exc:
                    raise RefusedError(RlsReason.TOO_SLOW.told()) from exc
                except psycopg.OperationalError as exc:
                    # After a restart of PostgreSQL every connection of the pool is broken.
                    if attempt == _ATTEMPTS - 1 or isinstance(exc, PoolTimeout):
                        raise
        except psycopg.OperationalError as exc:
            raise UnavailableError(RlsReason.UNAVAILABLE.told()) from exc
        except psycopg.Error as exc:
            # From the table's trigger, and from the casts of filters' values.
            raise RefusedError(
                RlsReason.POSTGRES.told(
                    message=f"{exc.diag.message_primary or exc.sqlstate:.1000}"
                ),
                logged=f"the database refuses it ({exc.sqlstate})",
            ) from exc

    async def _write_once(self, registration: Registration, renewed: bool) -> None:
        async with self._connections.one(within=_PATIENCE) as connection:
            pid = connection.info.backend_pid
            try:
                # A type's check that catches the cancellation of its statement would run for ever.
                async with asyncio.timeout(self._statement_timeout * 3), connection.transaction():
                    await limit_time(connection, self._statement_timeout)
                    await self._table.check_role(connection, registration.viewer.role)
                    if self.is_quiet:
                        # Others take this server for ended, and types may have been made since.
                        await self._table.say_alive(connection, self._interval * _MISSED_SYNCS)
                        await self._table.refresh_enum_orders(connection)
                        self._woken.set()
                    rows = await self._table.rows_of(connection, registration)
                    if renewed:
                        await self._table.delete(connection, [registration.id])
                    await self._table.insert(connection, registration, rows)
                return
            except TimeoutError:
                await connection.close()
        await self._connections.terminate(pid)
        raise TimeoutError

    async def _delete(self) -> None:
        self._woken.clear()
        # A channel whose rows are written meanwhile is added again, for the next turn.
        removed, self._removed = self._removed, set()
        if not removed:
            return
        try:
            async with self._connections.one() as connection:
                await self._table.delete(connection, removed)
        except BaseException:
            self._removed |= removed
            raise

    async def _reconcile(self) -> None:
        """Write missing rows, and delete those of no channel and of servers that have ended."""
        left_out: Counter[tuple[str, str, str]] = Counter()
        async with self._connections.one() as connection:
            await self._table.say_alive(connection, self._interval * _MISSED_SYNCS)
            await self._table.delete_dead(connection)
            written = await self._table.written(connection)
            if orphaned := written - self._registrations.keys():
                self._removed |= orphaned
                self._woken.set()
            for registration in list(self._registrations.values()):
                if registration.id in written and not registration.has_wildcard:
                    continue
                try:
                    async with connection.transaction():
                        await limit_time(connection, self._statement_timeout)
                        rows = await self._table.rows_of(connection, registration)
                        await self._table.insert(connection, registration, rows)
                except (RefusedError, psycopg.IntegrityError, psycopg.DataError):
                    # A table, a column or a privilege is gone, so the channel gets no changes.
                    continue
                except psycopg.Error as exc:
                    # A type's check can raise any SQLSTATE, also those of OperationalError.
                    if connection.closed:
                        raise
                    tables = ", ".join(map(str, chain(*registration.wants)))
                    left_out[registration.viewer.role, tables, _why(exc)] += 1
        for (role, tables, why), count in left_out.items():
            logger.warning(
                "subscriptions to %s are not in realtime.subscription (%d of them), because %s",
                tables,
                count,
                why,
            )
            logger.debug("the role is %s", role)


def _why(exc: psycopg.Error) -> str:
    """Return why a row cannot be written, without the values that the error may quote."""
    if isinstance(exc, psycopg.errors.QueryCanceled):
        return "they take too long to check; make the checks of their columns' types faster"
    return f"they cannot be checked ({exc.sqlstate}); see the checks of their columns' types"
