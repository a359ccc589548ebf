"""A member of a cluster without its sockets: what it would hand out to clients, it keeps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Self

from realtime_core import Gap, Insert, Position
from realtime_server.cluster.connection import NatsConnection
from realtime_server.cluster.feed import LogFeed
from realtime_server.cluster.setup import make_node
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.server_helpers import dev_config

__all__ = ["Member", "insert", "shop"]


@contextlib.contextmanager
def shop(server: Server) -> Iterator[Database]:
    """Make a database with the publication ``shop``, of the table ``item``; its ``data`` is not
    compressed."""
    with fresh_database(server) as database:
        database.execute("create table item (id int primary key, data text)")
        database.execute("alter table item alter data set storage external")
        database.execute("create publication shop for table item")
        yield database


def insert(item: Database, first: int, last: int, size: int = 50) -> None:
    """Write rows with these ids, of so many bytes each, in one transaction."""
    item.execute(
        f"insert into item select g, repeat('x', {size}) from generate_series({first}, {last}) g"
    )


class Member:
    """Reads the log, and leads whenever it can, while it is open.

    Args:
        database: has the publication ``shop``, of the table ``item`` with an integer ``id``.
        url: of NATS.
        name: of the log and the slot.
        is_heard: whether it leads, and says how far it has come.
        settings: environment variables besides.
    """

    def __init__(
        self, database: Database, url: str, name: str, *, is_heard: bool = True, **settings: str
    ) -> None:
        self._is_heard = is_heard
        fixed = {
            "NATS_URL": url,
            "SLOT_NAME": name,
            "CLUSTER_NAME": name,
            "PUBLICATIONS": '["shop"]',
        }
        self._config = dev_config(database.dsn, **{**fixed, **settings})
        self.node = make_node(self._config, LogFeed)
        self.feed = self.node.feed
        self.ids: list[int] = []
        """The rows' numbers, as clients would get them."""
        self.positions: list[Position] = []
        """Where the rows stand."""
        self.gaps: list[Gap] = []
        self.may_go_on = asyncio.Event()
        """Cleared, nothing more is handed out."""
        self.may_go_on.set()

    async def __aenter__(self) -> Self:
        await self.feed.__aenter__()
        if self._is_heard:
            await self.node.__aenter__()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.node.__aexit__()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self.feed.aclose()

    async def connect(self) -> NatsConnection:
        return await NatsConnection.open(self._config, name="test")

    @property
    def leads(self) -> bool:
        return self.node.stats().leading

    @property
    def others_have(self) -> list[int | None]:
        """The sequences up to which the others have said last that they had handed out the log."""
        heard = self.node._nodes._heard.values()
        return [one.beat.sequence for one in heard if one.beat.node != self.node.id]

    async def _read(self) -> None:
        async for batch in self.feed.batches():
            await self.may_go_on.wait()
            for event in batch:
                if isinstance(event, Insert):
                    self.ids.append(int(event.record.text("id") or ""))
                    self.positions.append(event.position)
                elif isinstance(event, Gap):
                    self.gaps.append(event)
            self.feed.ack(batch[-1])
