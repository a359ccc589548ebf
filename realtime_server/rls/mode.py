"""RlsMode: the parts of RLS mode, put together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import partial
from types import TracebackType
from typing import Final, Self

import psycopg

from realtime_core import SourceStats
from realtime_core.errors import SourceError
from realtime_core.filters import EnumOrders

from ..addresses import resolve_dsn
from ..catalog.connections import Connections, connect
from ..catalog.wishes import wishes_of
from ..config import ServerConfig
from ..errors import RefusedError
from ..grants import Grant
from ..hub import Hub
from ..metrics import Metrics
from ..phoenix.joins import TRUNCATE, Binding
from ..registrar import Registered
from ..source import make_source
from ..topics import Topic
from .authorizer import RowAuthorizer
from .candidates import Candidate, Shown
from .counters import Counters
from .fan_out import FanOut
from .losses import Loss
from .migrations import migrate
from .privileges import missing_privileges
from .reader import Reader
from .subscriptions import Registration, Registry
from .viewers import Viewer
from .visibility import Visibility

__all__ = ["RlsMode"]

logger = logging.getLogger("realtime.rls")

_CONNECTIONS: Final = 4
"""That ask for row level security at once; two more ask for those that take too long."""
_PATIENCE: Final = 5.0
"""Seconds that a join waits for the schema ``realtime``. Clients come back while a server starts,
and some of the first generation do not try again when they are refused."""


class RlsMode:
    """Reads changes, and shows each to those who may see it.

    It is the registrar of the server's connections, too.

    Args:
        config: of the server.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._dsn = dsn = partial(resolve_dsn, config)
        timeout = config.rls_check_timeout / 1000
        self._visibility = Visibility(dsn, timeout=timeout, size=_CONNECTIONS)
        self._apart = Visibility(dsn, timeout=timeout, name="rls apart", size=2)
        self._connections = Connections(dsn, name="subscriptions", size=2)
        self._registry = Registry(
            self._connections,
            publications=config.publications,
            node=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
            interval=config.subscription_sync_interval / 1000,
            ignored_claims=config.rls_ignored_claims,
        )
        self._source = make_source(config)
        self._reader = Reader(
            self._source,
            self._visibility.connections,
            limit=config.max_changes,
            interval=config.replication_poll_interval / 1000,
        )
        self._authorizer = RowAuthorizer(
            self._visibility,
            self._apart,
            publications=config.publications,
            late=self._hand_out_late,
            lost=self._tell,
            is_there=lambda viewer: viewer in self._channels,
            max_record_bytes=config.max_record_bytes,
            strict=config.rls_strict,
        )
        self._fan_out: FanOut | None = None
        self._ready = asyncio.Event()
        # How many channels each viewer has.
        self._channels: Counter[Viewer] = Counter()
        self._stack = contextlib.AsyncExitStack()
        self.enum_orders: EnumOrders = self._registry.enum_orders
        """Labels of enums in their declared order, by schema and name, for filters."""

    async def __aenter__(self) -> Self:
        """Be ready to connect; nothing is asked of the database yet."""
        for part in (self._visibility, self._apart, self._connections, self._authorizer):
            await self._stack.enter_async_context(part)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._source.aclose()
        if self._ready.is_set():
            await self._registry.close()
        await self._stack.aclose()

    def stats(self) -> SourceStats:
        """Return where the stream stands."""
        return self._source.stats()

    async def attached(self) -> None:
        """Wait until the stream runs.

        Raises:
            RealtimeError: if it cannot go on.
            RuntimeError: if it was closed.
        """
        await self._ready.wait()
        await self._source.attached()

    @property
    def counters(self) -> Counters:
        """What was asked of row level security."""
        return self._authorizer.counters

    async def run(self, hub: Hub, metrics: Metrics) -> None:
        """Hand changes to the hub's subscriptions, for ever.

        Raises:
            DecodeError: if the database sends what cannot be decoded.
        """
        self._fan_out = fan_out = FanOut(hub, self._authorizer, metrics)
        await self._prepare()
        # It attaches in the background.
        await self._source.__aenter__()
        self._ready.set()
        keeping_up = asyncio.create_task(self._registry.run())
        try:
            async with contextlib.aclosing(self._reader.batches()) as batches:
                async for batch in batches:
                    await fan_out.publish(batch)
        finally:
            keeping_up.cancel()
            await asyncio.wait({keeping_up})

    async def _prepare(self) -> None:
        """Have the schema ``realtime`` as it must be."""
        delay = self._config.db_reconnect_backoff_min / 1000
        while True:
            try:
                # The pool would try for long, and not say what to do.
                async with await connect(await self._dsn(), name="setup") as connection:
                    for migration in await migrate(connection):
                        logger.info("migrated the schema realtime: %s", migration)
                    missing = await missing_privileges(connection, self._config.publications)
                    for grant in (*missing.own, *missing.roles):
                        logger.warning("a privilege for RLS mode is missing: %s", grant)
                await self._registry.know_enums()
            except (SourceError, psycopg.Error) as exc:
                logger.warning("%s; trying again in %.1f s", " ".join(str(exc).split()), delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, self._config.db_reconnect_backoff_max / 1000)
            else:
                return

    def _hand_out_late(self, viewer: Viewer, decided: Sequence[tuple[Candidate, Shown]]) -> None:
        assert self._fan_out is not None  # it made the candidates
        self._fan_out.hand_out(viewer, decided)

    def _tell(self, loss: Loss) -> None:
        assert self._fan_out is not None  # likewise
        self._fan_out.tell(loss)

    # The registrar.

    async def register(
        self, topic: Topic, bindings: tuple[Binding, ...] | None, grant: Grant
    ) -> Registered:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._ready.wait()
        except TimeoutError:
            raise RefusedError("the database is not attached yet; join again in a moment") from None
        if any(binding.leaves for binding in bindings or ()):
            raise RefusedError(
                "leaves cannot be used here: a row's former values may have been another's"
            )
        if any(binding.event == TRUNCATE for binding in bindings or ()):
            raise RefusedError(
                "TRUNCATE cannot be told here: nobody can say who might have seen the rows"
            )
        registration = await self._registry.register(wishes_of(topic, bindings), grant.claims)
        self._channels[registration.viewer] += 1
        return registration

    async def renew(self, registered: Registered, grant: Grant) -> Hashable:
        assert isinstance(registered, Registration)
        former = registered.viewer
        viewer = await self._registry.renew(registered, grant.claims)
        if viewer is not former:
            self._channels[viewer] += 1
            self._one_less(former)
        return viewer

    def remove(self, registered: Registered) -> None:
        assert isinstance(registered, Registration)
        self._registry.remove(registered)
        self._one_less(registered.viewer)

    def _one_less(self, viewer: Viewer) -> None:
        self._channels[viewer] -= 1
        if not self._channels[viewer]:
            del self._channels[viewer]
            self._authorizer.forget(viewer)
