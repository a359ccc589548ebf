"""What changes while clients are away shows them nothing that a SELECT with their new token hides.

For each way to take rows away from somebody, or to give them to somebody else, while a client that
listened to them is away: whatever it is shown when it has come back is what its new token's SELECT
shows then, and what that shows of the rows that were written meanwhile is not left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import attrs
import psycopg
import pytest

from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server
from tests.fix_rls import Stream
from tests.integration.conftest import fresh_database
from tests.integration.replay_client import ReplayClient
from tests.integration.rls_stage import OWN, rls_config
from tests.rls_helpers import roles
from tests.tokens import make_token
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

SESSION = "0c9e1b7a-55d2-4a7e-b3f1-"
TABLE = (
    "create table item (id int, owner text, data text, primary key (id))",
    "insert into item values (0, 'everybody', ''), (1, 'ann', 'a'), (2, 'bob', 'b')",
)
PARTITIONED = (
    "create table item (id int, owner text, data text, part int, primary key (id, part))"
    " partition by list (part)",
    "create table part_1 partition of item for values in (1)",
    "create table part_2 partition of item for values in (2)",
    "insert into item values (0, 'everybody', '', 1), (1, 'ann', 'a', 1), (2, 'bob', 'b', 2)",
)
PROTECTED = (
    "alter table item enable row level security",
    f"create policy own on item using (id = 0 or {OWN})",
    "grant select on item to {reader}, {other}",
)
WRITTEN = "insert into item values (3, 'ann', 'c'), (4, 'bob', 'd'), (5, 'ann', 'e')"


@attrs.frozen
class Scenario:
    """What happens while a client is away, and what it is shown of that."""

    meanwhile: Sequence[str]
    shown: Sequence[tuple[str, int]] = ()
    """The kinds and keys of what it is shown."""
    table: Sequence[str] = TABLE
    shown_by_wal2json: Sequence[tuple[str, int]] | None = None
    """If it is shown something else where the changes come from wal2json."""
    role: str = "reader"
    """Of its new token."""
    sub: str = "ann"
    settings: Mapping[str, str] = attrs.field(factory=dict)
    afterwards: Sequence[str] = ()


DELETED = {"RLS_DELETE": "policy"}
OWNERS = [("INSERT", 3), ("INSERT", 5)]
ALL = [("INSERT", 3), ("INSERT", 4), ("INSERT", 5)]

SCENARIOS = {
    "nothing else": Scenario([WRITTEN], OWNERS),
    "the role becomes the owner": Scenario([WRITTEN, "alter table item owner to {reader}"], ALL),
    "the role was the owner": Scenario(
        [WRITTEN, "alter table item owner to {other}", "grant select on item to {reader}"],
        OWNERS,
        (*TABLE, "alter table item owner to {reader}"),
    ),
    "the owner is forced": Scenario(
        [WRITTEN, "alter table item force row level security"],
        OWNERS,
        (*TABLE, "alter table item owner to {reader}"),
    ),
    "rows get another owner": Scenario(
        [WRITTEN, "update item set owner = 'bob' where id = 3", "update item set owner = 'ann'"
         " where id = 4"],
        [("INSERT", 5), ("UPDATE", 4)],
    ),
    "keys change hands": Scenario(
        [WRITTEN, "update item set id = 13 where id = 3", "update item set id = 3 where id = 4"],
        [("INSERT", 5), ("UPDATE", 13)],
    ),
    "all is truncated": Scenario(
        [WRITTEN, "truncate item", "insert into item values (0, '', '')"]
    ),
    "others' rows have the keys": Scenario(
        [WRITTEN, "truncate item", "insert into item values (0, '', ''), (3, 'bob', 'c'),"
         " (5, 'ann', 'other')"],
        [("INSERT", 5)],
    ),
    "the table is another": Scenario(
        [
            WRITTEN,
            "drop table item",
            *TABLE,
            *PROTECTED,
            "insert into item values (3, 'ann', 'x'), (5, 'bob', 'e')",
            "alter publication shop add table item",
        ],
        # The publication has it from its last statement on; wal2json writes all tables.
        [],
        shown_by_wal2json=[("INSERT", 1), ("INSERT", 3)],
    ),
    "the table's name is another's": Scenario(
        [
            WRITTEN,
            "alter table item rename to former",
            *TABLE,
            "insert into item values (3, 'ann', 'c'), (5, 'ann', 'e')",
            *PROTECTED,
            "drop policy own on item",
            "create policy none on item using (id = 0)",
            "alter publication shop add table item",
        ],
    ),
    "a column is another": Scenario(
        [
            WRITTEN,
            "alter table item drop column data",
            "alter table item add column data text default 'hidden'",
        ],
    ),
    "row level security is turned off": Scenario(
        [WRITTEN, "alter table item disable row level security"], ALL
    ),
    "it is turned on": Scenario(
        ["alter table item disable row level security", WRITTEN, "alter table item enable row level"
         " security"],
        OWNERS,
    ),
    "the role may bypass it": Scenario([WRITTEN, "alter role {reader} bypassrls"], ALL),
    "the role may bypass it no more": Scenario(
        ["alter role {reader} bypassrls", WRITTEN, "alter role {reader} nobypassrls"], OWNERS
    ),
    "the role has another name": Scenario(
        # A role of the former name, which its token has, is another.
        [WRITTEN, "alter role {reader} rename to {former}", "alter role {other} rename to {reader}",
         "drop policy own on item", "create policy own on item to {former} using (true)",
         "create policy fence on item using (id = 0)"],
        afterwards=["alter role {reader} rename to {other}",
                    "alter role {former} rename to {reader}"],
    ),
    "it comes back as another role": Scenario(
        [WRITTEN, "revoke select on item from {other}", "grant select (id) on item to {other}"],
        OWNERS,
        role="other",
    ),
    "a policy for the other role": Scenario(
        [WRITTEN, "create policy few on item as restrictive to {other} using (id in (0, 3))"],
        [("INSERT", 3)],
        role="other",
    ),
    "a deleted row was another's": Scenario(
        [WRITTEN, "delete from item where id in (2, 3, 4)"],
        [("INSERT", 5), ("DELETE", 3)],
        (*TABLE, "alter table item replica identity full"),
        settings=DELETED,
    ),
    "a deleted row became another's": Scenario(
        [WRITTEN, "update item set owner = 'bob' where id = 3", "delete from item where id = 3",
         "update item set owner = 'ann' where id = 4", "delete from item where id = 4"],
        [("INSERT", 5), ("DELETE", 4)],
        (*TABLE, "alter table item replica identity full"),
        settings=DELETED,
    ),
    "the policy hides what was deleted": Scenario(
        [WRITTEN, "delete from item where id in (1, 3)", "drop policy own on item",
         "create policy fence on item using (id = 0 or id = 3)"],
        [("DELETE", 3)],
        (*TABLE, "alter table item replica identity full"),
        settings=DELETED,
    ),
}  # fmt: skip
OF_PARTITIONS = {
    "a row goes to another partition": Scenario(
        [
            "insert into item values (3, 'ann', 'c', 1), (4, 'bob', 'd', 1)",
            "update item set part = 2, owner = 'bob' where id = 3",
            "update item set part = 2, owner = 'ann' where id = 4",
        ],
        # A row that goes to another partition is deleted here and inserted there.
        [("DELETE", 3), ("DELETE", 4), ("INSERT", 4)],
        PARTITIONED,
    ),
    "a partition is detached": Scenario(
        ["insert into item values (3, 'ann', 'c', 2), (4, 'ann', 'd', 1)",
         "alter table item detach partition part_2"],
        [("INSERT", 4)],
        PARTITIONED,
    ),
    "a partition is replaced": Scenario(
        ["insert into item values (3, 'ann', 'c', 2), (5, 'ann', 'e', 2)",
         "alter table item detach partition part_2",
         "create table other_2 (like part_2 including all)",
         "insert into other_2 values (3, 'bob', 'c', 2), (5, 'ann', 'e', 2)",
         "alter table item attach partition other_2 for values in (2)"],
        [("INSERT", 5)],
        PARTITIONED,
    ),
}  # fmt: skip


class Client(ReplayClient):
    """Keeps each change that it is shown."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.seen: list[Any] = []
        self.fences = 0

    def _take(self, frame: Any) -> None:
        if frame["event"] != "postgres_changes":
            super()._take(frame)
            return
        data = frame["payload"]["data"]
        if (data.get("record") or data.get("old_record") or {}).get("id") == 0:
            self.fences += 1
        else:
            self.seen.append(data)


class Scene:
    """A database, a server on it, and the roles of tokens."""

    def __init__(self, database: Database, names: Mapping[str, str]) -> None:
        self.database = database
        self.names = names
        self.server: RealtimeServer

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.database.execute(statement.format(**self._quoted))

    @property
    def _quoted(self) -> dict[str, str]:
        return {name: f'"{role}"' for name, role in self.names.items()}

    async def until_handed(self) -> None:
        """Wait until the server has handed out what is committed, and has it proven."""
        replay, source = self.server.replay, self.server.source
        assert replay is not None
        known = source.stats().changes
        await asyncio.to_thread(self.run, "update item set data = data || '.' where id = 0")
        await eventually(lambda: source.stats().changes > known)
        await eventually(lambda: replay.handed == replay.log.end)
        await eventually(lambda: not replay.needs.without_proof())

    async def until_live(self, client: Client) -> None:
        replay = self.server.replay
        assert replay is not None
        await eventually(lambda: not replay.catch_up.stats().waiting)
        known = client.fences
        await asyncio.to_thread(self.run, "update item set data = '' where id = 0")
        await eventually(lambda: client.fences > known)

    def select(self, claims: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        """Return the rows that a SELECT with a token's claims shows, in columns that it may see."""
        with psycopg.connect(self.database.dsn) as connection:
            role = f'"{claims["role"]}"'
            query = (
                "select string_agg(quote_ident(attname), ', ') from pg_attribute"
                " where attrelid = 'item'::regclass and attnum > 0 and not attisdropped"
                " and has_column_privilege(%s, attrelid, attnum, 'select')"
            )
            row = connection.execute(query, [claims["role"]]).fetchone()
            assert row is not None
            connection.execute(
                "select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)]
            )
            connection.execute(f"set local role {role}".encode())
            rows = connection.execute(
                f"select to_jsonb(t) from (select {row[0]} from item where id > 0) t".encode()
            ).fetchall()
        return {each["id"]: each for (each,) in rows}


@contextlib.asynccontextmanager
async def play(stream: Stream, scenario: Scenario) -> AsyncIterator[Scene]:
    with (
        roles(stream.server, "reader", "other") as (reader, other),
        fresh_database(stream.server) as database,
    ):
        scene = Scene(database, {"reader": reader, "other": other, "former": f"{reader}_former"})
        scene.run(*scenario.table, *PROTECTED)
        scene.run("create publication shop for table item with (publish_via_partition_root)")
        given = {"REPLAY_WINDOW": "300000", "REPLAY_PING_INTERVAL": "50", **stream.settings}
        config = rls_config(database.dsn, **given, **scenario.settings)
        async with RealtimeServer(config) as server:
            await eventually(lambda: server.is_attached)
            scene.server = server
            yield scene
        scene.run(*scenario.afterwards)
        scene.run("drop owned by {reader}, {other} cascade")


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
async def test_a_client_that_comes_back_is_shown_what_its_select_shows(
    stream: Stream, scenario: Scenario
) -> None:
    await come_back(stream, scenario)


@pytest.mark.parametrize("scenario", OF_PARTITIONS.values(), ids=OF_PARTITIONS.keys())
async def test_so_is_who_listens_to_a_partitioned_table(pg18: Server, scenario: Scenario) -> None:
    # wal2json writes changes of partitions, which others listen to.
    await come_back(Stream(pg18, "pgoutput"), scenario)


async def come_back(stream: Stream, scenario: Scenario) -> None:
    """Let a client be away while a scenario is played, and compare what it is shown."""
    async with play(stream, scenario) as scene:
        token = make_token({"role": scene.names["reader"], "sub": "ann"})
        client = Client(scene.server.port, session=f"{SESSION}ann", token=token)
        await client.come()
        await scene.until_handed()
        await client.cut()
        await eventually(lambda: scene.server.open_connections == 0)
        await asyncio.to_thread(scene.run, *scenario.meanwhile)
        claims = {"role": scene.names[scenario.role], "sub": scenario.sub}
        client.token = make_token(claims)
        known = len(client.seen)
        await client.come()
        await scene.until_live(client)
        visible = await asyncio.to_thread(scene.select, claims)
        shown = client.seen[known:]
        wanted = scenario.shown
        if stream.plugin == "wal2json" and scenario.shown_by_wal2json is not None:
            wanted = scenario.shown_by_wal2json
        for data in shown:
            if data["type"] != "DELETE":
                record = data["record"]
                assert record == visible.get(record["id"]), data
        assert [
            (data["type"], (data.get("record") or data["old_record"])["id"]) for data in shown
        ] == list(wanted)
        await client.close()


async def test_claims_with_half_of_a_surrogate_pair_do_not_come_back(stream: Stream) -> None:
    async with play(stream, SCENARIOS["nothing else"]) as scene:
        reader = scene.names["reader"]
        client = Client(
            scene.server.port,
            session=f"{SESSION}ann",
            token=make_token({"role": reader, "sub": "ann"}),
        )
        await client.come()
        await scene.until_handed()
        await client.cut()
        await asyncio.to_thread(scene.run, WRITTEN)
        good = client.token
        await client.connect()
        forged = make_token({"role": reader, "sub": "ann\ud800"})
        payload = {"config": {"postgres_changes": [client.binding]}, "access_token": forged}
        assert (await client.ask("phx_join", payload))["status"] == "error"
        assert client.seen == []
        # Who has a good one still finds what was missed.
        client.token = good
        assert (await client.join())["resumed"] is True
        await scene.until_live(client)
        assert [data["record"]["id"] for data in client.seen] == [3, 5]
        await client.close()
