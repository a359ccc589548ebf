"""TableList: the tables that the inspector's page can listen to, cached for a second."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Self, TypeAlias

from realtime_core.errors import SourceError

from ...auth.grant import Grant
from ...config import ReplicationMode, ServerConfig
from ...config.database.addresses import resolve_dsn
from ...config.database.published_tables import PublishedTable, published_tables
from ...errors import UnavailableError
from ...fanout.allowed_topics import OWN_SCHEMA
from ...phoenix.reasons import Told
from ...rls.viewers import Viewer

__all__ = ["AskTables", "TableList"]

logger = logging.getLogger("realtime.http")

AskTables: TypeAlias = Callable[[str | None], Awaitable[Sequence[PublishedTable]]]
"""Reads from the database the tables of which a role may see something, or all tables for None.
Raises :exc:`~realtime_core.errors.SourceError`."""

_FRESH: Final = 1.0
"""Seconds for which an answer is reused, so that loading the page often does not burden the
database."""
_WITHIN: Final = 10.0
"""Seconds within which the database must answer."""
_MAX_ROLES: Final = 100
"""Roles whose answers are kept."""
_CANNOT: Final = Told("the database cannot be asked for its tables now; the server's log says why")


class TableList:
    """The tables that can be listened to. The database gets one query at a time.

    Args:
        ask: queries the database.
        by_role: whether a client sees only the tables that its token's role may see.
        clock: seconds of any clock that only goes forward.
    """

    def __init__(self, ask: AskTables, *, by_role: bool, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._by_role = by_role
        self._clock = clock
        self._asking = asyncio.Lock()
        # By role: until when the answer is reused, and the answer; None if the database gave none.
        self._known: dict[str | None, tuple[float, Sequence[PublishedTable] | None]] = {}

    @classmethod
    def of(cls, config: ServerConfig) -> Self:
        """Make the list of a server from its settings."""
        is_rls = config.replication_mode is ReplicationMode.RLS

        async def ask(role: str | None) -> Sequence[PublishedTable]:
            return await published_tables(
                await resolve_dsn(config),
                config.publications,
                plugin=config.output_plugin,
                role=role,
            )

        return cls(ask, by_role=is_rls, clock=time.monotonic)

    async def visible_to(self, grant: Grant) -> Sequence[PublishedTable]:
        """Return the tables of which the holder of a grant may see something.

        Raises:
            RefusedError: if the token has no role where it needs one.
            UnavailableError: if the database cannot be asked.
        """
        role = Viewer.of(grant.claims).role if self._by_role else None
        async with self._asking:
            if role not in self._known or self._known[role][0] <= self._clock():
                if len(self._known) >= _MAX_ROLES:
                    self._known.clear()
                answer = await self._answer(role)
                # Counted from the answer, not the query: other requests wait for the same answer.
                self._known[role] = (self._clock() + _FRESH, answer)
            tables = self._known[role][1]
        if tables is None:
            raise UnavailableError(_CANNOT)
        return tables

    async def _answer(self, role: str | None) -> Sequence[PublishedTable] | None:
        try:
            async with asyncio.timeout(_WITHIN):
                tables = await self._ask(role)
        except (SourceError, TimeoutError) as exc:
            reason = str(exc) or f"no answer within {_WITHIN:g} s"
            logger.warning("the inspector cannot list the tables: %s", reason)
            return None
        return [table for table in tables if table.schema != OWN_SCHEMA]
