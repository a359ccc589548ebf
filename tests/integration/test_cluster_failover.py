"""A standby is promoted that has not received everything: the log goes on behind a gap, though the
new timeline's places are lower than those that it has."""

from __future__ import annotations

import asyncio

import pytest

from realtime_core import GapReason
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.cluster_member import Member
from tests.integration.source_helpers import insert
from tests.integration.test_source_failover import pair_of_servers, stop_following
from tests.nats_server import LATEST, NatsServer
from tests.proxy import Proxy
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio, pytest.mark.pg17]


@pytest.mark.parametrize("nats", [LATEST], ids=["latest"], indirect=True)
async def test_every_server_tells_the_gap_and_goes_on(nats: NatsServer) -> None:
    name = unique_name("log")
    with pair_of_servers(synchronized=False) as pair:
        async with Proxy() as proxy:
            dsn = proxy.lead_to(pair.primary.dsn)
            through = Database(await asyncio.to_thread(Server, dsn), pair.database.name)
            async with (
                Member(through, nats.url, name) as one,
                Member(through, nats.url, name, CLUSTER_ROLE="server") as two,
            ):
                await asyncio.gather(one.feed.attached(), two.feed.attached())
                insert(pair.database, 1, 2, 3)
                await eventually(lambda: one.ids == two.ids == [1, 2, 3])
                await eventually(pair.caught_up)
                await stop_following(pair)
                insert(pair.database, 4, 5, 6)
                await eventually(lambda: one.ids == two.ids == [1, 2, 3, 4, 5, 6])
                lost = one.positions[-1]
                pair.promote()
                proxy.lead_to(pair.on_standby.dsn)
                proxy.cut()
                await eventually(lambda: one.gaps and two.gaps and one.leads)
                insert(pair.on_standby, 11, 12)
                expected = [1, 2, 3, 4, 5, 6, 11, 12]
                await eventually(lambda: one.ids == two.ids == expected)
                for member in (one, two):
                    (gap,) = member.gaps
                    assert gap.reason in (GapReason.NEW_TIMELINE, GapReason.SLOT_MISSING)
                    assert gap.after is not None
                    assert (gap.after.lsn, gap.after.index) >= (lost.lsn, lost.index)
                    assert gap.until.stream is not None
                    assert lost.stream is not None
                    assert gap.until.stream.timeline > lost.stream.timeline
                assert one.positions[-1].stream == two.positions[-1].stream
