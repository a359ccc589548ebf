"""Policies that take their time: whoever has fast ones does not wait, and nobody loses anything."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from realtime_server.rls.mode import RlsMode
from tests.fix_postgres import Server
from tests.integration.rls_stage import RlsClient, RlsStage, open_rls_stage
from tests.waiting import eventually

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
]

SUB = "current_setting('request.jwt.claims')::jsonb ->> 'sub'"
TIMEOUT = 1.0
PATIENCE = 0.5
"""Seconds for which nobody waits, on a machine with much else to do."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stage(pg: Server) -> AsyncIterator[RlsStage]:
    async with open_rls_stage(pg, RLS_CHECK_TIMEOUT=str(round(TIMEOUT * 1000))) as stage:
        yield stage


@pytest.fixture
def stage(module_stage: RlsStage) -> Iterator[RlsStage]:
    with module_stage.scene():
        yield module_stage


async def ids(client: RlsClient, count: int) -> list[int]:
    """Return what the next frames' rows are."""
    return [(await client.receive())["payload"]["record"].get("id") for _ in range(count)]


async def times(stage: RlsStage, client: RlsClient, rows: range) -> list[float]:
    """Write rows one by one; return how long each took to come to a client."""
    found = []
    for row in rows:
        start = time.monotonic()
        stage.execute(f"insert into notes values ({row})")
        assert await ids(client, 1) == [row]
        found.append(time.monotonic() - start)
    return found


async def test_a_policy_that_is_slow_for_everybody_works(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key", "(select pg_sleep(0.2)) is not null")
    given_up, timeouts = (
        stage.metric(f"realtime_rls_{name}_total") for name in ("given_up", "timeouts")
    )
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(stage.client(f"one of {n}")) for n in range(6)]
        for client in clients:
            await client.sit(stage.topic("notes"))
        for row in range(30):
            stage.execute(f"insert into notes values ({row})")
        for client in clients:
            assert await ids(client, 30) == list(range(30))
    assert stage.metric("realtime_rls_given_up_total") == given_up
    assert stage.metric("realtime_rls_timeouts_total") == timeouts


async def test_a_policy_that_hangs_for_one_viewer_after_the_other_holds_nobody_up(
    stage: RlsStage,
) -> None:
    hangs = f"case when {SUB} like 'hanging%' then pg_sleep(60) is not null else true end"
    stage.make("notes", "id int primary key", hangs)
    async with stage.client("ann") as ann:
        await ann.sit(stage.topic("notes"))
        await times(stage, ann, range(5))
        for each in range(5):
            async with stage.client(f"hanging {each}") as hanging:
                await hanging.sit(stage.topic("notes"))
                first = 5 + each * 5
                assert max(await times(stage, ann, range(first, first + 5))) < PATIENCE


async def test_a_policy_that_begins_to_hang_holds_the_others_up_for_a_moment(
    stage: RlsStage,
) -> None:
    hangs = f"case when {SUB} like 'hanging%' and id > 9 then pg_sleep(60) is not null"
    stage.make("notes", "id int primary key", f"{hangs} else true end")
    async with stage.client("ann") as ann, contextlib.AsyncExitStack() as stack:
        await ann.sit(stage.topic("notes"))
        for each in range(3):
            hanging = await stack.enter_async_context(stage.client(f"hanging {each}"))
            await hanging.sit(stage.topic("notes"))
        await times(stage, ann, range(5))
        await stage.settle()
        # All are asked for together, as nobody is new.
        assert not mode_of(stage).slow_viewers.slow
        assert max(await times(stage, ann, range(10, 20))) < PATIENCE


async def test_a_policy_that_catches_every_cancellation_holds_nobody_up(stage: RlsStage) -> None:
    stage.execute(
        "create function stubborn() returns boolean language plpgsql as $$ begin loop"
        " begin perform pg_sleep(60); exception when query_canceled then null; end;"
        " end loop; end $$"
    )
    stage.make(
        "notes", "id int primary key", f"case when {SUB} = 'eve' then stubborn() else true end"
    )
    async with stage.client("ann") as ann, stage.client("eve") as eve:
        await ann.sit(stage.topic("notes"))
        await times(stage, ann, range(5))
        await eve.sit(stage.topic("notes"))
        assert max(await times(stage, ann, range(5, 20))) < PATIENCE
    # Its session is not left to itself.
    sleeping = (
        "select 1 from pg_stat_activity where datname = current_database()"
        " and application_name like 'realtime_server rls%' and wait_event = 'PgSleep'"
    )
    await eventually(lambda: not stage.execute(sleeping))


async def test_many_policies_that_end_in_time_hold_nobody_up(stage: RlsStage) -> None:
    """Forty that take 90 ms would take 3.6 s of each batch."""
    slow = f"case when {SUB} like 'slow%' then (select pg_sleep(0.09)) is not null else true end"
    stage.make("notes", "id int primary key", slow)
    async with stage.client("ann") as ann, contextlib.AsyncExitStack() as stack:
        await ann.sit(stage.topic("notes"))
        await times(stage, ann, range(3))
        clients = [await stack.enter_async_context(stage.client(f"slow {n}")) for n in range(40)]
        for client in clients:
            await client.sit(stage.topic("notes"))
        assert max(await times(stage, ann, range(3, 13))) < PATIENCE
        for client in clients:
            assert await ids(client, 10) == list(range(3, 13))


async def test_many_new_viewers_are_asked_for_together(stage: RlsStage) -> None:
    """As after a restart; one by one they would wait."""
    stage.make("notes", "id int primary key", "true")
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(stage.client(f"one of {n}")) for n in range(60)]
        for client in clients:
            await client.sit(stage.topic("notes"))
        stage.execute("insert into notes values (1)", "insert into notes values (2)")
        for client in clients:
            assert await ids(client, 2) == [1, 2]
        await stage.settle()
        assert not mode_of(stage).slow_viewers.slow


async def test_a_locked_table_is_waited_for_and_holds_no_other_up(stage: RlsStage) -> None:
    stage.make("locked", "id int primary key", "true")
    stage.make("notes", "id int primary key", "true")
    async with stage.client("ann") as ann, stage.client("bob") as bob:
        await ann.sit(stage.topic("notes"))
        await bob.sit(stage.topic("locked"))
        await times(stage, ann, range(5))
        stage.execute("insert into locked values (1)")
        assert await ids(bob, 1) == [1]
        with stage.database.connect() as connection:
            connection.execute("begin")
            connection.execute(f"insert into {stage.schema}.locked values (2)")
            connection.execute("commit")
            connection.execute("begin")
            connection.execute(f"lock table {stage.schema}.locked in access exclusive mode")
            assert max(await times(stage, ann, range(5, 10))) < PATIENCE
            connection.execute("commit")
        assert await ids(bob, 1) == [2]


@pytest.mark.parametrize("locked", ["locked", "members"])
async def test_a_lock_makes_no_viewer_slow_and_one_line(
    stage: RlsStage, caplog: pytest.LogCaptureFixture, locked: str
) -> None:
    """The lock of the table itself, and that of a table that its policy alone reads."""
    stage.make("members", "id int primary key", "true")
    stage.execute("insert into members values (1)")
    stage.make(
        "locked",
        "id int primary key",
        f"exists (select from {stage.schema}.members m where id > 0)",
    )
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(stage.client(f"one of {n}")) for n in range(30)]
        for client in clients:
            await client.sit(stage.topic("locked"))
        stage.execute("insert into locked values (1)")
        for client in clients:
            assert await ids(client, 1) == [1]
        with stage.database.connect() as connection:
            connection.execute("begin")
            connection.execute(f"insert into {stage.schema}.locked values (2)")
            connection.execute("commit")
            connection.execute("begin")
            connection.execute(f"lock table {stage.schema}.{locked} in access exclusive mode")
            await eventually(lambda: f"{locked} is locked" in caplog.text)
            # Longer than a policy may take.
            await asyncio.sleep(2 * TIMEOUT)
            assert not mode_of(stage).slow_viewers.slow
            connection.execute("commit")
        for client in clients:
            assert await ids(client, 1) == [2]
        assert not mode_of(stage).slow_viewers.slow
    assert caplog.text.count("is locked; changes that cannot be checked without it wait") == 1
    assert "takes too long" not in caplog.text


def mode_of(stage: RlsStage) -> RlsMode:
    mode = stage.server.mode
    assert isinstance(mode, RlsMode)
    return mode
