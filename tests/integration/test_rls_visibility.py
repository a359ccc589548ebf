"""PostgreSQL is asked who may see which rows, and no viewer's trouble is another's."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg import AsyncConnection

from realtime_server.config.database.catalog import look_at_tables
from realtime_server.config.database.tables import Table
from realtime_server.rls.lookup.locks import LockedRelation, Locks
from realtime_server.rls.lookup.questions import (
    Failure,
    LookupRow,
    Question,
    RowsToCheck,
    VisibilityAnswer,
)
from realtime_server.rls.lookup.running_call import RunningCall
from realtime_server.rls.lookup.visibility import Visibility
from realtime_server.rls.viewers import Viewer
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.rls_helpers import at, roles
from tests.waiting import eventually

pytestmark = pytest.mark.integration

TIMEOUT = 0.5

OWN = "owner = current_setting('request.jwt.claims')::jsonb ->> 'sub'"


class Scene:
    """A database with a role that may read, and somebody who asks as the server's role."""

    def __init__(self, database: Database, reader: str, visibility: Visibility) -> None:
        self.database = database
        self.reader = reader
        self.visibility = visibility

    def execute(self, *statements: str) -> None:
        for statement in statements:
            self.database.execute(statement)

    def make(self, definition: str, policy: str = OWN, name: str = "notes") -> None:
        """Make a table with a policy."""
        self.execute(
            f"create table {name} ({definition})",
            f"alter table {name} enable row level security",
            f"create policy p on {name} using ({policy})",
            f"grant select on {name} to {self.reader}",
        )

    async def table(self, name: str = "notes") -> Table:
        async with await AsyncConnection.connect(self.database.dsn) as connection:
            await connection.execute("set jit = off")
            _, found = await look_at_tables(connection, [("public", name)], [self.reader], ["shop"])
        return found["public", name]

    def viewer(self, sub: str, role: str | None = None) -> Viewer:
        return Viewer.of({"role": role or self.reader, "sub": sub})

    async def ask(
        self,
        keys: list[Any],
        *subs: str,
        places: tuple[int, ...] | None = None,
        limit: float | None = None,
    ) -> list[VisibilityAnswer]:
        rows = [
            LookupRow(tuple(map(str, key if isinstance(key, tuple) else (key,)))) for key in keys
        ]
        every = tuple(range(len(rows))) if places is None else places
        questions = [Question(self.viewer(sub), every) for sub in subs]
        return await self.visibility.check(
            RowsToCheck(await self.table(), rows), questions, limit=limit
        )


@pytest_asyncio.fixture
async def scene(pg: Server) -> AsyncIterator[Scene]:
    with roles(pg, "reader") as (reader,), fresh_database(pg) as database:
        database.execute("create publication shop for all tables")
        async with Visibility(at(database.dsn), timeout=TIMEOUT, size=2) as visibility:
            yield Scene(database, reader, visibility)


def seen(answers: list[VisibilityAnswer]) -> list[set[int]]:
    assert [answer.failed for answer in answers] == [{}] * len(answers)
    return [answer.visible for answer in answers]


async def test_each_viewer_sees_what_the_policy_says(scene: Scene) -> None:
    scene.make("id int primary key, owner text")
    scene.execute("insert into notes values (1, 'ann'), (2, 'bob'), (3, 'ann')")
    assert seen(await scene.ask([1, 2, 3, 4], "ann", "bob", "eve")) == [{0, 2}, {1}, set()]


async def test_only_the_rows_that_are_asked_for_are_answered(scene: Scene) -> None:
    scene.make("id int primary key, owner text")
    scene.execute("insert into notes values (1, 'ann'), (2, 'ann'), (3, 'ann')")
    assert seen(await scene.ask([1, 2, 3], "ann", places=(0, 2))) == [{0, 2}]


async def test_a_subquery_in_a_policy_is_computed_for_each_viewer(scene: Scene) -> None:
    scene.make(
        "id int primary key, owner text",
        "owner = (select current_setting('request.jwt.claims')::jsonb ->> 'sub')",
    )
    scene.execute("insert into notes values (1, 'ann'), (2, 'bob')")
    assert seen(await scene.ask([1, 2], "ann", "bob", "ann")) == [{0}, {1}, {0}]


async def test_what_a_policy_keeps_for_its_transaction_is_not_the_next_viewers(
    scene: Scene,
) -> None:
    scene.execute(
        "create function uid() returns text language plpgsql as $$ begin"
        " if coalesce(current_setting('app.uid', true), '') = '' then"
        "  perform set_config("
        "   'app.uid', current_setting('request.jwt.claims')::jsonb ->> 'sub', true);"
        " end if;"
        " return current_setting('app.uid'); end $$"
    )
    scene.make("id int primary key, owner text", "owner = uid()")
    scene.execute("insert into notes values (1, 'ann'), (2, 'bob')")
    assert seen(await scene.ask([1, 2], "ann", "bob", "eve")) == [{0}, {1}, set()]


async def test_keys_of_several_columns_and_of_odd_types(scene: Scene) -> None:
    scene.execute("create type mood as enum ('sad', 'glad')", "create domain code as char(5)")
    scene.make(
        "a mood, b timestamptz, c code, d numeric, e bytea, owner text, primary key (c, a, e, b, d)"
    )
    scene.execute(
        "insert into notes values"
        " ('sad', '2026-11-24 05:36:00.166595+00', 'ab', 1.50, '\\x00ff', 'ann'),"
        " ('glad', '2026-11-24 05:36:00.166595+00', 'ab', 1.50, '\\x00ff', 'ann')"
    )
    time_ = "2026-11-24 05:36:00.166595+00"
    keys = [
        ("ab   ", "sad", "\\x00ff", time_, "1.50"),
        ("ab   ", "glad", "\\x00ff", time_, "1.51"),
        ("ab   ", "glad", "\\x00ff", time_, "1.50"),
    ]
    assert seen(await scene.ask(keys, "ann")) == [{0, 2}]


async def test_keys_are_looked_up_as_they_are_written(scene: Scene) -> None:
    scene.make("id text primary key, owner text")
    keys = ["", "NULL", "{a,b}", 'a"b', "a\\b", '\\"', " x ", "é\n", "'"]
    for key in keys:
        scene.database.execute("insert into notes values (%s, 'ann')", (key,))
    assert seen(await scene.ask([*keys, "absent"], "ann")) == [set(range(len(keys)))]


async def test_names_that_need_quotes(scene: Scene) -> None:
    name = 'No "tes" {name} $realtime$'
    quoted = '"' + name.replace('"', '""') + '"'
    scene.make('"My id" int primary key, owner text', name=quoted)
    scene.execute(f"insert into {quoted} values (1, 'ann')")
    table = await scene.table(name)
    question = Question(scene.viewer("ann"), (0,))
    assert seen(
        await scene.visibility.check(RowsToCheck(table, [LookupRow(("1",))]), [question])
    ) == [{0}]


async def test_each_role_is_itself(scene: Scene, pg: Server) -> None:
    scene.make("id int primary key, owner text")
    scene.execute("insert into notes values (1, 'ann')")
    with roles(pg, "My-Admin", options="bypassrls") as (admin,):
        scene.execute(f'grant select on notes to "{admin}"')
        questions = [
            Question(scene.viewer("eve", role), (0,))
            for role in (scene.reader, admin, scene.reader)
        ]
        answers = await scene.visibility.check(
            RowsToCheck(await scene.table(), [LookupRow(("1",))]), questions
        )
        assert seen(answers) == [set(), {0}, set()]
        scene.execute(f'drop owned by "{admin}"')


async def test_unqualified_names_in_a_policy_are_found(scene: Scene) -> None:
    scene.execute(
        "create table members (id int)",
        "insert into members values (1)",
        "grant select on members to public",
        "create function is_member(int) returns boolean language plpgsql stable as"
        " $$ begin return exists (select from members m where m.id = $1); end $$",
    )
    scene.make("id int primary key, owner text", "is_member(id)")
    scene.execute("insert into notes values (1, 'ann'), (2, 'ann')")
    assert seen(await scene.ask([1, 2], "ann")) == [{0}]


async def test_a_childs_row_is_not_taken_for_its_parents(scene: Scene) -> None:
    scene.make("id int primary key, owner text")
    scene.execute(
        "create table child () inherits (notes)",
        "insert into notes values (1, 'ann')",
        "insert into child values (1, 'bob')",
    )
    assert seen(await scene.ask([1], "ann", "bob")) == [{0}, set()]


async def test_ten_thousand_viewers(scene: Scene) -> None:
    scene.make("id int primary key, owner text")
    scene.execute("insert into notes select i, i from generate_series(0, 9999) i")
    answers = await scene.ask([5, 9999, 12345], *map(str, range(10_000)))
    assert [i for i, each in enumerate(seen(answers)) if each] == [5, 9999]


# Failures.


async def test_an_error_costs_its_viewer_that_row(scene: Scene) -> None:
    broken = "case when current_setting('request.jwt.claims')::jsonb ->> 'sub' = 'bad'"
    scene.make("id int primary key, owner text", f"{broken} then 1 / (id - 2) < 9 else {OWN} end")
    scene.execute("insert into notes values (1, 'ann'), (2, 'ann'), (3, 'ann')")
    bad, ann = await scene.ask([1, 2, 3], "bad", "ann")
    assert (bad.visible, bad.failed) == ({0, 2}, {1: Failure.ERROR})
    assert (ann.visible, ann.failed) == ({0, 1, 2}, {})


async def test_an_error_is_logged_with_the_table_and_without_role_and_what_it_quotes(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.make("id int primary key, owner text", "owner::int > 0")
    scene.execute("insert into notes values (1, 'secret of ann')")
    caplog.set_level("DEBUG", "realtime.rls")
    await scene.ask([1], "ann")
    [line, role, detail] = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert line == (
        "WARNING",
        "row level security of public.notes failed for a role (error 22P02)",
    )
    assert role == ("DEBUG", f"the role is {scene.reader}")
    assert detail == (
        "DEBUG",
        'the error was: invalid input syntax for type integer: "secret of ann"',
    )


async def test_the_same_error_of_many_rows_and_viewers_is_logged_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.make("id int primary key, owner text", "owner::int > 0")
    scene.execute("insert into notes select n, 'ann' from generate_series(1, 20) n")
    answers = await scene.ask(list(range(1, 21)), "ann", "bob")
    assert [len(answer.failed) for answer in answers] == [20, 20]
    assert caplog.text.count("failed for a role") == 1


async def test_a_failed_assertion_is_an_error_like_any_other(scene: Scene) -> None:
    """WHEN OTHERS would not catch it."""
    scene.execute(
        "create function sure(text) returns boolean language plpgsql as"
        " $$ begin assert $1 = 'ann'; return true; end $$"
    )
    scene.make("id int primary key, owner text", "sure(owner)")
    scene.execute("insert into notes values (1, 'ann'), (2, 'bob')")
    [answer] = await scene.ask([1, 2], "x")
    assert (answer.visible, answer.failed) == ({0}, {1: Failure.ERROR})


async def test_a_privilege_that_is_missing_is_an_error(scene: Scene) -> None:
    scene.make("id int primary key, owner text")
    scene.execute(f"revoke select on notes from {scene.reader}", "insert into notes values (1)")
    [answer] = await scene.ask([1], "ann")
    assert answer.failed == {0: Failure.ERROR}


async def test_a_sleeping_policy_costs_the_others_one_timeout(scene: Scene) -> None:
    scene.execute(
        "create function slow() returns boolean language plpgsql as"
        " $$ begin perform pg_sleep(60); return true; end $$"
    )
    asleep = "case when current_setting('request.jwt.claims')::jsonb ->> 'sub' = 'sleeper'"
    scene.make("id int primary key, owner text", f"{asleep} then slow() else {OWN} end")
    scene.execute("insert into notes values (1, 'ann'), (2, 'ann')")
    await scene.ask([1], "ann")  # the pool is warm
    start = time.monotonic()
    first, sleeper, last = await scene.ask([1, 2], "ann", "sleeper", "ann")
    took = time.monotonic() - start
    assert (first, last) == (VisibilityAnswer({0, 1}), VisibilityAnswer({0, 1}))
    assert sleeper.failed == {0: Failure.TIMEOUT, 1: Failure.TIMEOUT}
    assert took >= TIMEOUT


async def test_a_policy_that_sleeps_for_all_is_waited_for_once(scene: Scene) -> None:
    scene.make("id int primary key, owner text", "pg_sleep(60) is not null")
    scene.execute("insert into notes values (1, 'ann'), (2, 'ann')")
    start = time.monotonic()
    answers = await scene.ask([1, 2], *(f"sleeper {number}" for number in range(5)), limit=0.05)
    assert time.monotonic() - start < TIMEOUT
    why = [set(answer.failed.values()) for answer in answers]
    assert why == [{Failure.TIMEOUT}] + [{Failure.UNASKED}] * 4
    assert [answer.visible for answer in answers] == [set()] * 5
    # The next ones have the whole time again.
    async with scene.visibility.connections.one() as connection:
        cursor = await connection.execute("show statement_timeout")
        assert await cursor.fetchall() == [(f"{TIMEOUT * 1000:.0f}ms",)]


async def test_many_who_take_a_bit_each_are_nobodys_fault(scene: Scene) -> None:
    scene.make("id int primary key, owner text", "pg_sleep(0.02) is not null")
    scene.execute("insert into notes values (1, 'ann')")
    subs = [str(number) for number in range(30)]
    answers = await scene.ask([1], *subs, limit=0.2)
    answered = [bool(answer.visible) for answer in answers]
    count = answered.count(True)
    assert 0 < count < 30
    assert answered == [True] * count + [False] * (30 - count)
    assert all(answer.failed == {0: Failure.UNASKED} for answer in answers[count:])


async def test_what_is_canceled_takes_nothing_else_with_it(scene: Scene) -> None:
    """The request to cancel comes on a connection of its own, and may come late."""
    asleep = "case when current_setting('request.jwt.claims')::jsonb ->> 'sub' = 'sleeper'"
    scene.make("id int primary key, owner text", f"{asleep} then pg_sleep(0.01) is not null end")
    scene.execute("insert into notes values (1, 'ann')")
    await scene.ask([1], "ann")
    stopped = 0
    for _ in range(100):
        [answer] = await scene.ask([1], "sleeper", limit=0.0105)
        stopped += bool(answer.failed)
        async with scene.visibility.connections.one() as connection:
            await connection.execute("select pg_sleep(0.001)")
    assert stopped


async def test_a_session_that_is_ended_while_its_call_returns_is_nobody_elses(
    scene: Scene,
) -> None:
    visibility = scene.visibility

    is_over = asyncio.Event()

    def terminate(pid: int) -> asyncio.Task[None]:
        is_over.set()
        return asyncio.create_task(visibility.catalog.terminate(pid))

    async with visibility.connections.one() as connection:
        running = RunningCall(connection, terminate)
        async with running.ended_after(None, 0.0):
            # The answer is read just when the time is over.
            await is_over.wait()
    for _ in range(10):
        async with visibility.connections.one() as connection:
            await connection.execute("select pg_sleep(0.02)")


async def test_apart_a_policy_that_ends_in_time_is_answered(scene: Scene) -> None:
    scene.make("id int primary key, owner text", "pg_sleep(0.2) is not null")
    scene.execute("insert into notes values (1, 'ann')")
    question = Question(scene.viewer("ann"), (0,))
    answer = await scene.visibility.check_by_halves(
        RowsToCheck(await scene.table(), [LookupRow(("1",))]), question
    )
    assert answer == VisibilityAnswer({0})
    assert answer.seconds > 0.19


async def test_apart_it_is_found_which_row_takes_the_time(scene: Scene) -> None:
    scene.execute(
        "create function slow() returns boolean language plpgsql as"
        " $$ begin perform pg_sleep(60); return true; end $$"
    )
    scene.make("id int primary key, owner text", "case when id = 5 then slow() else true end")
    scene.execute("insert into notes select i, 'ann' from generate_series(0, 7) i")
    rows = [LookupRow((str(i),)) for i in range(8)]
    question = Question(scene.viewer("ann"), tuple(range(8)))
    answer = await scene.visibility.check_by_halves(
        RowsToCheck(await scene.table(), rows), question
    )
    assert answer == VisibilityAnswer({0, 1, 2, 3, 4, 6, 7}, {5: Failure.TIMEOUT})


async def test_a_policy_that_holds_on_is_cut_off(scene: Scene) -> None:
    """It catches the cancellation; the client's own patience ends."""
    scene.execute(
        "create function stubborn() returns boolean language plpgsql as $$ begin loop"
        " begin perform pg_sleep(60); exception when query_canceled then null; end;"
        " end loop; end $$"
    )
    scene.make("id int primary key, owner text", "stubborn()")
    scene.execute("insert into notes values (1, 'ann')")
    [answer] = await scene.ask([1], "ann")
    assert answer.failed == {0: Failure.TIMEOUT}
    # The server's process is not left to itself.
    busy = (
        "select 1 from pg_stat_activity where datname = current_database() and state = 'active'"
        " and application_name = 'realtime_server rls'"
    )
    await eventually(lambda: not scene.database.execute(busy))


async def test_a_policy_that_holds_on_is_cut_off_though_nobody_waits_any_more(
    scene: Scene,
) -> None:
    scene.execute(
        "create function stubborn() returns boolean language plpgsql as $$ begin loop"
        " begin perform pg_sleep(60); exception when query_canceled then null; end;"
        " end loop; end $$"
    )
    scene.make("id int primary key, owner text", "stubborn()")
    scene.execute("insert into notes values (1, 'ann')")
    sleeping = (
        "select 1 from pg_stat_activity where datname = current_database()"
        " and application_name = 'realtime_server rls' and wait_event = 'PgSleep'"
    )
    asking = asyncio.create_task(scene.ask([1], "ann"))
    await eventually(lambda: scene.database.execute(sleeping))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await eventually(lambda: not scene.database.execute(sleeping))


async def test_the_rows_of_a_locked_table_stay_unanswered_until_it_is_not(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.make("id int primary key, owner text")
    scene.execute("insert into notes values (1, 'ann'), (2, 'ann')")
    table = await scene.table()
    rows = [LookupRow(("1",)), LookupRow(("2",))]
    questions = [Question(scene.viewer(name), (0, 1)) for name in ("ann", "bob")]
    both = {0: Failure.LOCKED, 1: Failure.LOCKED}
    async with Locks(scene.visibility.catalog) as locks:
        with psycopg.connect(scene.database.dsn) as locker:
            locker.execute("lock table notes in access exclusive mode")
            answers = await scene.visibility.check(RowsToCheck(table, rows), questions)
            assert [one.failed for one in answers] == [both, both]
            assert (
                await scene.visibility.check_by_halves(RowsToCheck(table, rows), questions[0])
            ).failed == both
            [relation] = answers[0].locked
            waiting = [asyncio.create_task(locks.released([relation])) for _ in range(2)]
            done, _ = await asyncio.wait(waiting, timeout=TIMEOUT)
            assert not done
            locker.rollback()
        await asyncio.gather(*waiting)
    assert seen(await scene.visibility.check(RowsToCheck(table, rows), questions)) == [
        {0, 1},
        set(),
    ]
    assert caplog.text.count("table public.notes is locked") == 1


MEMBERS = "exists (select from members m where m.owner = notes.owner and m.id > 0)"
BY_VIEW = "exists (select from known k where k.owner = notes.owner)"


@pytest.mark.parametrize(
    ("policy", "locked", "statement"),
    [
        pytest.param(OWN, "table public.notes_1", "lock table notes_1", id="its partition"),
        pytest.param(MEMBERS, "table public.members", "lock table members", id="table"),
        pytest.param(MEMBERS, "table public.members_1", "lock table members_1", id="partition"),
        pytest.param(
            MEMBERS, "index public.members_1_pkey", "reindex index members_1_pkey", id="index"
        ),
        pytest.param(BY_VIEW, "view public.known", "alter view known set schema other", id="view"),
        pytest.param(BY_VIEW, "table public.members", "lock table members", id="view's table"),
        pytest.param(
            "is_member(owner)", "table public.members", "lock table members", id="in a function"
        ),
    ],
)
async def test_what_a_check_needs_is_waited_for_while_it_is_locked(
    scene: Scene, policy: str, locked: str, statement: str
) -> None:
    scene.execute(
        "create schema other",
        "create table members (id int primary key, owner text) partition by list (id)",
        "create table members_1 partition of members for values in (1, 2)",
        "create view known as select owner from members where id > 0",
        "create function is_member(who text) returns boolean stable language plpgsql as"
        " $$ begin return exists (select from members where owner = who and id > 0); end $$",
        f"grant select on members, known to {scene.reader}",
        "insert into members values (1, 'ann')",
    )
    scene.make("id int primary key, owner text) partition by list (id", policy)
    scene.execute(
        "create table notes_1 partition of notes for values in (1)",
        "create table notes_2 partition of notes for values in (2)",
        "insert into notes values (1, 'ann'), (2, 'eve')",
    )
    table = await scene.table()
    rows = [LookupRow(("1",)), LookupRow(("2",))]
    questions = [Question(scene.viewer(name), (0, 1)) for name in ("ann", "ann")]
    async with Locks(scene.visibility.catalog) as locks:
        with psycopg.connect(scene.database.dsn) as locker:
            if statement.startswith("lock"):
                statement += " in access exclusive mode"
            locker.execute(statement.encode())
            for limit in (None, TIMEOUT / 10):
                answers = await scene.visibility.check(
                    RowsToCheck(table, rows), questions, limit=limit
                )
                for answer in answers:
                    assert answer.failed == {0: Failure.LOCKED, 1: Failure.LOCKED}
                    assert locked in map(str, answer.locked)
            waiting = asyncio.create_task(locks.released(answers[0].locked))
            done, _ = await asyncio.wait({waiting}, timeout=TIMEOUT)
            assert not done
            locker.rollback()
        await waiting
    assert seen(await scene.visibility.check(RowsToCheck(table, rows), questions)) == [{0}, {0}]


async def test_a_lock_that_is_not_in_the_way_excuses_no_policy(scene: Scene) -> None:
    scene.execute("create table elsewhere (id int)")
    scene.make("id int primary key, owner text", "pg_sleep(60) is not null")
    scene.execute("insert into notes values (1, 'ann')")
    with psycopg.connect(scene.database.dsn) as locker:
        locker.execute("lock table elsewhere in access exclusive mode")
        for limit in (None, TIMEOUT / 10):
            [answer] = await scene.ask([1], "ann", limit=limit)
            assert answer.failed == {0: Failure.TIMEOUT}


async def test_nobody_waits_for_a_watch_that_has_ended(scene: Scene) -> None:
    scene.make("id int primary key, owner text")
    relation = LockedRelation((await scene.table()).oid, "table", "public", "notes")
    with psycopg.connect(scene.database.dsn) as locker:
        locker.execute("lock table notes in access exclusive mode")
        async with Locks(scene.visibility.catalog) as locks:
            waiting = asyncio.create_task(locks.released([relation]))
            done, _ = await asyncio.wait({waiting}, timeout=TIMEOUT)
            assert not done
        await asyncio.wait_for(waiting, 5)


async def test_a_key_that_is_none_any_more_is_an_error(scene: Scene) -> None:
    """The column's type has changed since."""
    scene.make("id int primary key, owner text")
    [answer] = await scene.ask(["not a number"], "ann")
    assert answer.failed == {0: Failure.ERROR}
    assert seen(await scene.ask([1], "ann")) == [set()]


@pytest.mark.parametrize("when", ["while it is asked", "while the function is made"])
async def test_what_was_asked_on_a_lost_connection_is_asked_once_more(
    scene: Scene, when: str
) -> None:
    if when == "while it is asked":
        scene.make("id int primary key, owner text", "pg_sleep(0.3) is not null")
        statement = "SELECT * FROM pg_temp.%"
    else:
        scene.make("id int primary key, owner text")
        scene.database.execute(
            "create function slow_to_make() returns event_trigger language plpgsql as"
            " $$ begin perform pg_sleep(0.3); end $$"
        )
        scene.database.execute(
            "create event trigger slow_to_make on ddl_command_start when tag in"
            " ('CREATE FUNCTION') execute function slow_to_make()"
        )
        statement = "DISCARD PLANS%"
    scene.execute("insert into notes values (1, 'ann')")
    table = await scene.table()
    question = Question(scene.viewer("ann"), (0,))
    asking = asyncio.create_task(
        scene.visibility.check(RowsToCheck(table, [LookupRow(("1",))]), [question])
    )
    terminate = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where state = 'active'"
        " and application_name = 'realtime_server rls' and datname = current_database()"
        " and query like %s"
    )
    while not scene.database.execute(terminate, (statement,))[0][0]:
        assert not asking.done()
        await asyncio.sleep(0)
    assert seen(await asking) == [{0}]


# Strictness.


async def test_a_row_that_has_changed_is_not_the_one_that_is_compared(scene: Scene) -> None:
    kinds = {
        "n": ("numeric", "1.50", "1.5"),
        "t": ("text", "a", None),
        "j": ("json", '{"a": 1}', '{"a":1}'),
        "c": ("char(4)", "ab  ", "abc "),
        "f": ("float8", "0.1", "0.2"),
        "i": ("interval", "1 day 02:03:04", "1 day"),
        "b": ("bytea", "\\x00ff", "\\x00fe"),
        "z": ("timestamptz", "2026-11-24 05:36:00.1+00", "2026-11-24 05:36:00+00"),
        "o": ("boolean", "t", "f"),
        "a": ("text[]", '{a,"b c",NULL}', "{a}"),
    }
    columns = ", ".join(f"{name} {kind[0]}" for name, kind in kinds.items())
    scene.make(f"id int primary key, {columns}", "true")
    old = {name: kind[1] for name, kind in kinds.items()}
    scene.database.execute(
        f"insert into notes values (1, {', '.join(['%s'] * len(old))})", tuple(old.values())
    )
    scene.execute("set timezone to 'Asia/Kolkata'")
    table = await scene.table()
    variants = [
        old,
        {name: value for name, value in old.items() if name != "t"},
        *({**old, name: kind[2]} for name, kind in kinds.items()),
    ]
    rows = [LookupRow(("1",), json.dumps({"id": "1", **variant})) for variant in variants]
    question = Question(scene.viewer("ann"), tuple(range(len(rows))))
    [answer] = await scene.visibility.check(RowsToCheck(table, rows, table.columns), [question])
    assert answer == VisibilityAnswer({0, 1})


async def test_without_comparison_any_version_will_do(scene: Scene) -> None:
    scene.make("id int primary key, owner text")
    scene.execute("insert into notes values (1, 'ann')")
    rows = [LookupRow(("1",), '{"owner": "somebody else"}')]
    question = Question(scene.viewer("ann"), (0,))
    assert seen(
        await scene.visibility.check(RowsToCheck(await scene.table(), rows), [question])
    ) == [{0}]


async def test_a_row_value_of_nulls_is_as_it_was(scene: Scene) -> None:
    scene.execute("create type pair as (a int, b text)")
    scene.make("id int primary key, p pair", "true")
    scene.execute("insert into notes values (1, row(null, null)), (2, null), (3, row(1, null))")
    table = await scene.table()
    compared = [column for column in table.columns if column.name == "p"]
    written = ["(,)", None, "(1,)"]
    for value in written:
        rows = [LookupRow((str(key),), json.dumps({"p": value})) for key in (1, 2, 3)]
        question = Question(scene.viewer("ann"), (0, 1, 2))
        answers = await scene.visibility.check(RowsToCheck(table, rows, compared), [question])
        assert seen(answers) == [{written.index(value)}], value


async def test_no_operator_or_type_of_somebodys_is_run_as_the_server(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.make("id int primary key, owner text")
    table = await scene.table()
    scene.execute("insert into notes values (1, 'ann')", "create table loot (who text)")
    for name, kinds, result in (
        ("=", ("oid", "int"), "bool"),
        ("=", ("text", "text"), "bool"),
        ("-", ("timestamptz", "timestamptz"), "interval"),
        ("<", ("interval", "interval"), "bool"),
    ):
        function = f"public.steal_{kinds[0]}"
        scene.execute(
            f"create function {function}({', '.join(kinds)}) returns {result} language plpgsql"
            " as $$ begin insert into public.loot values (current_user); return null; end $$",
            f"create operator public.{name}"
            f" (function = {function}, leftarg = {kinds[0]}, rightarg = {kinds[1]})",
        )
    for kind in ("text", "json", "jsonb"):
        scene.execute(
            f"create domain public.{kind} as pg_catalog.{kind} check (value::pg_catalog.text = '')"
        )
    scene.execute(
        f"alter database {scene.database.name} set search_path = public, pg_catalog",
        "drop policy p on notes",
        "create policy p on notes using (pg_catalog.pg_sleep(id) is not null)",
    )
    question = Question(scene.viewer("ann"), (0,))
    # Too long: the function asks whose time it was.
    [answer] = await scene.visibility.check(RowsToCheck(table, [LookupRow(("1",))]), [question])
    assert answer.failed == {0: Failure.TIMEOUT}
    # Locked: it asks who locked it.
    with psycopg.connect(scene.database.dsn) as locking:
        locking.execute("lock table notes in access exclusive mode")
        [answer] = await scene.visibility.check(RowsToCheck(table, [LookupRow(("1",))]), [question])
        assert answer.failed == {0: Failure.LOCKED}
    assert scene.database.execute("select who from loot") == []


async def test_what_looks_at_tables_is_planned_once(scene: Scene) -> None:
    """To plan it takes longer than to run it."""
    scene.make("id int primary key, owner text")
    async with scene.visibility.catalog.one() as connection:
        for _ in range(10):
            await look_at_tables(connection, [("public", "notes")], [scene.reader])
        cursor = await connection.execute(
            "select custom_plans from pg_prepared_statements"
            " where statement like '%relrowsecurity%'"
        )
        assert await cursor.fetchall() == [(0,)]
