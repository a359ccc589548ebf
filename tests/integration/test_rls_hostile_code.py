"""What a row's values, and the code of a table's owner, do to others in RLS mode: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from realtime_server.rls.mode import RlsMode
from tests.fix_postgres import Server
from tests.integration.rls_stage import RlsStage, open_rls_stage
from tests.waiting import eventually

pytestmark = [
    pytest.mark.integration,
    pytest.mark.pg17,
    pytest.mark.asyncio(loop_scope="module"),
]

FORGETS = (
    "create function forgets(text) returns bool language plpgsql as"
    " $$ begin execute 'deallocate all'; return true; end $$"
)
MORE_THAN_ARE_NEEDED_TO_PREPARE = 12
TIMEOUT = 0.5


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stage(pg17: Server) -> AsyncIterator[RlsStage]:
    async with open_rls_stage(
        pg17, MAX_RECORD_BYTES="100000", RLS_CHECK_TIMEOUT=f"{TIMEOUT * 1000:.0f}"
    ) as stage:
        yield stage


@pytest.fixture
def stage(module_stage: RlsStage) -> Iterator[RlsStage]:
    with module_stage.scene():
        yield module_stage


async def test_a_policy_that_deallocates_statements_keeps_nothing_back(
    stage: RlsStage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.execute(FORGETS)
    stage.make("bad", "id int primary key", f"{stage.schema}.forgets('')")
    stage.make("good", "id int primary key", "true")
    numbers = range(MORE_THAN_ARE_NEEDED_TO_PREPARE)
    async with stage.client() as ann, stage.client("bob") as bob:
        await ann.sit(stage.topic("bad"))
        await bob.sit(stage.topic("good"))
        for number in numbers:
            stage.execute(f"insert into bad values ({number})")
            stage.execute(f"insert into good values ({number})")
            await stage.settle()
        for client in (ann, bob):
            rows = [frame["payload"]["record"] for frame in await client.drain()]
            assert rows == [{"id": number} for number in numbers]
    assert "changes wait" not in caplog.text


async def test_a_policy_that_hangs_for_many_does_not_hold_others_up_for_each_of_them(
    stage: RlsStage,
) -> None:
    sub = "current_setting('request.jwt.claims')::jsonb ->> 'sub'"
    stage.make("bad", "id int primary key", f"{sub} = 'fast' or pg_sleep(30) is not null")
    stage.make("good", "id int primary key", "true")
    many = 16
    async with contextlib.AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(stage.client(f"slow{n}")) for n in range(many)]
        fast, other = [
            await stack.enter_async_context(stage.client(sub)) for sub in ("fast", "other")
        ]
        for client in (*slow, fast):
            await client.sit(stage.topic("bad"))
        await other.sit(stage.topic("good"))
        stage.execute("insert into bad values (1)", "insert into good values (1)")
        assert (await other.receive())["payload"]["record"] == {"id": 1}
        mode = stage.server.mode
        assert isinstance(mode, RlsMode)
        assert len(mode.slow_viewers.slow) < many / 2
        assert (await fast.receive())["payload"]["record"] == {"id": 1}
        for client in slow:
            [error] = (await client.receive())["payload"]["errors"]
            assert error.endswith("row level security took too long")
        # Who has taken no time is asked for with the others again, and misses nothing.
        stage.execute("insert into bad values (2)", "insert into bad values (3)")
        rows = [(await fast.receive())["payload"]["record"] for _ in range(2)]
        assert rows == [{"id": 2}, {"id": 3}]
        assert len(mode.slow_viewers.slow) == many


async def test_a_policy_that_fails_for_each_row_is_logged_once_in_a_while(
    stage: RlsStage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.make("bad", "id int primary key", "1 / (id - id) = 1")
    async with stage.client() as client:
        await client.sit(stage.topic("bad"))
        for number in range(10):
            told = await stage.frames(client, f"insert into bad values ({number})")
            assert len(told) == 1
    assert caplog.text.count(f"row level security of {stage.schema}.bad failed for a role") == 1


async def test_a_function_that_is_wrongly_immutable_shows_nobody_anothers_rows(
    stage: RlsStage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.execute(
        "create function uid() returns text language sql immutable as"
        " $$ select current_setting('request.jwt.claims')::jsonb ->> 'sub' $$"
    )
    stage.make("notes", "id int primary key, owner text", "owner = uid()")
    owners = ["ann", "bob", "eve"] * 4
    async with stage.client("ann") as ann, stage.client("bob") as bob:
        await ann.sit(stage.topic("notes"))
        await bob.sit(stage.topic("notes"))
        for number, owner in enumerate(owners):
            stage.execute(f"insert into notes values ({number}, '{owner}')")
            await stage.settle()
        for sub, client in (("ann", ann), ("bob", bob)):
            rows = [frame["payload"]["record"] for frame in await client.drain()]
            own = [number for number, owner in enumerate(owners) if owner == sub]
            assert rows == [{"id": number, "owner": sub} for number in own]
    assert caplog.text.count(f"call {stage.schema}.uid(), declared IMMUTABLE") == 1


async def test_a_type_that_deallocates_statements_lets_others_join(stage: RlsStage) -> None:
    stage.execute(FORGETS, "create domain odd as text check (forgets(value))")
    stage.execute(f"alter function forgets set search_path to {stage.schema}")
    stage.make("bad", "id int primary key, value odd", "true")
    stage.make("good", "id int primary key", "true")
    async with stage.client(vsn="2.0.0") as ann, stage.client("bob", vsn="2.0.0") as bob:
        for number in range(MORE_THAN_ARE_NEEDED_TO_PREPARE):
            await ann.sit(stage.topic("bad", f"value=eq.{number}"))
            await bob.sit(stage.topic("good", f"id=eq.{number}"))


@pytest.mark.parametrize(
    "document",
    [
        "('[' || repeat('1', 5000) || ']')::json",
        "('[' || repeat('1', 4350) || ']')::json",
        "(repeat('[', 2000) || repeat(']', 2000))::json",
        """'["\\ud800"]'::json""",
        """('["' || repeat('x', 5000) || '"]')::json""",
    ],
    ids=["long digits", "digits", "levels", "half a pair", "long"],
)
async def test_a_large_change_with_json_that_python_cannot_read_is_told(
    stage: RlsStage, document: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage.make("notes", "id int primary key, document json, body text, tags int[]", "true")
    async with stage.client() as client:
        await client.sit(stage.topic("notes"))
        [told] = await stage.payloads(
            client,
            f"insert into notes values (1, {document}, repeat('x', 200000), '{{1,2}}')",
        )
    assert told["errors"] == ["Error 413: Payload Too Large"]
    shown = dict(told["record"])
    shown.pop("document", None)
    assert shown == {"id": 1, "tags": [1, 2]}
    assert "Traceback" not in caplog.text


async def test_a_policy_that_ends_the_session_fails_for_its_viewer_alone(
    stage: RlsStage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.execute(
        "create function ends() returns bool language plpgsql as $$ begin"
        " if current_setting('request.jwt.claims')::json ->> 'sub' = 'eve' then reset role;"
        " perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(0.1); end if;"
        " return true; end $$"
    )
    stage.make("bad", "id int primary key", f"{stage.schema}.ends()")
    stage.make("good", "id int primary key", "true")
    async with stage.client() as ann, stage.client("bob") as bob, stage.client("eve") as eve:
        for client in (ann, eve):
            await client.sit(stage.topic("bad"))
        await bob.sit(stage.topic("good"))
        stage.execute("insert into bad values (1), (2)")
        stage.execute("insert into good values (1)")
        assert (await bob.receive())["payload"]["record"] == {"id": 1}
        assert [(await ann.receive())["payload"]["record"]["id"] for _ in range(2)] == [1, 2]
        for _ in range(2):
            assert "Error 500" in (await eve.receive())["payload"]["errors"][0]
    assert "changes wait" not in caplog.text


async def test_a_type_whose_check_ends_the_session_is_shown_as_text(
    stage: RlsStage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.execute(
        "create function ends(text) returns bool language plpgsql as $$ begin"
        " if current_setting('application_name') like 'realtime_server%' then"
        " perform set_config('transaction_timeout', '5ms', true); perform pg_sleep(0.3); end if;"
        " return true; end $$"
    )
    stage.execute("create domain told as text check (ends(value)); create type kept as (a told)")
    stage.make("bad", "id int primary key, data kept", "true")
    stage.make("good", "id int primary key", "true")
    async with stage.client() as ann, stage.client("bob") as bob:
        await ann.sit(stage.topic("bad"))
        await bob.sit(stage.topic("good"))
        stage.execute("insert into bad values (1, row('secret'))")
        stage.execute("insert into good values (1)")
        assert (await bob.receive())["payload"]["record"] == {"id": 1}
        assert (await ann.receive())["payload"]["record"] == {"id": 1, "data": "(secret)"}
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert any("ends the session" in line for line in lines)
    assert not any("secret" in line for line in lines)


async def test_a_locked_table_keeps_back_nobody_elses_changes(stage: RlsStage) -> None:
    # While the first row is looked at, the lock waits, and is there when the second would be.
    stage.make(
        "bad", "id int primary key", "pg_sleep(case id when 1 then 0.2 else 0 end)::text = ''"
    )
    stage.make("good", "id int primary key", "true")
    async with stage.client() as ann, stage.client("bob") as bob:
        await ann.sit(stage.topic("bad"))
        await bob.sit(stage.topic("good"))
        stage.execute("insert into bad values (1)")
        with stage.database.connect() as locker:
            sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
            await eventually(lambda: locker.execute(sleeping).fetchall() == [(1,)])
            stage.execute("insert into bad values (2)")
            stage.execute("insert into good values (1)")
            with locker.transaction():
                await asyncio.to_thread(
                    locker.execute, f"lock table {stage.schema}.bad in access exclusive mode"
                )
                assert (await bob.receive())["payload"]["record"] == {"id": 1}
                stage.execute("insert into good values (2)")
                assert (await bob.receive())["payload"]["record"] == {"id": 2}
        assert [(await ann.receive())["payload"]["record"]["id"] for _ in range(2)] == [1, 2]
