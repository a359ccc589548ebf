"""What policies of realtime.messages let clients do, asked on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import pytest_asyncio
from psycopg.conninfo import make_conninfo

from realtime_server.messages.check import private_channel_findings
from realtime_server.messages.policies.policy_checks import PolicyChecks
from realtime_server.messages.policies.questions import Answer, Extension, Problem, Question
from realtime_server.rls.viewers import Viewer
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.rls_helpers import at, migrated, roles

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

ROOT: Final = Path(__file__).parents[2]

BROADCAST, PRESENCE = Extension.BROADCAST, Extension.PRESENCE
BOTH = (BROADCAST, PRESENCE)
NO = Answer()

# A topic says which policy lets it be read or written.
POLICIES = """
    create function public.slowly() returns boolean language plpgsql as $$
    begin
        perform pg_sleep(30);
        return true;
    end $$;
    create function public.stubbornly() returns boolean language plpgsql as $$
    begin
        loop
            begin
                perform pg_sleep(30);
            exception when query_canceled then null;
            end;
        end loop;
    end $$;
    create function public.raises() returns boolean language plpgsql as $$
    begin
        raise exception 'the secret is 7';
    end $$;
    create function public.ends_the_session() returns boolean language sql security definer as $$
        select pg_terminate_backend(pg_backend_pid())
    $$;
    -- Wrongly so: the result may be kept with a plan.
    create function public.my_name() returns text language sql immutable as $$
        select current_setting('request.jwt.claims')::jsonb ->> 'name'
    $$;
    create function public.remembers(topic text) returns boolean language plpgsql as $$
    begin
        if current_setting('app.seen', true) <> '' then
            raise exception 'seen before';
        end if;
        perform set_config('app.seen', topic, true);
        return true;
    end $$;
    create policy reads on realtime.messages for select to {role} using (
        case realtime.topic()
            when 'slow' then public.slowly()
            when 'stubborn' then public.stubbornly()
            when 'raises' then public.raises()
            when 'ends' then public.ends_the_session()
            when 'named' then public.my_name() = 'ann'
            when 'header' then current_setting('request.headers')::jsonb ->> 'x-word' = 'sesame'
            when 'remembers' then public.remembers(topic)
            when 'settings' then
                current_setting('request.jwt.claim.sub') = 'me'
                and current_setting('request.jwt.claim.role') = current_user
                and current_setting('request.jwt.claims')::jsonb ->> 'sub' = 'me'
            else realtime.topic() = 'read ' || extension or realtime.topic() = 'read all'
                or current_setting('request.jwt.claims')::jsonb ->> 'opens' = realtime.topic()
        end
        and topic = realtime.topic()
    );
    create policy writes on realtime.messages for insert to {role} with check (
        case realtime.topic()
            when 'slow' then public.slowly()
            when 'raises' then public.raises()
            else realtime.topic() = 'write ' || extension
                or current_setting('request.jwt.claims')::jsonb ->> 'opens' = realtime.topic()
        end
        and topic = realtime.topic()
    );
    grant usage on schema realtime to {role};
    grant select, insert on realtime.messages to {role};
"""


@attrs.frozen
class Stage:
    database: Database
    checks: PolicyChecks
    role: str

    def question(self, topic: str, *extensions: Extension, **values: Any) -> Question:
        """A question of the role's, with claims besides."""
        claims = {"role": self.role, **values.pop("claims", {})}
        headers = values.pop("headers", "{}")
        return Question(Viewer.of(claims), headers, topic, extensions or (BROADCAST,), **values)

    async def reads(self, topic: str, *extensions: Extension, **values: Any) -> Answer:
        return await self.checks.ask(self.question(topic, *extensions, **values))

    async def writes(self, topic: str, *extensions: Extension, **values: Any) -> Answer:
        return await self.checks.ask(self.question(topic, *extensions, is_write=True, **values))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(pg18: Server) -> AsyncIterator[Stage]:
    with roles(pg18, "member") as (role,), fresh_database(pg18) as database:
        await migrated(database.dsn)
        database.execute(POLICIES.replace("{role}", role))
        async with PolicyChecks(at(database.dsn), timeout=0.4) as checks:
            yield Stage(database, checks, role)


def granted(*extensions: Extension) -> Answer:
    return Answer(frozenset(extensions))


async def test_policies_say_what_may_be_read_and_written_of_each_extension(stage: Stage) -> None:
    assert await stage.reads("read all", *BOTH) == granted(*BOTH)
    for one, other in ((BROADCAST, PRESENCE), (PRESENCE, BROADCAST)):
        assert await stage.reads(f"read {one.value}", *BOTH) == granted(one)
        assert await stage.reads(f"read {one.value}", other) == NO
        assert await stage.writes(f"write {one.value}", *BOTH) == granted(one)
        assert await stage.writes(f"write {one.value}", other) == NO
        assert await stage.writes(f"read {one.value}", one) == NO
        assert await stage.reads(f"write {one.value}", one) == NO
    assert await stage.reads("of nobody", *BOTH) == NO


async def test_names_claims_and_roles_reach_policies_as_they_are(stage: Stage) -> None:
    odd = (
        "it's",
        '"quoted"',
        "$1 %s {x}\n",
        "\\'",
        "'; drop table realtime.messages; --",
        "é 😀",
        "%",
    )
    for name in (*odd, "".join(odd)):
        claims = {"opens": name, f"{name} besides": [name]}
        assert await stage.reads(name, *BOTH, claims=claims) == granted(*BOTH)
        assert await stage.writes(name, claims=claims) == granted(BROADCAST)
        assert await stage.reads(f"{name} ", claims=claims) == NO
    role = f'{stage.role} o\'clock "x"'
    quoted = role.replace('"', '""')
    stage.database.execute(f'create role "{quoted}" in role "{stage.role}"')
    try:
        assert await stage.reads("read all", claims={"role": role}) == granted(BROADCAST)
    finally:
        stage.database.execute(f'drop role "{quoted}"')


async def test_the_policies_of_the_page_let_members_in(stage: Stage) -> None:
    page = (ROOT / "docs/topics/private-channels.md").read_text(encoding="utf-8")
    section = page.partition("## Policies")[2].partition("\n## ")[0]
    ann, bob, cat = (str(uuid.uuid4()) for _ in range(3))
    with fresh_database(stage.database.server) as database:
        await migrated(database.dsn)
        database.execute(
            f"grant usage on schema realtime to {stage.role};"
            f" grant select, insert on realtime.messages to {stage.role}"
        )
        for block in re.findall(r"^```sql\n(.*?)^```$", section, re.M | re.S):
            database.execute(block.replace("authenticated", stage.role))
        database.execute(
            f"insert into room_members values ('room:42', '{ann}', true),"
            f" ('room:42', '{bob}', false)"
        )
        async with PolicyChecks(at(database.dsn), timeout=5) as checks:
            here = attrs.evolve(stage, database=database, checks=checks)
            for who, reads, writes in ((ann, BOTH, BOTH), (bob, BOTH, ()), (cat, (), ())):
                claims = {"sub": who}
                assert await here.reads("room:42", *BOTH, claims=claims) == granted(*reads)
                assert await here.writes("room:42", *BOTH, claims=claims) == granted(*writes)
                assert await here.reads("room:43", *BOTH, claims=claims) == NO


async def test_policies_read_claims_headers_and_settings(stage: Stage) -> None:
    assert await stage.reads("settings", claims={"sub": "me"}) == granted(BROADCAST)
    assert await stage.reads("settings", claims={"sub": "you"}) == NO
    assert await stage.reads("header", headers='{"x-word":"sesame"}') == granted(BROADCAST)
    assert await stage.reads("header", headers='{"x-word":"password"}') == NO


async def test_what_a_function_wrongly_declares_immutable_is_asked_for_each(stage: Stage) -> None:
    names = ["ann", "bob", "ann", "cat"]
    found = await asyncio.gather(*(stage.reads("named", claims={"name": name}) for name in names))
    assert found == [granted(BROADCAST), NO, granted(BROADCAST), NO]


async def test_what_a_policy_keeps_for_its_transaction_is_gone_with_the_next(stage: Stage) -> None:
    asked = (stage.reads("remembers", claims={"n": number}) for number in range(5))
    assert await asyncio.gather(*asked) == [granted(BROADCAST)] * 5


async def test_a_policy_that_fails_is_a_no_of_its_own(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    failed = Answer(problem=Problem.POLICY_FAILED)
    # Others may have had the one line of these ten seconds.
    async with PolicyChecks(at(stage.database.dsn), timeout=0.4) as checks:
        own = attrs.evolve(stage, checks=checks)
        asked = (
            own.reads("read all"),
            own.reads("raises"),
            own.writes("raises"),
            own.writes("write broadcast"),
            own.reads("read broadcast"),
        )
        yes = granted(BROADCAST)
        assert await asyncio.gather(*asked) == [yes, failed, failed, yes, yes]
    (line,) = (line for line in caplog.messages if "RlsPolicyError" in line)
    # What it says may be a value of a row.
    assert line == "RlsPolicyError: a policy of realtime.messages fails: SQLSTATE P0001"


async def test_a_policy_that_takes_its_time_harms_only_who_asked(stage: Stage) -> None:
    loop = asyncio.get_running_loop()

    async def others() -> list[float]:
        times = []
        for number in range(30):
            begin = loop.time()
            assert await stage.reads("read all", claims={"n": number}) == granted(BROADCAST)
            times.append(loop.time() - begin)
        return times

    slow = (stage.reads(topic, claims={"slow": topic}) for topic in ("slow", "stubborn"))
    writes = stage.writes("slow", claims={"slow": "write"})
    times, *found = await asyncio.gather(others(), *slow, writes)
    assert found == [Answer(problem=Problem.TIMED_OUT)] * 3
    # Not those of the questions that have a limit of 0.4 s, and of 1 s where it is not heeded.
    assert sorted(times)[20] < 0.2
    # Nor does the viewer of a slow policy lose what others allow.
    assert await stage.reads("read all", claims={"slow": "slow"}) == granted(BROADCAST)


async def test_a_policy_that_ends_its_session_gets_no_answer_and_others_do(stage: Stage) -> None:
    topics = ["read all", "read all", "ends", "read broadcast"]
    asked = (stage.reads(topic, claims={"n": n}) for n, topic in enumerate(topics))
    away = Answer(problem=Problem.AWAY)
    yes = granted(BROADCAST)
    assert await asyncio.gather(*asked) == [yes, yes, away, yes]


async def test_lost_connections_are_opened_again(stage: Stage) -> None:
    await stage.reads("read all")
    ended = stage.database.execute(
        "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity"
        " where datname = current_database() and application_name like 'realtime_server%'"
    )
    assert ended != [(0,)]
    assert await stage.reads("read all") == granted(BROADCAST)


async def test_roles_that_are_none_of_the_database_are_refused(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    for role in ("none", "nobody knows", "pg_read_all_data", stage.role):
        expected = NO if role == "pg_read_all_data" else Answer(problem=Problem.UNKNOWN_ROLE)
        if role == stage.role:
            expected = granted(BROADCAST)
        assert await stage.reads("read all", claims={"role": role}) == expected
    with roles(stage.database.server, "server", options="login") as (server,):
        dsn = make_conninfo(stage.database.dsn, user=server)
        async with PolicyChecks(at(dsn), timeout=1.0) as checks:
            asked = stage.question("read all")
            # It may not even write the rows.
            assert await checks.ask(asked) == Answer(problem=Problem.AWAY)
            assert "the server's role may not write" in caplog.text
            stage.database.execute(f"grant all on realtime.messages to {server}")
            stage.database.execute(f"grant usage on schema realtime to {server}")
            stage.database.execute(f"alter role {server} bypassrls")
            assert await checks.ask(asked) == Answer(problem=Problem.MAY_NOT_ACT)
            assert f'GRANT "{stage.role}" TO "{server}" WITH INHERIT FALSE' in caplog.text
        stage.database.execute(f"drop owned by {server}")


async def test_check_says_what_private_channels_lack(stage: Stage) -> None:
    async def said(dsn: str) -> tuple[str, str]:
        [finding] = await private_channel_findings(dsn, migrates=False)
        return finding.severity.name, finding.message

    assert await said(stage.database.dsn) == (
        "OK",
        "policies of realtime.messages decide about private channels",
    )
    severity, message = await said(stage.database.server.dsn)
    assert (severity, message.split(",")[0]) == (
        "PROBLEM",
        "the table realtime.messages",
    )
    assert await private_channel_findings(stage.database.server.dsn, migrates=True) == ()
    with roles(stage.database.server, "server", options="login") as (server,):
        dsn = make_conninfo(stage.database.dsn, user=server)
        severity, message = await said(dsn)
        assert (severity, message.split(":")[0]) == (
            "PROBLEM",
            f"{server} cannot try what policies allow",
        )


async def test_check_gives_the_grants_that_roles_of_policies_lack(stage: Stage) -> None:
    database = stage.database
    with roles(database.server, "late") as (late,):  # made after the table
        database.execute(f"create policy late on realtime.messages to {late} using (true)")
        [finding] = await private_channel_findings(database.dsn, migrates=False)
        assert (finding.severity.name, finding.sql) == (
            "WARNING",
            (
                f"GRANT USAGE ON SCHEMA realtime TO {late};",
                f"GRANT SELECT ON realtime.messages TO {late};",
                f"GRANT INSERT ON realtime.messages TO {late};",
            ),
        )
        for statement in finding.sql:
            database.execute(statement)
        [finding] = await private_channel_findings(database.dsn, migrates=False)
        assert finding.severity.name == "OK"
        database.execute("drop policy late on realtime.messages")
        database.execute(f"drop owned by {late}")


async def test_check_asks_to_act_as_no_role_that_only_writes(stage: Stage) -> None:
    server = stage.database.server
    with (
        roles(server, "server", "app", options="login") as (name, app),
        fresh_database(server) as database,
    ):
        database.execute(f"grant create on database {database.name} to {name}")
        dsn = make_conninfo(database.dsn, user=name)
        await migrated(dsn)
        database.execute(
            f"create policy sends on realtime.messages for insert to {app} with check (true);"
            f" grant usage on schema realtime to {app}; grant insert on realtime.messages to {app}"
        )
        [finding] = await private_channel_findings(dsn, migrates=False)
        assert finding.severity.name == "OK"
        database.execute(
            f"create policy reads on realtime.messages for select to {app} using (true)"
        )
        [finding] = await private_channel_findings(dsn, migrates=False)
        assert finding.sql == (
            f"GRANT {app} TO {name} WITH INHERIT FALSE, SET TRUE;",
            f"GRANT SELECT ON realtime.messages TO {app};",
        )


async def test_nothing_is_left_of_what_was_tried(stage: Stage) -> None:
    for topic in ("read all", "write broadcast", "raises"):
        await stage.reads(topic, *BOTH)
        await stage.writes(topic, *BOTH)
    assert stage.database.execute("select count(*) from realtime.messages") == [(0,)]


async def test_without_a_database_the_answer_comes_soon(caplog: pytest.LogCaptureFixture) -> None:
    question = Question(Viewer.of({"role": "anybody"}), "{}", "room", (BROADCAST,))
    async with (
        asyncio.timeout(5),
        PolicyChecks(at("host=127.0.0.1 port=1 dbname=none user=nobody"), timeout=1.0) as checks,
    ):
        asked = (checks.ask(question) for _ in range(3))
        assert await asyncio.gather(*asked) == [Answer(problem=Problem.AWAY)] * 3
    lines = [line for line in caplog.messages if "cannot be asked about private channels" in line]
    assert len(lines) == 1
    assert logging.getLevelName(caplog.records[0].levelno) == "WARNING"


async def test_a_grant_that_is_missing_for_writing_is_told_the_operator(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    table = f'on realtime.messages to "{stage.role}"'
    granted_back = f"grant insert {table}"
    denied = f'revoke insert on realtime.messages from "{stage.role}"'
    in_part = f"{denied}; grant insert (topic, extension, inserted_at, updated_at) {table}"
    line = f"the role {stage.role} lacks a privilege on realtime.messages"
    for statement, answer, is_told in (
        (None, granted(), False),
        (denied, granted(), True),
        (in_part, granted(BROADCAST), False),
    ):
        if statement is not None:
            stage.database.execute(statement)
        try:
            # Others may have had the one line of these ten seconds.
            async with PolicyChecks(at(stage.database.dsn), timeout=0.4) as checks:
                own = attrs.evolve(stage, checks=checks)
                asked = "write broadcast" if statement is not None else "nothing"
                assert await own.writes(asked) == answer
        finally:
            if statement is not None:
                stage.database.execute(granted_back)
        assert any(line in one for one in caplog.messages) is is_told
        caplog.clear()
