"""Private channels at two servers: policies decide at each, and private rooms span both."""

from __future__ import annotations

import pytest

from realtime_server.server import RealtimeServer
from tests.fix_postgres import Server
from tests.integration.conftest import fresh_database
from tests.integration.test_private_channels import OK, RIGHTS, Client, Stage
from tests.integration.test_rooms_of_several import on_latest, reached, settings
from tests.nats_server import NatsServer
from tests.rls_helpers import migrated, roles
from tests.server_helpers import dev_config
from tests.tokens import SECRET

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


async def until_heard(listener: Client, sender: Client) -> None:
    """Wait until the sender's server knows of the listener's room."""
    while not await listener.drain():
        assert await sender.say("?") == OK
    assert await sender.say("now") == OK
    while await listener.receive() != listener.heard("now"):
        pass


@on_latest
async def test_a_private_room_spans_servers(pg18: Server, nats: NatsServer) -> None:
    with roles(pg18, "member") as (role,), fresh_database(pg18) as database:
        await migrated(database.dsn)
        database.execute(RIGHTS.replace("{role}", role))
        config = dev_config(
            database.dsn,
            SECURE_CHANNELS="true",
            JWT_SECRET=SECRET,
            PRIVATE_CHANNELS="true",
            **settings(nats, "rooms_private"),
        )
        async with RealtimeServer(config) as one, RealtimeServer(config) as two:
            await reached(one)
            await reached(two)
            here, there = Stage(database, one, role), Stage(database, two, role)
            async with (
                here.client("ann") as ann,
                there.client("bob") as bob,
                there.client("dan") as dan,
                there.client("ann") as public,
            ):
                await ann.enter()
                await bob.enter()
                await public.enter(private=False)
                # He may see who is there, and hears nothing.
                await dan.enter(presence={"key": "dan", "enabled": True})
                assert await dan.sees("presence_state") == set()
                await until_heard(bob, ann)
                assert await ann.say({"n": 1}) == OK
                assert await bob.receive() == bob.heard({"n": 1})
                message = {"topic": "room", "event": "m", "payload": {"n": 2}, "private": True}
                assert await here.post("ann", {"messages": [message]}) == 202
                assert await bob.receive() == bob.heard({"n": 2})
                assert await ann.receive() == ann.heard({"n": 2})
                assert await ann.track() == OK
                assert len(await dan.sees("presence_diff")) == 1
                for client in (bob, dan, public):
                    assert await client.drain() == []
