"""Whatever happens to the database while a client is away, it gets what one that stayed has got.

Two clients have the same channels; one of them is away while the statements of a scene are run.
When it is back, both must have been told the same, apart from what came to it twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from realtime_server.config import ServerConfig
from tests.e2e.program import NodeProgram, Program
from tests.e2e.replay.clients import identify
from tests.e2e.replay.wire import Wire
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.waiting import eventually

WINDOW = int(os.environ.get("REPLAY_WINDOW", getattr(ServerConfig(), "replay_window", 0)))

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.xfail(
        WINDOW == 0, reason="the server replays nothing", run="REPLAY_FAULTS" in os.environ
    ),
]

Line = dict[str, Any]

ALL = {"event": "*", "schema": "public", "table": "item"}
TRUNCATES = {"event": "TRUNCATE", "schema": "public", "table": "item"}


@dataclass(frozen=True)
class Scene:
    """What happens while a client is away.

    Args:
        name: of the scene.
        statements: that are run, one after the other.
        bindings: of the clients' channel.
        before: statements that are run before they join.
    """

    name: str
    statements: tuple[str, ...]
    bindings: tuple[Any, ...] = (ALL,)
    before: tuple[str, ...] = ()


SCENES = (
    Scene(
        "each kind of change",
        (
            "insert into item values (2, 'b'), (3, 'c')",
            "update item set note = upper(note)",
            "update item set id = 4 where id = 3",
            "delete from item where id = 2",
            "begin; insert into item values (9); rollback",
            "insert into other values (1)",
        ),
    ),
    Scene(
        "a column comes, is renamed, gets another type, and goes",
        (
            "insert into item values (2, 'before')",
            "alter table item add column price int default 7",
            "insert into item values (3, 'with a price', 8)",
            "alter table item rename column price to cost",
            "update item set cost = 9 where id = 2",
            "alter table item alter column cost type text",
            "insert into item values (4, 'text', 'ten')",
            "alter table item drop column note",
            "insert into item (id) values (5)",
        ),
    ),
    Scene(
        "all old rows are shown from some time on",
        (
            "update item set note = 'b'",
            "alter table item replica identity full",
            "update item set note = 'c'",
            "delete from item",
        ),
    ),
    Scene(
        "the table is emptied",
        (
            "insert into item values (2, 'b')",
            "truncate item",
            "insert into item values (1, 'again')",
            "truncate item, other",
        ),
        bindings=(ALL, TRUNCATES),
    ),
    Scene(
        "the table is dropped and made anew",
        (
            "insert into item values (2, 'the old one')",
            "drop table item",
            "create table item (id int8 primary key, note text, more int)",
            "alter publication changes add table item",
            "insert into item values (1, 'the new one', 2)",
        ),
    ),
    Scene(
        "filters let some rows through",
        (
            "insert into item select id, 'row ' || id from generate_series(2, 20) as id",
            "update item set note = 'left' where id = 12",
            "update item set id = id + 100 where id < 5",
            "delete from item where id > 15",
        ),
        bindings=(
            {**ALL, "filter": "id=gt.10"},
            {**ALL, "filter": "note=like.row*", "leaves": True},
            {**ALL, "event": "INSERT", "filter": "id=in.(3,5,7)"},
        ),
        before=("alter table item replica identity full",),
    ),
    Scene(
        "columns are selected",
        (
            "insert into item values (2, 'b')",
            "update item set note = 'c' where id = 2",
            "delete from item where id = 2",
        ),
        bindings=({**ALL, "select": ["note"]}, {**ALL, "schema": "public", "table": "other"}),
    ),
    Scene(
        "a filter fits no longer, and then again",
        (
            "insert into item values (11, 'fits')",
            "alter table item rename column id to key",
            "insert into item values (12, 'does not')",
            "alter table item rename column key to id",
            "insert into item values (13, 'fits')",
        ),
        bindings=({**ALL, "filter": "id=gt.10"},),
    ),
    Scene(
        "the publication loses a table and gets it back",
        (
            "insert into item values (2, 'published')",
            "alter publication changes drop table item",
            "insert into item values (3, 'not published')",
            "insert into other values (2)",
            "alter publication changes add table item",
            "insert into item values (4, 'published')",
        ),
        bindings=(ALL, {"event": "*", "schema": "public", "table": "other"}),
    ),
    Scene(
        "a row is larger than a message may be",
        (
            "insert into item values (2, repeat('x', 2000000))",
            "update item set note = 'small' where id = 2",
        ),
    ),
)


@pytest.fixture
def items(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute(
            """
            create table item (id int8 primary key, note text);
            create table other (id int8 primary key);
            create publication changes for table item, other
            """
        )
        yield database


@contextlib.asynccontextmanager
async def joined(
    clients: Path, server: ServerProcess, bindings: tuple[Any, ...]
) -> AsyncIterator[tuple[Wire, Program]]:
    """Yield a client that has joined one channel, and its network."""
    options = json.dumps({"params": identify("session"), "heartbeatIntervalMs": 1000})
    async with Wire(lambda: server.port) as wire:
        url = f"ws://127.0.0.1:{wire.port}/socket"
        with NodeProgram(clients / "realtime_js_2.mjs", url, options) as program:
            program.tell(subscribe="room", bindings=bindings)
            await eventually(lambda: program.count(status="SUBSCRIBED"))
            yield wire, program


def told(program: Program) -> list[Line]:
    """Return what the channel was told: changes, errors and gaps, each once, in order."""
    found: list[Line] = []
    for line in [*program.said]:
        system = line.get("system", {})
        is_news = "change" in line or "gap" in system or system.get("status") == "error"
        if is_news and line not in found:
            found.append(line)
    return found


def is_last(line: Line) -> bool:
    return bool(line.get("change", {}).get("new", {}).get("id") == LAST)


LAST = 1000


async def until_told_of_the_last(program: Program) -> None:
    await eventually(lambda: any(is_last(line) for line in told(program)))


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
async def test_who_was_away_gets_what_who_stayed_got(
    scene: Scene, items: Database, clients: Path
) -> None:
    for statement in (*scene.before, "insert into item values (1, 'a')"):
        items.execute(statement)
    with ServerProcess(items, publications='["changes"]') as server:
        async with (
            joined(clients, server, scene.bindings) as (_, stayed),
            joined(clients, server, scene.bindings) as (wire, went),
        ):
            with wire.down():
                for statement in scene.statements:
                    await asyncio.to_thread(items.execute, statement)
            await eventually(lambda: went.count(status="SUBSCRIBED") == 2)
            await asyncio.to_thread(items.execute, f"insert into item (id) values ({LAST})")
            await until_told_of_the_last(stayed)
            await until_told_of_the_last(went)
            assert told(went) == told(stayed)
            assert len(told(stayed)) > 1


async def test_a_gap_of_the_stream_comes_in_its_place(items: Database, clients: Path) -> None:
    slot = unique_name("slot")
    with ServerProcess(items, publications='["changes"]', SLOT_NAME=slot) as server:
        async with (
            joined(clients, server, (ALL,)) as (_, stayed),
            joined(clients, server, (ALL,)) as (wire, went),
        ):
            with wire.down():
                await asyncio.to_thread(items.execute, "insert into item values (1, 'before')")
                await eventually(lambda: told(stayed))
                await asyncio.to_thread(lose, items, slot)
                await eventually(lambda: any("system" in line for line in told(stayed)))
                await asyncio.to_thread(items.execute, "insert into item values (2, 'behind')")
                await eventually(lambda: len(told(stayed)) == 3)
            await eventually(lambda: went.count(status="SUBSCRIBED") == 2)
            await asyncio.to_thread(items.execute, f"insert into item (id) values ({LAST})")
            await until_told_of_the_last(stayed)
            await until_told_of_the_last(went)
            before, gap, behind, _ = told(stayed)
            assert (before["change"]["new"]["id"], behind["change"]["new"]["id"]) == (1, 2)
            assert gap["system"]["gap"]["reason"] == "slot_missing"
            assert told(went) == told(stayed)


def lose(items: Database, slot: str) -> None:
    """Drop the slot that the server reads from."""
    items.execute(
        f"""
        do $$
        begin
            loop
                begin
                    perform pg_terminate_backend(active_pid, 5000)
                        from pg_replication_slots where slot_name = '{slot}' and active;
                    perform pg_drop_replication_slot('{slot}');
                    return;
                exception when object_in_use then
                end;
            end loop;
        end $$
        """
    )
