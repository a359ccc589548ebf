"""Joins without config, before the server reads changes for the first time. No network.

Their clients are told nothing but the reply: what is committed behind it has to come.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from realtime_core import LSN, Position, StreamIdentity
from realtime_server.fanout.late_start import LateStart
from realtime_server.fanout.source_attachment import Attachment
from tests.server.net.test_connection import TOPIC, Client, error, open_connection, reply
from tests.server.net.test_connection_bindings import Expiring, accepted, payload
from tests.server_helpers import insert, make_relation
from tests.waiting import eventually

TODOS = make_relation()
OTHER = "realtime:public:other"
UNTIL = Position(LSN(0x1234), 5, StreamIdentity(7, 1, ("shop",)))
GAP = {
    "channel": "public:todos",
    "extension": "postgres_changes",
    "status": "ok",
    "message": "Gap: late_start",
    "gap": {"after": None, "until": "0/1234:5@7.1/shop", "reason": "late_start"},
}


class Beginning(Attachment):
    """Changes that are not read yet."""

    def __init__(self, *, patience: float = 60.0, keeps: bool = False) -> None:
        self.stream = asyncio.Event()
        gap = None if keeps else LateStart(UNTIL)
        super().__init__(
            self.stream.is_set, self.stream.wait, patience=patience, late_start=lambda: gap
        )


async def until_told(client: Client, received: list[Any]) -> list[Any]:
    """Return what has come, as soon as anything has."""

    def look() -> bool:
        received.extend(client.received())
        return bool(received)

    await eventually(look)
    return received


async def test_a_topic_is_answered_when_changes_are_read_before_the_first_is_handed_out() -> None:
    attachment = Beginning()
    async with open_connection(attachment=attachment) as client:
        assert await client.send("phx_join") == []
        # Others pass it.
        assert await client.send("heartbeat", "phoenix") == [reply({}, topic="phoenix")]
        # The mode does both in one go.
        await attachment.begin()
        client.hub.publish([insert(TODOS, "1", "x")])
        answer, change = client.received()
        assert answer == reply({})
        assert change["payload"]["record"]["id"] == "1"
        # From now on nothing waits, whether changes are being read or not: there is a place.
        assert not attachment
        assert await client.send("phx_join", OTHER, ref="2") == [reply({}, ref="2", topic=OTHER)]


async def test_a_topic_is_answered_after_a_while_and_then_told_what_it_misses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "realtime.connection")
    attachment = Beginning(patience=0.01)
    async with open_connection(attachment=attachment) as client:
        sent = await client.send("phx_join")
        assert await until_told(client, sent) == [reply({})]
        attachment.stream.set()
        gap = {"topic": TOPIC, "event": "system", "ref": None, "payload": GAP}
        assert await until_told(client, []) == [gap]
        # Whoever comes now misses nothing.
        assert await client.send("phx_join", OTHER, ref="2") == [reply({}, ref="2", topic=OTHER)]
        assert (
            "misses changes, joined early: 'realtime:public:todos' by 10.0.0.1:4321" in caplog.text
        )


async def test_it_is_told_of_nothing_where_the_slot_has_kept_everything() -> None:
    attachment = Beginning(patience=0.01, keeps=True)
    async with open_connection(attachment=attachment) as client:
        sent = await client.send("phx_join")
        assert await until_told(client, sent) == [reply({})]
        await attachment.begin()
        client.hub.publish([insert(TODOS, "1", "x")])
        (change,) = client.received()
        assert change["event"] == "INSERT"


async def test_who_has_left_is_told_nothing() -> None:
    attachment = Beginning(patience=0.01)
    async with open_connection(attachment=attachment) as client:
        await until_told(client, await client.send("phx_join"))
        await client.send("phx_leave", ref="2")
        await until_told(client, await client.send("phx_join", OTHER, ref="3"))
        await attachment.begin()
        assert [frame["topic"] for frame in client.received()] == [OTHER]


async def test_a_leave_or_another_join_withdraws_one_that_waits() -> None:
    attachment = Beginning()
    async with open_connection(attachment=attachment) as client:
        await client.send("phx_join", ref="1")
        assert await client.send("phx_leave", ref="2") == [reply({}, ref="2")]
        await client.send("phx_join", ref="3")
        await client.send("phx_join", ref="4")
        await attachment.begin()
        assert client.received() == [reply({}, ref="4")]
        client.hub.publish([insert(TODOS, "1", "x")])
        assert len(client.received()) == 1


async def test_a_token_that_expired_meanwhile_is_refused() -> None:
    attachment = Beginning()
    async with open_connection(Expiring(), attachment=attachment) as client:
        await client.send("phx_join")
        await attachment.begin()
        assert client.received() == [error(f"error occurred when joining {TOPIC}")]


@pytest.mark.parametrize("join", [payload(), payload({"event": "*", "schema": "public"})])
async def test_with_config_nothing_is_waited_for(join: Any) -> None:
    """Rooms need no database, and bindings are told when they are in place."""
    async with open_connection(attachment=Beginning()) as client:
        assert await client.send("phx_join", payload=join) == [accepted(join)]
