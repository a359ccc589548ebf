"""The journal goes on to count when a standby is promoted, and does not get ahead of the stream."""

from __future__ import annotations

import logging

import pytest

from tests.fix_postgres import unique_name
from tests.integration.replay_helpers import open_node
from tests.integration.source_helpers import ids, insert, wal_position
from tests.integration.test_source_failover import pair_of_servers
from tests.proxy import Proxy
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.pg17]

KEY, OTHER = b"k" * 16, b"j" * 16


async def test_the_journal_waits_for_the_stream_to_come_from_the_promoted_standby(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "realtime.replay")
    with pair_of_servers(synchronized=False) as pair:
        async with Proxy() as proxy:
            dsn = proxy.lead_to(pair.database.dsn)
            async with (
                open_node(pair.database, unique_name("slot"), dsn=dsn) as node,
                open_node(pair.database, unique_name("slot"), dsn=dsn) as other,
            ):
                insert(pair.database, 1)
                await eventually(lambda: ids(node.live) == ids(other.live) == [1])
                place = (wal_position(pair.database), 0)
                node.journal.joined(1, KEY, 1, place)
                await eventually(lambda: other.journal.find(KEY))
                await eventually(pair.caught_up)
                pair.promote()
                # The journal gets there first.
                node.writes_to = pair.on_standby.dsn
                await node.messages.aclose()
                written = node.messages.bytes
                node.journal.joined(2, OTHER, 1, (2**62, 0))
                await eventually(lambda: "the journal of replay waits" in caplog.text)
                assert node.messages.bytes == written
                node.journal.ended(2)
                # The streams follow.
                proxy.lead_to(pair.on_standby.dsn)
                proxy.cut()
                node.journal.joined(3, OTHER, 1, place)
                insert(pair.on_standby, 2)
                await eventually(lambda: other.journal.find(OTHER), within=60)
                assert [member.number for member in other.journal.find(OTHER)] == [3]
                # What was known before the promotion is known, perhaps behind the messages that the
                # former primary wrote meanwhile.
                (known,) = other.journal.find(KEY)
                assert known.place >= place
                assert node.journal.refused == other.journal.refused == 0
