"""Viewers whose policies take too long: in order, bounded, forgotten, and told of what is lost."""

from __future__ import annotations

import gc
import json
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from realtime_core import Position
from realtime_server.rls import slow_viewer_queue
from realtime_server.rls.lookup.questions import Question, RowsToCheck
from realtime_server.rls.lookup.visibility import Visibility
from realtime_server.rls.mode import RlsMode
from realtime_server.rls.viewers import Viewer
from tests.fix_postgres import Server, unique_name
from tests.integration.rls_stage import RlsStage, open_rls_stage
from tests.tokens import claims_of
from tests.waiting import eventually

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
]

SLEEPS = """
    case when current_setting('request.jwt.claims')::jsonb ->> 'sub' = 'sleeper' and id < 10
    then pg_sleep(60) is not null else true end
"""
LATER = 4_102_444_800
SLOW = "insert into notes select generate_series(1, 8)"
"""Eight rows, of which it takes two seconds to find out that each of them is slow."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stage(pg: Server) -> AsyncIterator[RlsStage]:
    async with open_rls_stage(
        pg,
        RLS_CHECK_TIMEOUT="250",
        # What a statement writes is to be in one batch, once another one was just before.
        REPLICATION_POLL_INTERVAL="100",
    ) as stage:
        yield stage


@pytest.fixture
def stage(module_stage: RlsStage) -> Iterator[RlsStage]:
    with module_stage.scene():
        module_stage.make("notes", "id int primary key", SLEEPS)
        yield module_stage


def is_checking(stage: RlsStage) -> bool:
    return bool(
        stage.execute(
            "select 1 from pg_stat_activity where datname = current_database()"
            " and application_name like 'realtime_server rls%' and wait_event = 'PgSleep'"
        )
    )


def id_of(frame: Any) -> Any:
    return frame["payload"]["record"].get("id")


async def test_a_viewer_that_leaves_while_its_check_times_out_is_forgotten(
    stage: RlsStage,
) -> None:
    async with stage.client("sleeper") as sleeper, stage.client("ann") as ann:
        await sleeper.sit(stage.topic("notes"))
        viewer = weakref.ref(Viewer.of(claims_of(sleeper.token)))
        assert viewer() is not None
        await ann.sit(stage.topic("notes"))
        stage.execute("insert into notes values (1)")
        await eventually(lambda: is_checking(stage))
        await sleeper.send(stage.topic("notes"), "phx_leave", {}, ref="2")
        assert (await sleeper.receive())["event"] == "phx_reply"
        assert id_of(await ann.receive()) == 1
        await eventually(lambda: gc.collect() >= 0 and viewer() is None)


async def test_what_waited_for_a_token_that_is_replaced_is_a_gap(stage: RlsStage) -> None:
    given_up = stage.metric("realtime_rls_given_up_total")
    topic = stage.topic("notes")
    async with stage.client("sleeper") as sleeper:
        await sleeper.sit(topic)
        await stage.settle()
        stage.execute(SLOW)
        await stage.settle()
        stage.execute("insert into notes values (11)")
        await stage.settle()
        token = stage.token("sleeper", session="another")
        await sleeper.send(topic, "access_token", {"access_token": token})
        frame = await sleeper.receive()
        assert (frame["topic"], frame["event"]) == (topic, "system")
        assert frame["payload"]["message"] == "Gap: token_replaced"
        assert stage.metric("realtime_rls_given_up_total") == given_up + 9
        # It goes on in the name of the other one.
        stage.execute("insert into notes values (12)")
        assert id_of(await sleeper.receive()) == 12


async def test_a_channel_whose_token_is_replaced_is_told_though_others_have_it_still(
    stage: RlsStage,
) -> None:
    topic = stage.topic("notes")
    async with (
        stage.client("sleeper", exp=LATER) as one,
        stage.client("sleeper", exp=LATER) as other,
    ):
        await one.sit(topic)
        await other.sit(topic)
        await stage.settle()
        stage.execute(SLOW)
        await stage.settle()
        token = stage.token("sleeper", session="another")
        await one.send(topic, "access_token", {"access_token": token})
        frame = await one.receive()
        assert frame["payload"]["message"] == "Gap: token_replaced"
        errors = [(await other.receive())["payload"]["errors"] for _ in range(8)]
        assert (
            errors == [["Error 500: Internal Server Error, row level security took too long"]] * 8
        )


async def test_when_too_much_waits_the_channel_is_told_in_order_and_goes_on(
    stage: RlsStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_viewer_queue, "_MOST_WAITING", 5)
    given_up = stage.metric("realtime_rls_given_up_total")
    async with stage.client("sleeper") as sleeper:
        await sleeper.sit(stage.topic("notes"))
        await stage.settle()
        stage.execute(SLOW)
        await stage.settle()
        for first in (11, 15, 19):
            stage.execute(f"insert into notes select generate_series({first}, {first + 3})")
            await stage.settle()
        # The first eight were being looked at, the next eight are given up, the others not.
        frames = [await sleeper.receive() for _ in range(8 + 1 + 4)]
        assert [bool(frame["payload"].get("errors")) for frame in frames[:8]] == [True] * 8
        assert frames[8]["payload"]["message"] == "Gap: rls_too_slow"
        gap = frames[8]["payload"]["gap"]
        after, until, following = map(
            Position.parse, (gap["after"], gap["until"], frames[9]["payload"]["position"])
        )
        assert after < until < following
        assert [id_of(frame) for frame in frames[9:]] == [19, 20, 21, 22]
        assert stage.metric("realtime_rls_given_up_total") == given_up + 8


async def test_a_gap_does_not_tell_whether_a_row_passes_a_filter(
    stage: RlsStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_viewer_queue, "_MOST_WAITING", 5)
    passed, missed = (stage.topic("notes", f"id={by}.100") for by in ("lt", "gt"))
    async with stage.client("sleeper") as sleeper:
        await sleeper.sit(passed, missed)
        await stage.settle()
        stage.execute(SLOW)
        await stage.settle()
        for first in (11, 15, 19):
            stage.execute(f"insert into notes select generate_series({first}, {first + 3})")
            await stage.settle()
        # Of the first eight rows each is told that it failed.
        frames = [await sleeper.receive() for _ in range(2 * 8 + 2 + 4)]
        gaps = {frame["topic"]: frame["payload"].get("gap") for frame in frames[16:18]}
        assert gaps[passed] == gaps[missed]
        assert gaps[missed]["reason"] == "rls_too_slow"

        stage.execute("update notes set id = id where id < 9")
        await stage.settle()
        token = stage.token("sleeper", session="another")
        for topic in (passed, missed):
            await sleeper.send(topic, "access_token", {"access_token": token})
        frames = [await sleeper.receive() for _ in range(2)]
        gaps = {frame["topic"]: frame["payload"].get("gap") for frame in frames}
        assert gaps[passed] == gaps[missed]
        assert gaps[missed]["reason"] == "token_replaced"


async def test_who_takes_too_long_for_one_table_is_not_waited_for_at_the_next(
    stage: RlsStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.make("memos", "id int primary key, owner text", SLEEPS)
    asked: list[tuple[str, set[str]]] = []
    check = Visibility.check

    async def recorded(
        self: Visibility, rows: RowsToCheck, questions: Sequence[Question], **more: Any
    ) -> Any:
        asked.append(
            (rows.table.name, {json.loads(each.viewer.claims)["sub"] for each in questions})
        )
        return await check(self, rows, questions, **more)

    monkeypatch.setattr(Visibility, "check", recorded)
    async with stage.client("sleeper") as sleeper, stage.client("ann") as ann:
        for client in (sleeper, ann):
            await client.sit(stage.topic("notes"), stage.topic("memos"))
        # Nobody is new.
        for table in ("notes", "memos"):
            await stage.frames(ann, f"insert into {table} values (11)")
        asked.clear()
        start = time.monotonic()
        stage.execute("begin; insert into notes values (1); insert into memos values (1); commit")
        assert [id_of(await ann.receive()) for _ in range(2)] == [1, 1]
        assert time.monotonic() - start < 0.25
    assert asked[0] == ("notes", {"sleeper", "ann"})
    assert ("memos", {"ann"}) in asked
    assert ("memos", {"sleeper", "ann"}) not in asked


async def test_a_policy_that_takes_much_of_each_batch_is_asked_for_apart(
    stage: RlsStage,
) -> None:
    """It runs into no timeout."""
    stage.make("memos", "id int primary key", SLEEPS.replace("60", "0.1"))
    timeouts = stage.metric("realtime_rls_timeouts_total")
    async with stage.client("sleeper") as sleeper, stage.client("ann") as ann:
        for client in (sleeper, ann):
            await client.sit(stage.topic("memos"))
        for one in range(1, 6):
            stage.execute(f"insert into memos values ({one})")
            assert id_of(await ann.receive()) == one
        assert [id_of(await sleeper.receive()) for _ in range(5)] == [1, 2, 3, 4, 5]
        mode = stage.server.mode
        assert isinstance(mode, RlsMode)
        assert len(mode.slow_viewers.slow) == 1
    assert stage.metric("realtime_rls_timeouts_total") == timeouts


CASTS = (
    "create function checked(n int) returns bool language plpgsql as $$ begin"
    " if current_setting('application_name') like 'realtime_server%' then {} end if;"
    " return true; end $$",
    "create domain odd as int check (checked(value))",
    "create type pair as (n odd)",
    "create type plain as (n int)",
)


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        ("perform pg_sleep(60);", "takes too long; they are sent as text"),
        # It catches the cancellation.
        (
            "loop begin perform pg_sleep(60); exception when query_canceled then null; end; end "
            "loop;",
            "takes too long; they are sent as text",
        ),
        ("raise 'not %', n using errcode = '22023';", "(SQLSTATE 22023); they are sent as text"),
        # Of recursion without end. To psycopg it is an OperationalError.
        ("raise 'not %', n using errcode = '54001';", "(SQLSTATE 54001); they are sent as text"),
    ],
)
async def test_a_type_whose_values_do_not_become_json_keeps_nothing_back(
    stage: RlsStage, caplog: pytest.LogCaptureFixture, check: str, reason: str
) -> None:
    stage.execute(*(line.replace("{}", check) for line in CASTS))
    stage.make("pairs", "id int primary key, slow pair, quick plain", None)
    async with stage.client() as client:
        await client.sit(stage.topic("pairs"))
        for number in (1, 2):
            [payload] = await stage.payloads(
                client, f"insert into pairs values ({number}, '(71717)', '(2)')"
            )
            assert payload["record"] == {"id": number, "slow": "(71717)", "quick": {"n": 2}}
    assert f"values of type {stage.schema}.pair {reason}" in caplog.text
    assert caplog.text.count(reason) == (1 if "too long" in reason else 2)
    assert "71717" not in caplog.text


async def test_a_key_of_a_type_that_the_server_may_not_use_keeps_nothing_back(
    stage: RlsStage, caplog: pytest.LogCaptureFixture
) -> None:
    shut = unique_name("shut")
    stage.execute(
        f"create schema {shut}",
        f"create type {shut}.kind as enum ('a', 'b')",
        f'grant usage on schema {shut} to "{stage.reader}"',
    )
    stage.make("kinds", f"id {shut}.kind primary key, owner text")
    async with stage.client() as client:
        await client.sit(stage.topic("kinds"))
        [payload] = await stage.payloads(client, "insert into kinds values ('a', 'ann')")
        assert (payload["errors"], payload["record"]) == (
            ["Error 500: Internal Server Error, row level security raised an error"],
            {},
        )
        assert "needs USAGE on the schemas of its primary key's types" in caplog.text
        stage.execute(f"grant usage on schema {shut} to public")
        [payload] = await stage.payloads(client, "insert into kinds values ('b', 'ann')")
        assert payload["record"] == {"id": "b", "owner": "ann"}
    stage.execute(f"drop schema {shut} cascade")


async def test_changes_wait_for_the_servers_own_privileges(
    stage: RlsStage, caplog: pytest.LogCaptureFixture
) -> None:
    [[database]] = stage.execute("select current_database()")
    stage.make("new", "id int primary key", "true")
    async with stage.client() as client:
        await client.sit(stage.topic("new"))
        stage.execute(f"revoke temporary on database {database} from public")
        stage.execute("insert into new values (1)")
        await eventually(lambda: "are checked again: InsufficientPrivilege" in caplog.text)
        stage.execute(f"grant temporary on database {database} to public")
        assert id_of(await client.receive()) == 1
