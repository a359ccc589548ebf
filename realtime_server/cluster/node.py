"""Node: one server of a cluster, with what it reads from the log, and its part in leading.

Each second it says of itself how far it has come, and whether it leads, on a plain subject that the
others listen to; and at its end, that it ends. Three connections to NATS go beside each other, so
that much that is read does not delay what is appended, nor what is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, Self, TypeVar

from realtime_core import SourceStats

from ..fanout.cancellation import cancel_within
from .connection import Message, NatsConnection
from .envelope import VERSION, VersionError
from .errors import LogError
from .leader import Leader
from .nodes import HEARD_WITHIN, Beat, Nodes
from .stats import ClusterStats, LeaderStats, LogStats

__all__ = ["ClusterNode", "LogView", "NoFeed"]

logger = logging.getLogger("realtime.cluster")

_BEAT: Final = 1.0
"""Seconds from one beat to the next."""
_PAUSE: Final = 1.0
"""Seconds until a connection is tried again."""
_PATIENCE: Final = 10.0
"""Seconds that leading may take to end, with the source, until it is cancelled once more."""


class LogView(Protocol):
    """What a node says of the server's reading of the log."""

    @property
    def is_open(self) -> bool:
        """Whether the end of the log was found, and everything behind it comes."""
        ...

    @property
    def newer(self) -> VersionError | None:
        """Why the end of the log cannot be read, if a newer server has written it."""
        ...

    @property
    def handed_out(self) -> int | None:
        """The sequence of the last envelope that was handed out to the clients; None before the
        first one."""
        ...

    def log_stats(self) -> LogStats: ...


class NoFeed:
    """What a server has that does not read the log, as it has no clients."""

    is_open = True
    newer = None
    handed_out = None

    def log_stats(self) -> LogStats:
        """Return the counts of what has counted nothing."""
        return LogStats()


Feed = TypeVar("Feed", bound=LogView)


class ClusterNode(Generic[Feed]):
    """A server's place among others while it is open as a context manager.

    Whoever makes it enters and closes the feed.

    Args:
        name: of the cluster, which the subjects begin with.
        connect: opens a connection to NATS.
        nodes: the servers that were heard.
        feed: reads the log.
        leader: leads whenever it can; None if this server never does.
        clock: seconds, which only grow.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[NatsConnection]],
        nodes: Nodes,
        feed: Feed,
        leader: Leader | None,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.feed = feed
        """The changes."""
        self._subject = f"{name}.beat"
        self.id = secrets.token_hex(8)
        """The server's own name, 16 hexadecimal digits, another one for each process."""
        self.writers: set[str] = set()
        """The names of this server's processes that write into the journal which clients they
        have."""
        # Since when everything is heard that servers say; None while nothing is.
        self._listens_since: float | None = None
        self._connect = connect
        self._nodes = nodes
        self._leader = leader
        self._clock = clock
        self.running: set[asyncio.Task[None]] = set()
        """The tasks that lead, and say how far the server has come. Only an error that nobody has
        thought of ends one of them."""

    async def __aenter__(self) -> Self:
        """Begin to lead, if that is possible, and to say how far the server has come."""
        self.running.add(asyncio.create_task(self._beat_for_ever()))
        if self._leader is not None:
            self.running.add(asyncio.create_task(self._leader.run()))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop leading, which frees the slot."""
        for task in self.running:
            task.cancel()
        # The client of NATS may swallow a cancellation while it connects.
        await cancel_within(self.running, _PATIENCE)

    def stats(self) -> ClusterStats:
        """Return what is counted."""
        leader = self._leader
        return ClusterStats(
            leading=self._leads() is not None,
            nodes=self._nodes.count(self._clock()),
            leader=LeaderStats() if leader is None else leader.stats,
            log=self.feed.log_stats(),
        )

    def why_not_ready(self) -> str | None:
        """Return why clients would not get changes now; None if they would."""
        if not self.feed.is_open:
            return "the log is not being read"
        if self.feed.newer is not None:
            return f"the log cannot be read: {self.feed.newer}"
        foreign = None if self._leader is None else self._leader.foreign()
        if foreign is not None:
            return foreign
        if self.leader_stats() is None:
            return f"no server that reads the database was heard for {HEARD_WITHIN:.0f} s"
        return None

    def leader_stats(self) -> SourceStats | None:
        """Return what the source of the server counts that leads; None if none was heard lately."""
        return self._nodes.leader(self._clock())

    def all_writers(self) -> set[str] | None:
        """Return the names of all servers' processes that are there and write into the journal;
        None if they are not known, as this server has not listened for long enough."""
        now, since = self._clock(), self._listens_since
        if since is None or now - since <= HEARD_WITHIN:
            return None
        return self._nodes.writers(now) | self.writers

    def _leads(self) -> SourceStats | None:
        return None if self._leader is None else self._leader.source_stats()

    async def _beat_for_ever(self) -> None:
        while True:
            try:
                connection = await self._connect()
                async with connection:
                    await connection.subscribe(f"{self._subject}.*", self._hear)
                    self._listens_since = self._clock()
                    await self._beat_on(connection)
            except LogError as exc:
                logger.debug("nothing is said to the other servers: %s", exc)
            finally:
                self._listens_since = None
            await asyncio.sleep(_PAUSE)

    async def _beat_on(self, connection: NatsConnection) -> None:
        subject = f"{self._subject}.{self.id}"
        try:
            while True:
                source = self._leads()
                beat = Beat(
                    self.id,
                    self.feed.handed_out,
                    source,
                    writers=tuple(self.writers),
                    version=VERSION,
                    slot="" if self._leader is None or source is None else self._leader.slot,
                )
                await connection.publish(subject, beat.to_json())
                await asyncio.sleep(_BEAT)
        except asyncio.CancelledError:
            # Nobody has to wait until it is missed.
            with contextlib.suppress(LogError):
                await connection.publish(subject, Beat(self.id, None, is_last=True).to_json())
            raise

    def _hear(self, message: Message) -> None:
        beat = Beat.from_json(message.data)
        if beat is not None:
            self._nodes.hear(beat, self._clock())
