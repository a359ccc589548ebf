"""Clients that lose their connection, come back, and get what they missed: STREAM mode."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from websockets.exceptions import InvalidStatus

from realtime_server.fanout.groups import Subscription
from realtime_server.replay import liveness_checks, memberships
from realtime_server.replay.catch_up import CatchUp
from realtime_server.replay.memberships import Memberships
from realtime_server.replay.places import Place
from realtime_server.replay.replay import Replay
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database, until_streaming
from tests.integration.replay_client import ReplayClient
from tests.server_helpers import dev_config, open_client
from tests.tokens import SECRET, make_token
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

SESSION = "8f14e45f-ceea-467f-a1d0-"
ALICE = {"sub": "alice", "role": "authenticated"}
SECURE = {"SECURE_CHANNELS": "true", "JWT_SECRET": SECRET}


@pytest.fixture
def item(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int primary key, data text)")
        database.execute("create publication shop for table item")
        yield database


@contextlib.asynccontextmanager
async def serve(database: Database, **settings: str) -> AsyncIterator[RealtimeServer]:
    given = {"REPLAY_WINDOW": "300000", "REPLAY_PING_INTERVAL": "50", **settings}
    async with RealtimeServer(dev_config(database.dsn, **given)) as server:
        await until_streaming(database)
        yield server


@pytest_asyncio.fixture
async def server(item: Database) -> AsyncIterator[RealtimeServer]:
    async with serve(item) as server:
        yield server


async def write(item: Database, server: RealtimeServer, *ids: int, data: str = "x") -> None:
    """Write each row in a transaction of its own, and wait until the server has handed it out."""
    known = server.source.stats().changes
    for one in ids:
        await asyncio.to_thread(item.execute, "insert into item values (%s, %s)", (one, data))
    await eventually(lambda: server.source.stats().changes == known + len(ids))
    replay = server.replay
    await eventually(lambda: replay is None or replay.handed == replay.log.end)


async def until_gone(server: RealtimeServer, connections: int = 0) -> None:
    await eventually(lambda: server.open_connections == connections)


async def until_proven(server: RealtimeServer) -> None:
    """Wait until all clients have proven that they have everything."""
    replay = server.replay
    assert replay is not None
    await eventually(
        lambda: not replay.needs.without_proof() and replay.needs.proven_here() == replay.handed
    )


async def cut_proven(client: ReplayClient, server: RealtimeServer, connections: int = 0) -> None:
    """Cut a client that has proven what it has, and wait until the server has seen it."""
    await until_proven(server)
    await client.cut()
    await until_gone(server, connections)


# Who comes back.


@pytest.mark.parametrize("binding", [None, {}], ids=["bindings", "topic"])
async def test_a_client_that_comes_back_gets_what_it_missed(
    item: Database, server: RealtimeServer, binding: Any
) -> None:
    client = ReplayClient(
        server.port, session=SESSION + "a", topic="realtime:public:item", binding=binding
    )
    first = await client.come()
    await write(item, server, 1, 2, 3)
    await client.until(3)
    await cut_proven(client, server)
    await write(item, server, 4, 5, 6)
    again = await client.come()
    await write(item, server, 7)
    await client.until(7)
    assert client.ids == [1, 2, 3, 4, 5, 6, 7]
    assert client.gaps == []
    if binding is None:
        assert (first["resumed"], again["resumed"]) == (False, True)
        assert again["position"].count("@") == 1
    await client.close()


async def test_of_a_channel_without_bindings_nothing_is_kept(
    item: Database, server: RealtimeServer
) -> None:
    replay = server.replay
    assert replay is not None
    topic = "realtime:room"
    asks = {"event": "*", "schema": "public", "table": "item"}
    async with open_client(server.port) as client:
        for bindings, known in (([], 0), ([asks], 1)):
            await client.send(topic, "phx_join", {"config": {"postgres_changes": bindings}})
            assert (await client.receive())["payload"]["status"] == "ok"
            await client.drain()
            assert replay.stats().fresh == known
        await client.send(topic, "phx_join", {"config": {}}, ref="2")
        assert len(await client.drain()) == 1
        assert server.hub.stats().subscriptions == 1
        # Nor of the one before.
        client.websocket.transport.abort()
    await eventually(lambda: server.hub.is_empty)
    assert replay.stats().away == 0


async def test_what_was_not_proven_comes_again(item: Database) -> None:
    async with serve(item, REPLAY_PING_INTERVAL="60000") as server:
        client = ReplayClient(server.port, session=SESSION + "a")
        await client.come()
        # A ping goes with the first, and must not go with both together.
        await write(item, server, 1)
        await client.until(1)
        await write(item, server, 2)
        await client.until(2)
        await client.cut()
        await until_gone(server)
        await write(item, server, 3)
        assert (await client.come())["resumed"] is True
        await client.until(3)
        assert client.ids == [1, 2, 2, 3]
        await client.close()


async def test_a_page_that_is_loaded_anew_gets_nothing_old(
    item: Database, server: RealtimeServer
) -> None:
    client = ReplayClient(server.port, session=SESSION + "a")
    await client.come()
    await client.beat()
    await cut_proven(client, server)
    await write(item, server, 1)
    page = ReplayClient(server.port, session=SESSION + "a")
    assert (await page.come())["resumed"] is False
    await write(item, server, 2)
    await page.until(2)
    assert page.ids == [2]
    # The former one's is still there.
    assert (await client.come())["resumed"] is True
    await client.until(2)
    assert client.ids == [1, 2]
    await client.close()
    await page.close()


async def test_a_page_that_was_closed_leaves_nothing(
    item: Database, server: RealtimeServer
) -> None:
    client = ReplayClient(server.port, session=SESSION + "a")
    await client.come()
    await client.close(1001)
    await until_gone(server)
    await write(item, server, 1)
    assert (await client.come())["resumed"] is False
    await client.close()


async def test_a_client_that_closes_by_itself_may_come_back(
    item: Database, server: RealtimeServer
) -> None:
    client = ReplayClient(server.port, session=SESSION + "a")
    await client.come()
    await until_proven(server)
    await client.close(1000)
    await until_gone(server)
    await write(item, server, 1)
    assert (await client.come())["resumed"] is True
    await client.until(1)
    await client.close()


async def test_a_channel_that_was_left_is_over(item: Database, server: RealtimeServer) -> None:
    client = ReplayClient(server.port, session=SESSION + "a")
    await client.come()
    await until_proven(server)
    await client.ask("phx_leave", {})
    await write(item, server, 1)
    assert (await client.join())["resumed"] is False
    await write(item, server, 2)
    await client.until(2)
    assert client.ids == [2]
    await client.close()


async def test_a_leave_before_the_joins_reply_is_proven_ends_nothing(item: Database) -> None:
    """Stock clients send one when the answer to a join takes too long."""
    async with serve(item, REPLAY_PING_INTERVAL="60000") as server:
        client = ReplayClient(server.port, session=SESSION + "a")
        await client.come()
        await client.ask("phx_leave", {})
        await write(item, server, 1)
        assert (await client.join())["resumed"] is True
        await client.until(1)
        await client.close()


async def test_another_join_of_a_topic_goes_on_exactly_where_the_first_ended(
    item: Database, server: RealtimeServer
) -> None:
    client = ReplayClient(server.port, session=SESSION + "a")
    await client.come()
    await write(item, server, 1)
    await client.until(1)
    assert (await client.join())["resumed"] is True
    await write(item, server, 2)
    await client.until(2)
    assert client.ids == [1, 2]
    await client.close()


async def test_a_channel_that_was_sent_phx_error_goes_on_when_it_is_joined_again(
    item: Database, server: RealtimeServer
) -> None:
    client = ReplayClient(server.port, session=SESSION + "a")
    await client.come()
    await write(item, server, 1)
    await client.until(1)
    await client.send("nonsense", {})
    await write(item, server, 2)
    assert (await client.join())["resumed"] is True
    await client.until(2)
    assert client.ids == [1, 2]
    await client.close()


async def test_a_parked_channel_outlives_its_connection(
    item: Database, server: RealtimeServer
) -> None:
    client = ReplayClient(server.port, session=SESSION + "a")
    await client.come()
    await until_proven(server)
    await client.send("nonsense", {})
    await client.beat()
    await client.cut()
    await until_gone(server)
    await write(item, server, 1)
    assert (await client.come())["resumed"] is True
    await client.until(1)
    assert client.ids == [1]
    await client.close()


async def test_a_channel_that_cannot_be_decided_on_begins_anew_and_others_go_on(
    item: Database,
    server: RealtimeServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clients = [ReplayClient(server.port, session=f"{SESSION}{number}") for number in range(4)]
    for client in clients:
        await client.come()
    await write(item, server, 1)
    for client in clients:
        await client.until(1)
    await until_proven(server)
    for left, client in enumerate(clients, 1):
        await client.cut()
        await until_gone(server, len(clients) - left)
    await write(item, server, 2)
    choose, add = Memberships.choose, CatchUp.add
    decisions = iter(range(4))
    replays: list[Place] = []

    def choose_or_fail(self: Memberships, *arguments: Any) -> Any:
        if next(decisions) < 2:
            raise KeyError("planted")
        return choose(self, *arguments)

    def add_or_fail(self: CatchUp, subscription: Subscription, place: Place, **more: Any) -> None:
        # The first that goes on.
        if place < self.handed and not replays:
            replays.append(place)
            raise KeyError("planted")
        add(self, subscription, place, **more)

    monkeypatch.setattr(Memberships, "choose", choose_or_fail)
    monkeypatch.setattr(CatchUp, "add", add_or_fail)
    resumed = [(await client.come())["resumed"] for client in clients]
    assert resumed == [False, False, True, True]
    await write(item, server, 3)
    for client in clients:
        await client.until(3)
    assert [client.ids for client in clients] == [[1, 3], [1, 3], [1, 3], [1, 2, 3]]
    assert [client.gaps for client in clients] == [[], [], ["replay_lost"], []]
    assert caplog.text.count("it cannot be decided where a channel goes on") == 1
    for client in clients:
        await client.close()


async def test_who_is_cut_while_it_catches_up_is_told_once_that_it_begins_anew(
    item: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CatchUp, "add", lambda *arguments, **more: None)
    resumed = []
    async with serve(item, REPLAY_PING_INTERVAL="60000") as server:
        client = ReplayClient(server.port, session=SESSION + "a")
        client.ref = 4
        for has_read in (False, True, True):
            resumed.append((await client.come())["resumed"])
            assert server.replay is not None
            [visit] = server.replay.needs.visits
            if has_read:
                ordinal = visit.proof.ask()
                await eventually(lambda: visit.proof.proven >= ordinal)  # noqa: B023 (awaited here)
            await client.cut()
            await until_gone(server)
    assert resumed == [False, False, True]


async def test_a_half_open_connection_is_found_out(item: Database, server: RealtimeServer) -> None:
    client = ReplayClient(server.port, session=SESSION + "a")
    await client.come()
    await write(item, server, 1)
    await client.until(1)
    await until_proven(server)
    client.freeze()
    await write(item, server, 2, 3)
    former = client.forget_connection()
    assert (await client.come())["resumed"] is True
    await client.until(3)
    assert client.ids == [1, 2, 3]
    former.transport.abort()
    await until_gone(server, 1)
    # The former one has left nothing: nobody but this client is away.
    assert server.replay is not None
    assert server.replay.stats().away == 0
    await client.close()


async def test_a_connection_that_closes_slowly_hides_nothing_of_its_client(
    item: Database, server: RealtimeServer
) -> None:
    client = ReplayClient(server.port, session=SESSION + "a")
    await client.come()
    await write(item, server, 1)
    await client.until(1)
    await until_proven(server)
    client.freeze()
    await write(item, server, 2, 3)
    former = client.forget_connection()
    former.protocol.send_close(1000)
    former.send_data()
    # The server waits for the end of the TCP connection, which the client does not see.
    assert (await client.come())["resumed"] is True
    assert server.open_connections == 2
    await client.until(3)
    assert set(client.ids) == {1, 2, 3}
    assert client.gaps == []
    former.transport.abort()
    await until_gone(server, 1)
    await client.close()


async def test_a_session_of_several_clients_is_said_and_none_loses(
    item: Database, server: RealtimeServer, caplog: pytest.LogCaptureFixture
) -> None:
    one = ReplayClient(server.port, session=SESSION + "a")
    other = ReplayClient(server.port, session=SESSION + "a")
    await one.come()
    for _ in range(3):
        await other.connect()
        await other.beat()
        await other.join()
        await cut_proven(other, server, 1)
    await other.come()
    assert "several clients have the same session" in caplog.text
    await cut_proven(one, server, 1)
    await write(item, server, 1)
    await other.until(1)
    await cut_proven(other, server)
    await write(item, server, 2)
    for client in (other, one):
        await client.come()
        await client.until(2)
    assert {1, 2} <= set(one.ids)
    assert {1, 2} <= set(other.ids)
    await one.close()
    await other.close()


# By token and by address.


@pytest.mark.parametrize("seed", range(4))
async def test_two_tabs_with_one_token_lose_nothing(item: Database, seed: int) -> None:
    chance = random.Random(seed)
    async with serve(item, **SECURE) as server:
        token = make_token(ALICE)
        tabs = [ReplayClient(server.port, token=token) for _ in range(2)]
        for tab in tabs:
            await tab.come()
        row = 0
        for _ in range(12):
            tab = chance.choice(tabs)
            if tab.websocket is None:
                await tab.come()
            else:
                if chance.random() < 0.5:
                    await tab.beat()
                await tab.cut()
                await until_gone(server, sum(one.websocket is not None for one in tabs))
            row += 1
            await write(item, server, row)
        for tab in tabs:
            if tab.websocket is None:
                await tab.come()
        row += 1
        await write(item, server, row)
        for tab in tabs:
            await tab.until(row)
            assert list(dict.fromkeys(tab.ids)) == list(range(1, row + 1))
            assert tab.gaps == []
            await tab.close()


async def test_nobody_goes_on_in_anothers_name(item: Database) -> None:
    async with serve(item, **SECURE) as server:
        client = ReplayClient(server.port, session=SESSION + "a", token=make_token(ALICE))
        await client.come()
        await cut_proven(client, server)
        await write(item, server, 1)
        bob = make_token({**ALICE, "sub": "bob"})
        bot = ReplayClient(server.port, session=SESSION + "a", token=bob)
        bot.ref = 1000
        assert (await bot.come())["resumed"] is False
        assert (await client.come())["resumed"] is True
        await client.until(1)
        assert bot.ids == []
        await client.close()
        await bot.close()


async def test_a_renewed_token_of_somebody_else_takes_the_channel_along(item: Database) -> None:
    async with serve(item, **SECURE) as server:
        client = ReplayClient(server.port, session=SESSION + "a", token=make_token(ALICE))
        await client.come()
        bob = make_token({**ALICE, "sub": "bob"})
        await client.send("access_token", {"access_token": bob})
        await client.beat()
        await cut_proven(client, server)
        await write(item, server, 1)
        assert (await client.come())["resumed"] is False
        await cut_proven(client, server)
        client.token = bob
        assert (await client.come())["resumed"] is True
        await client.close()


async def test_a_refused_token_ends_its_channels_memberships(item: Database) -> None:
    async with serve(item, **SECURE) as server:
        client = ReplayClient(server.port, session=SESSION + "a", token=make_token(ALICE))
        await client.come()
        await client.send("access_token", {"access_token": "no token"})
        await client.beat()
        await client.cut()
        await until_gone(server)
        assert server.replay is not None
        assert server.replay.stats().away == 0


async def test_anonymous_clients_behind_one_address_lose_nothing(item: Database) -> None:
    """Their refs differ, as those of people do who came one by one."""
    async with serve(item) as server:
        clients = [ReplayClient(server.port) for _ in range(200)]
        for number, client in enumerate(clients):
            client.ref = number % 7
            await client.come()
        await write(item, server, 1)
        for client in clients:
            await client.until(1)
        for client in clients:
            await client.cut()
        await until_gone(server)
        await write(item, server, 2)
        chance = random.Random(1)
        chance.shuffle(clients)
        await asyncio.gather(*(client.come() for client in clients))
        await write(item, server, 3)
        for client in clients:
            await client.until(3)
            assert list(dict.fromkeys(client.ids)) == [1, 2, 3]
            await client.close()


async def test_whoever_has_a_crowd_asked_is_charged_for_it(item: Database) -> None:
    async with serve(item, MAX_JOINS_PER_SECOND="2") as server:
        crowd = [ReplayClient(server.port) for _ in range(60)]
        for client in crowd:
            await client.come()
        late = ReplayClient(server.port)
        # Each of the crowd may be this client on an earlier connection.
        late.ref = 100
        await late.come()
        late.topic = "realtime:other"
        reply = await late.ask("phx_join", {})
        assert reply["status"] == "error"
        assert "MAX_JOINS_PER_SECOND" in str(reply["response"])
        for client in (*crowd, late):
            await client.cut()


async def test_of_a_crowd_with_one_address_all_get_what_comes(
    item: Database, server: RealtimeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memberships, "MOST_HERE", 2)
    clients = [ReplayClient(server.port) for _ in range(4)]
    for row in (1, 2):
        for client in clients:
            await client.come()
        await write(item, server, row)
        for client in clients:
            await client.until(row)
            await client.cut()
        await until_gone(server)
    assert server.replay is not None
    assert server.replay.stats().away == 2


async def test_nobody_begins_behind_its_join_because_another_has_left_meanwhile(
    item: Database, server: RealtimeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness_checks, "WITHIN", 60.0)
    frozen, other, late = (ReplayClient(server.port) for _ in range(3))
    await frozen.come()
    await other.come()
    frozen.freeze()
    late.ref = 100
    await late.connect()
    config = {"config": {"postgres_changes": [late.binding]}}
    assert (await late.ask("phx_join", config))["status"] == "ok"
    # It waits for the frozen one to answer. Meanwhile a change comes, and another client leaves.
    replay = server.replay
    assert replay is not None
    await until_proven_but_by(1, replay)
    await write(item, server, 1)
    await other.until(1)
    await until_proven_but_by(1, replay)
    await other.cut()
    await until_gone(server, 2)
    frozen.thaw()
    await late.until(1)
    await frozen.close()
    await late.close()


async def until_proven_but_by(clients: int, replay: Replay) -> None:
    await eventually(lambda: replay.needs.without_proof() <= clients)


async def test_the_address_that_a_trusted_proxy_names_counts(item: Database) -> None:
    settings = {"TRUSTED_PROXIES": '["127.0.0.0/8"]', "FORWARDED_HEADER": "X-Forwarded-For"}
    async with serve(item, **settings) as server:
        one, other = (
            ReplayClient(server.port, headers={"X-Forwarded-For": address})
            for address in ("192.0.2.1", "192.0.2.2")
        )
        await one.come()
        await cut_proven(one, server)
        await write(item, server, 1)
        other.ref = 1000
        assert (await other.come())["resumed"] is False
        assert (await one.come())["resumed"] is True
        await one.until(1)
        assert other.ids == []
        await one.close()
        await other.close()


async def test_a_kind_that_does_not_count_identifies_nobody(item: Database) -> None:
    async with serve(item, REPLAY_IDENTITY='["session"]') as server:
        client = ReplayClient(server.port)
        await client.come()
        await client.cut()
        await until_gone(server)
        assert (await client.come())["resumed"] is False
        await client.close()


# Gaps and bounds.


async def test_who_was_away_for_too_long_is_told_of_a_gap(item: Database) -> None:
    async with serve(item, REPLAY_WINDOW="200") as server:
        client = ReplayClient(server.port, session=SESSION + "a")
        await client.come()
        await write(item, server, 1)
        await client.until(1)
        await cut_proven(client, server)
        await write(item, server, 2)
        replay = server.replay
        assert replay is not None
        await eventually(lambda: replay.stats().away == 0)
        again = await client.come()
        assert again["resumed"] is False
        await write(item, server, 3)
        await client.until(3)
        assert client.ids == [1, 3]
        assert client.gaps == ["replay_window"]
        [gap] = [one["gap"] for one in client.systems if "gap" in one]
        assert gap["after"] < gap["until"] == again["position"]
        assert dict(replay.stats().gaps) == {"replay_window": 1}
        await client.close()


async def test_more_changes_than_the_memory_holds_are_a_gap(item: Database) -> None:
    async with serve(item, REPLAY_MEMORY_MB="1") as server:
        client = ReplayClient(server.port, session=SESSION + "a")
        await client.come()
        await cut_proven(client, server)
        await write(
            item, server, *range(1, 40), data="".join(random.choices("abcdefghij", k=100_000))
        )
        assert (await client.come())["resumed"] is False
        await client.until(39)
        assert client.gaps == ["replay_limit"]
        # What is there still comes, in order.
        assert client.ids == list(range(client.ids[0], 40))
        assert server.replay is not None
        assert server.replay.stats().log_bytes <= 1_000_000
        await client.close()


async def test_the_oldest_goes_when_too_many_are_away(item: Database) -> None:
    async with serve(item, REPLAY_MAX_SESSIONS="1") as server:
        one, other = (ReplayClient(server.port, session=SESSION + name) for name in "ab")
        await one.come()
        await other.come()
        await cut_proven(one, server, 1)
        await write(item, server, 1)
        await other.until(1)
        await cut_proven(other, server)
        replay = server.replay
        assert replay is not None
        await eventually(lambda: replay.log.bytes == 0)
        assert (await one.come())["resumed"] is False
        assert one.gaps == ["replay_limit"]
        await one.close()


async def test_one_client_that_leaves_many_channels_away_drives_no_others_out(
    item: Database,
) -> None:
    settings = {
        **{"TRUSTED_PROXIES": '["127.0.0.0/8"]', "FORWARDED_HEADER": "X-Forwarded-For"},
        "REPLAY_MAX_SESSIONS": "20",
    }
    async with serve(item, **settings) as server:
        honest = ReplayClient(
            server.port, session=SESSION + "a", headers={"X-Forwarded-For": "192.0.2.1"}
        )
        await honest.come()
        await cut_proven(honest, server)
        await write(item, server, 1)
        attacker = {"X-Forwarded-For": "192.0.2.2"}
        for number in range(5):
            # Each connection names another session, and leaves ten channels.
            one = ReplayClient(server.port, session=f"{SESSION}{number}", headers=attacker)
            await one.connect()
            for topic in range(10):
                one.topic = f"realtime:room{topic}"
                await one.join()
            await one.cut()
            await until_gone(server)
        assert server.replay is not None
        assert server.replay.stats().away == 20
        # Give up what nobody needs.
        await server.replay.tidy()
        assert (await honest.come())["resumed"] is True
        await honest.until(1)
        assert honest.gaps == []
        await honest.close()


async def test_a_client_that_never_sends_pongs_gets_the_same_only_ten_times(
    item: Database, server: RealtimeServer
) -> None:
    client = ReplayClient(server.port, session=SESSION + "a", answer=b"")
    await client.come()
    await write(item, server, 1)
    await client.until(1)
    resumed = []
    for _ in range(12):
        await client.cut()
        await until_gone(server)
        resumed.append((await client.come())["resumed"])
        await eventually(lambda: len(client.ids) == 1 + sum(resumed))
    # It does not prove that it has been told, either.
    assert resumed == [*[True] * 10, False, False]
    assert client.gaps == ["replay_limit"] * 2
    assert client.ids == [1] * 11
    await client.close()


async def test_a_client_that_answers_something_else_is_told_of_a_gap(
    item: Database, server: RealtimeServer
) -> None:
    client = ReplayClient(server.port, session=SESSION + "a", answer=b"12345678")
    await client.come()
    await write(item, server, 1)
    await client.until(1)
    await client.cut()
    await until_gone(server)
    await write(item, server, 2)
    assert (await client.come())["resumed"] is False
    await eventually(lambda: client.gaps == ["unproven"])
    assert client.ids == [1]
    await client.close()


async def test_a_session_that_is_too_long_does_not_count(
    item: Database, server: RealtimeServer
) -> None:
    with pytest.raises(InvalidStatus):
        await ReplayClient(server.port, session="x" * 1_000_000).connect()
    client = ReplayClient(server.port, session="x" * 7000)
    await client.come()
    await until_proven(server)
    # Its address does, and the whole of its query.
    await client.cut()
    await until_gone(server)
    assert (await client.come())["resumed"] is True
    await client.close()


async def test_a_client_that_closes_by_itself_gets_again_what_is_not_sure(
    item: Database, server: RealtimeServer
) -> None:
    client = ReplayClient(server.port, session=SESSION + "a")
    replay = server.replay
    assert replay is not None
    replay.proofs.apart = 0.0
    await client.come()
    await write(item, server, 1)
    await until_proven(server)
    for _ in range(2):
        await client.beat()
    await write(item, server, 2)
    await client.until(2)
    await until_proven(server)
    await client.close(1000)
    await until_gone(server)
    await write(item, server, 3)
    assert (await client.come())["resumed"] is True
    await client.until(3)
    assert client.ids == [1, 2, 2, 3]
    assert client.gaps == []
    await client.close()


async def test_nothing_is_kept_while_nobody_is_away(item: Database, server: RealtimeServer) -> None:
    client = ReplayClient(server.port, session=SESSION + "a")
    replay = server.replay
    assert replay is not None
    replay.proofs.apart = 0.0
    await client.come()
    await write(item, server, *range(1, 20))
    await client.until(19)
    await until_proven(server)
    assert replay.log.bytes > 0
    # The client's last message but one shows that it has handled them.
    for _ in range(2):
        await client.beat()
    await eventually(lambda: replay.log.bytes == 0)
    await client.cut()
    await until_gone(server)
    await write(item, server, 20)
    await eventually(lambda: replay.log.bytes > 0)
    await client.come()
    await client.until(20)
    await until_proven(server)
    for _ in range(2):
        await client.beat()
    await eventually(lambda: replay.log.bytes == 0)
    await client.close(1001)


async def test_without_a_window_nothing_of_this_is_there(item: Database) -> None:
    async with serve(item, REPLAY_WINDOW="0") as server:
        assert server.replay is None
        client = ReplayClient(server.port, session=SESSION + "a")
        system = await client.come()
        assert "resumed" not in system
        assert "position" not in system
        await client.cut()
        await until_gone(server)
        await write(item, server, 1)
        await client.come()
        await write(item, server, 2)
        await client.until(2)
        assert client.ids == [2]
        await client.close()
