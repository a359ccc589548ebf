"""A server that stands still for so long that the log has let go of what it had not read."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from realtime_core import Position
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.cluster_member import Member, insert, shop
from tests.integration.replay_client import ReplayClient
from tests.nats_server import LATEST, NatsServer
from tests.server_process import ServerProcess
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio, pytest.mark.slow]


@pytest.fixture
def item(pg17: Server) -> Iterator[Database]:
    with shop(pg17) as database:
        yield database


@pytest.mark.parametrize("nats", [LATEST], ids=["latest"], indirect=True)
async def test_its_clients_are_told_of_one_gap_that_is_exact(
    item: Database, nats: NatsServer
) -> None:
    """The leader waits for it for ten seconds, in which it was heard."""
    name = unique_name("log")
    settings = {"LOG_MAX_BYTES": str(16 * 1024 * 1024)}
    async with Member(item, nats.url, name, **settings) as one:
        server = ServerProcess(
            item.dsn,
            NATS_URL=nats.url,
            SLOT_NAME=name,
            CLUSTER_NAME=name,
            CLUSTER_ROLE="server",
            PUBLICATIONS='["shop"]',
            **settings,
        )
        await asyncio.to_thread(server.__enter__)
        try:
            client = ReplayClient(server.port)
            await client.come()
            insert(item, 1, 10)
            await eventually(lambda: one.ids == client.ids == list(range(1, 11)))
            # Nobody waits for a server that is not known to have begun to read.
            await eventually(lambda: one.others_have and all(one.others_have))
            server.process.send_signal(signal.SIGSTOP)
            for turn in range(1, 11):
                insert(item, 100 * turn, 100 * turn + 29, 100_000)
            await eventually(lambda: one.ids[-1] == 1029, within=60)
            assert one.node.stats().leader.held_back_seconds > 1
            server.process.send_signal(signal.SIGCONT)
            insert(item, 2000, 2000)
            await eventually(lambda: client.ids[-1] == one.ids[-1] == 2000)
            (gap,) = [system["gap"] for system in client.systems if "gap" in system]
            await client.close()
        finally:
            server.process.send_signal(signal.SIGCONT)
            await asyncio.to_thread(server.__exit__, None, None, None)
    places = dict(zip(one.ids, one.positions, strict=True))
    assert gap["reason"] == "log_behind"
    after, until = Position.parse(gap["after"]), Position.parse(gap["until"])
    missing = [number for number in one.ids if number not in client.ids]
    assert missing
    assert [number for number in one.ids if after < places[number] < until] == missing
    assert client.ids == [number for number in one.ids if number not in missing]
    assert not one.gaps
