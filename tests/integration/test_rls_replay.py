"""Clients that come back in RLS mode: they are shown what they may see now, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio

from realtime_server.replay import standing
from realtime_server.rls.checker import Checker
from realtime_server.rls.mode import RlsMode
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, unique_name
from tests.fix_rls import Stream
from tests.integration.conftest import fresh_database
from tests.integration.replay_client import ReplayClient
from tests.integration.rls_stage import OWN, rls_config
from tests.rls_helpers import roles
from tests.tokens import make_token
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

SESSION = "8f14e45f-ceea-467f-a1d0-"
SEED = int(os.environ.get("RLS_REPLAY_SEED", "7"))
TRIPS = int(os.environ.get("RLS_REPLAY_TRIPS", "15"))


class Viewer(ReplayClient):
    """A client that writes down each change that it is sent: its kind, its key, and its data."""

    def __init__(self, scene: Scene, sub: str = "ann", **claims: Any) -> None:
        super().__init__(scene.server.port, session=SESSION + sub, token=scene.token(sub, **claims))
        self.seen: list[tuple[str, int, str | None]] = []

    def _take(self, frame: Any) -> None:
        if frame["event"] != "postgres_changes":
            super()._take(frame)
            return
        data = frame["payload"]["data"]
        row = data.get("record") or data.get("old_record") or {}
        if row.get("id") == 0:
            self.fences += 1
            return
        self.seen.append((data["type"], row.get("id"), row.get("data")))

    fences = 0
    """How often it was shown the row that everybody sees."""


class Scene:
    """A server in RLS mode with a table whose rows have owners."""

    def __init__(self, database: Database, server: RealtimeServer, reader: str) -> None:
        self.database = database
        self.server = server
        self.reader = reader

    def token(self, sub: str, **claims: Any) -> str:
        return make_token({"role": self.reader, "sub": sub, **claims})

    @property
    def mode(self) -> RlsMode:
        assert isinstance(self.server.mode, RlsMode)
        return self.server.mode

    async def execute(self, *statements: str) -> None:
        for statement in statements:
            await asyncio.to_thread(self.database.execute, statement)

    async def until_handed(self) -> None:
        """Wait until the server has handed out everything that is committed, and has it proven."""
        replay, source = self.server.replay, self.server.source
        assert replay is not None
        known = source.stats().changes
        await self.execute("update item set data = coalesce(data, '') || '.' where id = 0")
        await eventually(lambda: source.stats().changes > known)
        await eventually(lambda: replay.handed == replay.log.end)
        await eventually(lambda: not self.mode.slow_viewers.busy_on_trial)
        await eventually(lambda: not replay.needs.without_proof())

    async def away(self, **claims: Any) -> Viewer:
        """Return a client that was live, and whose connection was cut."""
        client = Viewer(self, **claims)
        await client.come()
        await self.cut(client)
        return client

    async def cut(self, client: Viewer) -> None:
        """Cut a client that has proven what it has."""
        await self.until_handed()
        await client.cut()
        await eventually(lambda: self.server.open_connections == 0)

    async def come_back(self, client: Viewer, **claims: Any) -> Any:
        """Let a client come back, and wait until it is live."""
        if claims:
            client.token = self.token("ann", **claims)
        replay = self.server.replay
        assert replay is not None
        told = await client.come()
        await eventually(lambda: not replay.catch_up.stats().waiting)
        known = client.fences
        await self.execute("update item set data = '' where id = 0")
        await eventually(lambda: client.fences > known)
        return told

    async def shown(self, **claims: Any) -> dict[int, str]:
        """Return what SELECT shows with a token's claims."""
        return await asyncio.to_thread(self._shown, claims)

    def _shown(self, claims: dict[str, Any]) -> dict[int, str]:
        with psycopg.connect(self.database.dsn) as connection:
            token = psycopg.types.json.Json({"role": self.reader, **claims})
            connection.execute("select set_config('request.jwt.claims', %s::text, true)", [token])
            connection.execute(f'set local role "{self.reader}"')
            rows = connection.execute("select id, data from item where id > 0").fetchall()
        return dict(rows)


@pytest.fixture
def shop(stream: Stream) -> Iterator[tuple[Database, str, str]]:
    with roles(stream.server, "reader") as (reader,), fresh_database(stream.server) as database:
        database.execute(
            "create table item (id int primary key, owner text, data text);"
            " insert into item values (0, 'everybody', '');"
            " alter table item enable row level security;"
            f" create policy own on item using (id = 0 or {OWN});"
            f' grant select on item to "{reader}";'
            " create publication shop for table item"
        )
        yield database, reader, stream.plugin


@contextlib.asynccontextmanager
async def serve(shop: tuple[Database, str, str], **settings: str) -> AsyncIterator[Scene]:
    database, reader, plugin = shop
    given = {"REPLAY_WINDOW": "300000", "REPLAY_PING_INTERVAL": "50", "OUTPUT_PLUGIN": plugin}
    config = rls_config(database.dsn, **{**given, **settings})
    async with RealtimeServer(config) as server:
        await eventually(lambda: server.is_attached)
        yield Scene(database, server, reader)


@pytest_asyncio.fixture
async def scene(shop: tuple[Database, str, str]) -> AsyncIterator[Scene]:
    async with serve(shop) as scene:
        yield scene


async def test_a_client_comes_back_after_a_restart_and_gets_what_it_may_see(
    shop: tuple[Database, str, str],
) -> None:
    database, _, plugin = shop
    kept = {"SLOT_NAME": unique_name("slot"), "REPLAY_WAL_MB": "1024"}
    async with serve(shop, **kept) as scene:
        client = Viewer(scene)
        await client.come()
        if plugin == "pgoutput":
            query = "select 1 from pg_replication_slots where slot_name = %s"
            await eventually(lambda: database.execute(query, (f"{kept['SLOT_NAME']}_replay",)))
        await scene.execute("insert into item values (1, 'ann', 'a'), (2, 'bob', 'b')")
        await eventually(lambda: len(client.seen) == 1)
    for number, owner in ((3, "ann"), (4, "bob"), (5, "ann")):
        database.execute("insert into item values (%s, %s, 'x')", (number, owner))
    async with serve(shop, **kept) as scene:
        client.port = scene.server.port
        again = await client.come()
        # A slot of wal2json has no second one.
        assert again["resumed"] is (plugin == "pgoutput")
        await scene.execute("insert into item values (6, 'ann', 'x'), (7, 'bob', 'x')")
        await eventually(lambda: client.seen[-1][1] == 6)
        seen = [number for _, number, _ in client.seen]
        if plugin == "pgoutput":
            assert seen == [1, 3, 5, 6]
        assert not {2, 4, 7} & set(seen)
        await client.close()


async def test_a_client_that_comes_back_gets_what_it_missed_and_may_see(scene: Scene) -> None:
    client = Viewer(scene)
    first = await client.come()
    await scene.execute("insert into item values (1, 'ann', 'a'), (2, 'bob', 'b')")
    await scene.cut(client)
    await scene.execute(
        "insert into item values (3, 'ann', 'c')",
        "insert into item values (4, 'bob', 'd')",
        "insert into item values (5, 'ann', 'e')",
    )
    again = await scene.come_back(client)
    await scene.execute("insert into item values (6, 'ann', 'f')")
    await eventually(lambda: len(client.seen) == 4)
    assert client.seen == [
        ("INSERT", one, data) for one, data in zip((1, 3, 5, 6), "acef", strict=True)
    ]
    assert (first["resumed"], again["resumed"], client.gaps) == (False, True, [])
    await client.close()


async def test_a_join_that_took_long_may_have_been_given_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client ignores the answer, and what comes behind it, until it joins again."""
    monkeypatch.setattr(standing, "_PATIENCE", 0.2)
    client = Viewer(scene)
    with psycopg.connect(scene.database.dsn) as locker:
        locker.execute("lock table realtime.subscription in access exclusive mode")
        joining = asyncio.create_task(client.come())
        waiting = "select min(pid) from pg_locks where not granted having count(*) > 0"
        await eventually(lambda: scene.database.execute(waiting))
        began = time.monotonic()
        await eventually(lambda: time.monotonic() > began + 0.2)
    await joining
    await scene.execute("insert into item values (1, 'ann', 'a')")
    await eventually(lambda: client.seen)
    await scene.cut(client)
    await scene.come_back(client)
    assert client.seen == [("INSERT", 1, "a")] * 2
    await client.close()


async def test_versions_that_are_superseded_are_left_to_what_superseded_them(scene: Scene) -> None:
    client = await scene.away()
    await scene.execute(
        "insert into item values (1, 'ann', 'a'), (2, 'ann', 'b'), (3, 'ann', 'c')",
        "update item set data = 'aa' where id = 1",
        "update item set data = 'aaa' where id = 1",
        "delete from item where id = 2",
        "update item set owner = 'bob' where id = 3",
    )
    await scene.come_back(client)
    # A deleted row is named to all, as live; another's row is not.
    assert client.seen == [("UPDATE", 1, "aaa"), ("DELETE", 2, None)]
    await client.close()


async def test_the_new_joins_claims_decide(shop: tuple[Database, str, str]) -> None:
    shop[0].execute(
        "drop policy own on item; create policy team on item using"
        " (id = 0 or owner = current_setting('request.jwt.claims')::jsonb ->> 'team')"
    )
    async with serve(shop) as scene:
        client = Viewer(scene, team="red")
        await client.come()
        await scene.execute("insert into item values (1, 'red', 'a'), (2, 'blue', 'b')")
        await scene.cut(client)
        await scene.execute("insert into item values (3, 'red', 'c'), (4, 'blue', 'd')")
        told = await scene.come_back(client, team="blue")
        assert told["resumed"] is True
        assert client.seen == [("INSERT", 1, "a"), ("INSERT", 4, "d")]
        await client.close()


async def test_a_right_that_was_taken_away_shows_nothing(scene: Scene) -> None:
    client = await scene.away()
    await scene.execute(
        "insert into item values (1, 'ann', 'secret')",
        "drop policy own on item",
        "create policy fence on item using (id = 0)",
    )
    await scene.come_back(client)
    assert client.seen == []
    await client.close()


async def test_a_token_of_another_role_shows_what_that_role_may_read(
    shop: tuple[Database, str, str], stream: Stream
) -> None:
    with roles(stream.server, "other") as (other,):
        shop[0].execute(f'grant select (id, owner) on item to "{other}"')
        async with serve(shop) as scene:
            client = Viewer(scene)
            await client.come()
            await scene.execute("insert into item values (1, 'ann', 'a')")
            await scene.cut(client)
            await scene.execute(
                "insert into item values (2, 'ann', 'secret'), (3, 'bob', 'secret')"
            )
            # Whose token it is has not changed, so it goes on where it was.
            told = await scene.come_back(client, role=other)
            assert told["resumed"] is True
            assert client.seen == [("INSERT", 1, "a"), ("INSERT", 2, None)]
            await client.close()
        shop[0].execute(f'drop owned by "{other}"')


async def test_columns_whose_grant_was_revoked_are_not_shown(scene: Scene) -> None:
    client = await scene.away()
    await scene.execute(
        "insert into item values (1, 'ann', 'secret')",
        f'revoke select on item from "{scene.reader}"',
        f'grant select (id) on item to "{scene.reader}"',
    )
    await scene.come_back(client)
    # As SELECT shows it.
    assert client.seen == [("INSERT", 1, None)]
    await scene.execute(f'grant select on item to "{scene.reader}"')
    await scene.execute("insert into item values (2, 'ann', 'b')")
    await eventually(lambda: len(client.seen) == 2)
    assert client.seen[-1] == ("INSERT", 2, "b")
    await client.close()


async def test_a_table_whose_grant_was_revoked_is_not_shown(scene: Scene) -> None:
    client = await scene.away()
    await scene.execute(
        "insert into item values (1, 'ann', 'secret')",
        f'revoke select on item from "{scene.reader}"',
    )
    await client.connect()
    payload = {"config": {"postgres_changes": [client.binding]}, "access_token": client.token}
    await client.ask("phx_join", payload)
    replay = scene.server.replay
    assert replay is not None
    await eventually(lambda: not replay.catch_up.stats().waiting)
    await scene.execute(f'grant select on item to "{scene.reader}"')
    # Whoever comes now sees what is committed from now on.
    bob = Viewer(scene, "bob")
    await scene.come_back(bob)
    await bob.close()
    assert client.seen == []
    await client.close()


async def test_a_policy_that_fails_shows_nothing(scene: Scene) -> None:
    client = await scene.away()
    await scene.execute(
        "insert into item values (1, 'ann', 'secret'), (2, 'ann', 'secret')",
        "create policy broken on item as restrictive using (id <> 1 or 1 / (id - id) = 0)",
    )
    await scene.come_back(client)
    assert "secret" not in [data for _, number, data in client.seen if number == 1]
    assert ("INSERT", 1, "secret") not in client.seen
    await client.close()


async def test_a_policy_that_takes_too_long_costs_a_gap_and_not_the_live_changes(
    shop: tuple[Database, str, str],
) -> None:
    async with serve(shop, RLS_CHECK_TIMEOUT="300") as scene:
        client = await scene.away()
        await scene.execute(
            "insert into item values (1, 'ann', 'a')",
            "create policy slow on item as restrictive"
            " using (id <> 1 or (select pg_sleep(5)) is not null)",
        )
        await scene.come_back(client)
        assert (client.seen, client.gaps) == ([], ["rls_too_slow"])
        await scene.execute("insert into item values (2, 'ann', 'b')")
        await eventually(lambda: client.seen)
        assert client.seen == [("INSERT", 2, "b")]
        await client.close()


async def test_nobody_waits_for_another_whose_policies_sleep(
    shop: tuple[Database, str, str],
) -> None:
    """They come back at the same time, and their changes are checked together first."""
    shop[0].execute(
        "create policy slow on item as restrictive using (id = 0 or"
        " current_setting('request.jwt.claims')::jsonb ->> 'sub' <> 'sleeper'"
        " or (select pg_sleep(1)) is not null)"
    )
    async with serve(shop, RLS_CHECK_TIMEOUT="60000") as scene:
        subs = ("ann", "bob", "carol", "sleeper")
        clients = {sub: Viewer(scene, sub) for sub in subs}
        for client in clients.values():
            await client.come()
        await scene.until_handed()
        for client in clients.values():
            await client.cut()
        await eventually(lambda: scene.server.open_connections == 0)
        # Three rows, of each of which the sleeper is asked in a second.
        rows = ", ".join(
            f"({10 * place + number}, '{sub}', 'x')"
            for place, sub in enumerate(subs, 1)
            for number in range(3)
        )
        await scene.execute(f"insert into item values {rows}")
        for client in clients.values():
            assert (await client.come())["resumed"] is True
        await eventually(lambda: all(len(clients[sub].seen) == 3 for sub in subs[:-1]))
        # Its policies have not even been asked about one row when the others have everything.
        assert clients["sleeper"].seen == []
        await eventually(lambda: len(clients["sleeper"].seen) == 3)
        for place, client in enumerate(clients.values(), 1):
            assert [number for _, number, _ in client.seen] == [10 * place + n for n in range(3)]
            assert client.gaps == []
            await client.close()


async def test_whoever_asks_for_a_locked_table_waits_for_it_alone(
    shop: tuple[Database, str, str],
) -> None:
    """They come back at the same time, and what they missed is in one transaction."""
    database, reader, _ = shop
    database.execute(
        "create table note (id int primary key, owner text, data text);"
        f" alter table note enable row level security; create policy own on note using ({OWN});"
        f' grant select on note to "{reader}"; alter publication shop add table note'
    )
    async with serve(shop) as scene:
        replay = scene.server.replay
        assert replay is not None
        ann, bob = Viewer(scene, "ann"), Viewer(scene, "bob")
        bob.binding = {**bob.binding, "table": "note"}
        for client in (ann, bob):
            await client.come()
        await scene.until_handed()
        for client in (ann, bob):
            await client.cut()
        await eventually(lambda: scene.server.open_connections == 0)
        await scene.execute(
            "insert into item values (1, 'ann', 'a'); insert into note values (2, 'bob', 'b')"
        )
        with psycopg.connect(database.dsn) as locker:
            locker.execute("lock table item in access exclusive mode")
            for client in (ann, bob):
                assert (await client.come())["resumed"] is True
            await eventually(lambda: bob.seen)
            await eventually(lambda: replay.catch_up.stats().waiting == 1)
            # It is in no round, so it holds up nobody who comes back after it.
            await eventually(lambda: not replay.catch_up.stats().running)
            assert ann.seen == []
        await eventually(lambda: ann.seen)
        assert (ann.seen, bob.seen) == ([("INSERT", 1, "a")], [("INSERT", 2, "b")])
        for client in (ann, bob):
            assert client.gaps == []
            await client.close()


async def test_what_waits_for_a_slow_policy_is_not_lost_with_the_connection(
    shop: tuple[Database, str, str],
) -> None:
    shop[0].execute(
        "create table pace (seconds float8);"
        " insert into pace values (0);"
        f' grant select on pace to "{shop[1]}";'
        " create policy slow on item as restrictive using"
        " (id = 0 or (select pg_sleep(seconds) from pace) is not null)"
    )
    async with serve(shop, RLS_CHECK_TIMEOUT="20000") as scene:
        replay = scene.server.replay
        assert replay is not None
        client = Viewer(scene)
        await client.come()
        await scene.execute("insert into item values (1, 'ann', 'a')")
        await eventually(lambda: client.seen)
        await scene.until_handed()
        await scene.execute("update pace set seconds = 3")
        await scene.execute("insert into item values (2, 'ann', 'b')")
        # It waits for the policy by itself, and the stream has gone on.
        await eventually(lambda: bool(scene.mode.slow_viewers.slow))
        await eventually(lambda: replay.handed == replay.log.end)
        assert client.seen == [("INSERT", 1, "a")]
        await eventually(lambda: not replay.needs.without_proof())
        await client.cut()
        await eventually(lambda: scene.server.open_connections == 0)
        await scene.execute("update pace set seconds = 0")
        await scene.come_back(client)
        assert client.seen == [("INSERT", 1, "a"), ("INSERT", 2, "b")]
        assert client.gaps == []
        await client.close()


async def test_who_gets_another_token_while_a_batch_is_checked_misses_nothing_in_silence(
    shop: tuple[Database, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The viewer becomes slow with this very batch, and the connection breaks before the slow
    policies have answered."""
    shop[0].execute(
        "create table pace (seconds float8);"
        " insert into pace values (0);"
        f' grant select on pace to "{shop[1]}";'
        " create policy slow on item as restrictive using"
        " (id <> 2 or current_setting('request.jwt.claims')::jsonb ? 'device'"
        " or (select pg_sleep(seconds) from pace) is not null)"
    )
    async with serve(shop, RLS_CHECK_TIMEOUT="60000") as scene:
        replay, slow = scene.server.replay, scene.mode.slow_viewers
        assert replay is not None
        stays, moves = Viewer(scene), Viewer(scene)
        moves.session = SESSION + "another"
        await stays.come()
        await moves.come()
        await scene.execute("insert into item values (1, 'ann', 'a')")
        await eventually(lambda: stays.seen and moves.seen)
        await scene.until_handed()
        await scene.execute("update pace set seconds = 20")
        moves.token = scene.token("ann", device="2")
        check = Checker.check
        checks = 0

        async def check_and_replace(self: Checker, *args: Any, **kwargs: Any) -> Any:
            nonlocal checks
            checks += 1
            if checks == 1:
                await moves.send("access_token", {"access_token": moves.token})
                hub = scene.server.hub
                await eventually(lambda: len({group.viewer for group in hub.groups()}) == 2)
            return await check(self, *args, **kwargs)

        monkeypatch.setattr(Checker, "check", check_and_replace)
        await scene.execute("insert into item values (2, 'ann', 'b')")
        await eventually(lambda: bool(slow.slow))
        await eventually(lambda: replay.handed == replay.log.end)
        known = moves.fences
        await scene.execute("update item set data = '.' where id = 0")
        await eventually(lambda: moves.fences > known)
        await eventually(lambda: not replay.needs.without_proof())
        assert [number for _, number, _ in stays.seen] == [1]
        await moves.cut()
        await eventually(lambda: scene.server.open_connections == 1)
        await scene.come_back(moves)
        assert moves.gaps == ["token_replaced"]
        await stays.cut()
        await moves.close()


async def test_nothing_is_shown_that_select_would_not_show(scene: Scene) -> None:
    """Rows change owners and go while clients are away: at random, by RLS_REPLAY_SEED."""
    print("seed", SEED)
    chance = random.Random(SEED)
    clients = {sub: Viewer(scene, sub) for sub in ("ann", "bob")}
    for client in clients.values():
        await client.come()
    for trip in range(TRIPS):
        await scene.until_handed()
        for client in clients.values():
            await client.cut()
        await eventually(lambda: scene.server.open_connections == 0)
        for step in range(chance.randrange(1, 12)):
            number, data = chance.randrange(1, 9), f"{trip}-{step}"
            owner = chance.choice(("ann", "bob", "nobody"))
            await scene.execute(
                chance.choice(
                    (
                        f"insert into item values ({number}, '{owner}', '{data}')"
                        f" on conflict (id) do update set data = '{data}'",
                        f"update item set data = '{data}' where id = {number}",
                        f"update item set owner = '{owner}' where id = {number}",
                        f"delete from item where id = {number}",
                    )
                )
            )
        for sub, client in clients.items():
            known = len(client.seen)
            told = await scene.come_back(client)
            assert told["resumed"] is True
            visible = await scene.shown(sub=sub)
            new = client.seen[known:]
            for kind, number, data in new:
                if kind == "DELETE":
                    assert data is None
                else:
                    assert visible[number] == data
    for client in clients.values():
        assert client.gaps == []
        await client.close()
