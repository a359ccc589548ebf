"""The clients of today, unmodified, in private channels: policies decide who may read and write.

npm's @supabase/realtime-js 2.119 in both versions of the protocol, the client that supabase-js
makes, npm's phoenix 1.8, and PyPI's realtime 2.34. The server is in RLS mode.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import attrs
import pytest

from tests.e2e.program import NodeProgram, Program
from tests.e2e.rls_shop import rls_server
from tests.e2e.server_process import ServerProcess
from tests.e2e.test_rooms import OPTIONS
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.rls_helpers import roles
from tests.tokens import make_token
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

POLICIES = """
    create function public.may(broadcasts text, presence text, extension text) returns boolean
        stable language plpgsql as $$
    declare
        claims jsonb := current_setting('request.jwt.claims')::jsonb;
        right_ text := case extension when 'presence' then presence else broadcasts end;
    begin
        if realtime.topic() = 'rls_policy_error' and right_ = 'writes' then
            raise exception 'no';
        elsif realtime.topic() like 'query_canceled%' and right_ = 'writes' then
            perform pg_sleep(60);
        end if;
        return claims -> right_ ? realtime.topic();
    end $$;
    create policy reads on realtime.messages for select to {role}
        using (public.may('reads', 'sees', extension));
    create policy writes on realtime.messages for insert to {role}
        with check (public.may('writes', 'shows', extension));
    grant usage on schema realtime to {role};
    grant select, insert on realtime.messages to {role};
"""

UNAUTHORIZED = "Unauthorized: You do not have permissions to read from this Channel topic: room"


@attrs.frozen
class Stage:
    server: ServerProcess
    postgres: Server
    database: Database
    role: str
    clients: Path
    python_client: Path

    def token(self, *, reads: Iterable[str], writes: Iterable[str], **more: Iterable[str]) -> str:
        rights = {"reads": reads, "writes": writes, **more}
        return make_token({"role": self.role, **{name: [*rooms] for name, rooms in rights.items()}})

    def program(self, name: str, token: str) -> Program:
        said = json.dumps({**OPTIONS[name], "apikey": token})
        url = self.server.websocket_url
        if name == "py":
            command = str(self.clients / "realtime_py.py"), url, said
            return Program(str(self.python_client), *command)
        file = "phoenix_1.mjs" if name == "phoenix" else "realtime_js_2.mjs"
        return NodeProgram(self.clients / file, url, said)

    def refused(self, code: str) -> float:
        """How many broadcasts were refused with a code."""
        with urlopen(f"{self.server.page_url}metrics") as response:
            text = response.read().decode()
        found = re.search(rf'realtime_broadcasts_refused_total{{code="{code}"}} (.*)', text)
        return 0.0 if found is None else float(found[1])

    @contextlib.contextmanager
    def everybody(self, token: str) -> Iterator[dict[str, Program]]:
        with contextlib.ExitStack() as stack:
            yield {name: stack.enter_context(self.program(name, token)) for name in OPTIONS}


@pytest.fixture(scope="module")
def stage(pg18: Server, clients: Path, python_client: Path) -> Iterator[Stage]:
    with roles(pg18, "member") as (role,), fresh_database(pg18) as database:
        database.execute("create publication changes")
        with rls_server(database, RLS_CHECK_TIMEOUT="1000") as server:
            database.execute(POLICIES.replace("{role}", role))
            yield Stage(server, pg18, database, role, clients, python_client)


def enter(program: Program, *, private: bool = True) -> None:
    config = {"private": private, "broadcast": {"ack": True, "bytes": False}}
    program.tell(subscribe="room", bindings=[], config=config)


def heard(program: Program) -> list[str]:
    return [line["broadcast"]["event"] for line in [*program.said] if "broadcast" in line]


def wait_to_hear(programs: dict[str, Program], event: str, *but: str) -> None:
    for name, program in programs.items():
        if name not in but:
            program.wait_until(lambda program=program: event in heard(program))  # type: ignore[misc]


def told(program: Program) -> list[Any]:
    """The reasons that a client's application got."""
    systems = [line["system"]["message"] for line in [*program.said] if "system" in line]
    return [*systems, *(line["error"] for line in [*program.said] if "error" in line)]


def test_policies_decide_for_all_clients(stage: Stage) -> None:
    member = stage.token(reads=["room"], writes=["room"])
    reader = stage.token(reads=["room"], writes=[])
    outsider = stage.token(reads=["other"], writes=["room"])
    with stage.everybody(member) as programs, stage.program("js", member) as public:
        for program in programs.values():
            enter(program)
        enter(public, private=False)
        for program in (*programs.values(), public):
            program.wait_for(channel="room", status="SUBSCRIBED")

        # All hear each other, and who asked for a public channel hears nothing of it.
        for name, program in programs.items():
            program.tell(send="room", event=f"by {name}", payload={})
            program.wait_for(channel="room", sent="ok")
            wait_to_hear(programs, f"by {name}", name)
        for name in ("js", "supabase-js", "py"):
            programs[name].tell(http="room", event=f"http {name}", payload={})
            programs[name].wait_for(channel="room", http="ok")
            wait_to_hear(programs, f"http {name}")
        public.tell(send="room", event="public", payload={})
        public.wait_for(channel="room", sent="ok")

        # Who may only read from now on is told so, and goes on reading.
        for name, program in programs.items():
            program.tell(token=reader)
            program.wait_for(token="set")
            program.tell(send="room", event=f"no more {name}", payload={})
            # Python's client does not tell the application of an answer.
            if name != "py":
                program.wait_for(channel="room", sent="error")
        js = programs["js"]
        js.tell(http="room", event="no more http", payload={})
        js.wait_until(lambda: any("Unauthorized" in line.get("http", "") for line in js.said))
        programs["js"].tell(token=member)
        programs["js"].wait_for(token="set", times=2)
        programs["js"].tell(send="room", event="once more", payload={})
        wait_to_hear(programs, "once more", "js")
        for program in programs.values():
            assert not any("no more" in event or event == "public" for event in heard(program))
        assert heard(public) == []

        # Who may not read any more is out.
        for program in programs.values():
            program.tell(token=outsider)
            program.wait_until(
                lambda program=program: any("permission" in str(why) for why in told(program))
            )  # type: ignore[misc]
        for name in ("js", "js-vsn1", "supabase-js", "phoenix"):
            programs[name].wait_for(channel="room", status="CLOSED")


def test_a_refused_join_says_why(stage: Stage) -> None:
    with stage.everybody(stage.token(reads=["other"], writes=["room"])) as programs:
        for program in programs.values():
            enter(program)
        for program in programs.values():
            program.wait_for(channel="room", status="CHANNEL_ERROR")
            program.wait_until(
                lambda program=program: any(UNAUTHORIZED in str(why) for why in told(program))
            )  # type: ignore[misc]
            assert program.count(status="SUBSCRIBED") == 0


RIGHTS = {
    "hears": {"reads"},
    "sees": {"sees"},
    "writes": {"reads", "writes"},
    "shows": {"reads", "shows"},
    "mute": {"writes", "shows"},
    "all": {"reads", "writes", "sees", "shows"},
}
"""What clients may do, by room."""


def test_each_right_is_granted_by_itself(stage: Stage) -> None:
    rights = {
        right: [room for room, granted in RIGHTS.items() if right in granted]
        for right in ("reads", "writes", "sees", "shows")
    }
    everything = {right: [*RIGHTS] for right in rights}
    member = stage.token(**rights)
    with (
        stage.everybody(member) as programs,
        stage.program("js", stage.token(**everything)) as insider,
    ):
        for name, program in {**programs, "insider": insider}.items():
            for room in RIGHTS:
                presence = {"key": name, "enabled": True}
                broadcast = {"ack": True, "bytes": False}
                config = {"private": True, "broadcast": broadcast, "presence": presence}
                program.tell(subscribe=room, bindings=[], config=config)
        for room in RIGHTS:
            insider.wait_for(channel=room, status="SUBSCRIBED")
            for program in programs.values():
                # To send and to be shown is not enough.
                status = "CHANNEL_ERROR" if room == "mute" else "SUBSCRIBED"
                program.wait_for(channel=room, status=status)
                assert room != "mute" or program.count(channel=room, status="SUBSCRIBED") == 0

        may_join = [room for room in RIGHTS if room != "mute"]
        for name, program in {**programs, "insider": insider}.items():
            for room in may_join:
                granted = RIGHTS[room] if name != "insider" else {*rights}
                program.tell(track=room, payload={"by": name})
                program.tell(send=room, event=f"by {name}", payload={})
                if name != "py":
                    tracked, sent = ("ok" if one in granted else "error" for one in _SENDING)
                    program.wait_for(channel=room, tracked=tracked)
                    program.wait_for(channel=room, sent=sent)

        kinds = [*programs]
        for room in may_join:
            shown = sorted([*(kinds if "shows" in RIGHTS[room] else ()), "insider"])
            insider.wait_for(channel=room, present=shown)
            heard_there = [f"by {name}" for name in kinds if "writes" in RIGHTS[room]]
            insider.wait_until(lambda room=room, heard=heard_there: events(insider, room) == heard)  # type: ignore[misc]
            for name, program in programs.items():
                expected = [*(one for one in heard_there if one != f"by {name}"), "by insider"]
                if "reads" in RIGHTS[room]:
                    program.wait_until(
                        lambda program=program, room=room, expected=expected: (
                            events(program, room) == expected
                        )
                    )  # type: ignore[misc]
                if "sees" in RIGHTS[room]:
                    program.wait_for(channel=room, present=shown)
        for program in programs.values():
            assert events(program, "sees") == events(program, "mute") == []
            for room in ("hears", "writes", "shows"):
                assert not any(
                    line.get("present") and line["channel"] == room for line in program.said
                )


_SENDING = ("shows", "writes")


def events(program: Program, room: str) -> list[str]:
    """Return what a client has heard in a room, in order."""
    return [
        line["broadcast"]["event"]
        for line in [*program.said]
        if "broadcast" in line and line["channel"] == room
    ]


MESSAGES_ARE_AWAY = """
    alter table realtime.messages detach partition realtime.messages_probes;
    alter table realtime.messages detach partition realtime.messages_default;
"""
MESSAGES_ARE_BACK = """
    alter table realtime.messages attach partition realtime.messages_probes
        for values from (minvalue) to ('2000-01-01');
    alter table realtime.messages attach partition realtime.messages_default default;
"""


def test_a_sender_is_told_each_reason_for_which_the_database_lets_nobody_have_it(
    stage: Stage,
) -> None:
    in_time = ("unauthorized", "rls_policy_error", "query_canceled")
    rooms = (*in_time, "missing_partition", "unable_to_set_policies")
    away = "unable_to_connect_to_project"
    writes = [room for room in (*rooms, away) if room != "unauthorized"]
    token = stage.token(reads=[*rooms, away], writes=writes)
    sql = stage.database.execute

    def refuse(*codes: str) -> None:
        """Have all clients send to rooms, each of which is named like the code of the refusal."""
        for program in programs.values():
            for code in codes:
                program.tell(send=code, event="m", payload={})
        for name, program in programs.items():
            for code in codes:
                # Python's client does not tell the application of an answer.
                if name != "py":
                    program.wait_for(channel=code, sent="error")
                    program.wait_for(refused=code)
        if "py" in programs:
            eventually_sync(lambda: all(stage.refused(code) >= len(programs) for code in codes))

    def request(room: str, message: str) -> None:
        """Have clients send to a room by HTTP, which is refused."""
        for name in ("js", "supabase-js", "py"):
            program = programs[name]
            program.tell(http=room, event="m", payload={})
            program.wait_until(
                lambda program=program: any(
                    message in line.get("http", "")
                    for line in [*program.said]
                    if line.get("channel") == room
                )
            )  # type: ignore[misc]

    with stage.everybody(token) as programs:
        for program in programs.values():
            for room in (*rooms, away):
                config = {"private": True, "broadcast": {"ack": True, "bytes": False}}
                program.tell(subscribe=room, bindings=[], config=config)
        for program in programs.values():
            for room in (*rooms, away):
                program.wait_for(channel=room, status="SUBSCRIBED")
        refuse(*in_time)
        for name in ("js", "supabase-js"):
            programs[name].tell(send=away, event="m", payload={}, persist=True)
            programs[name].wait_for(channel=away, sent="persist_unavailable")
        request("unauthorized", "Unauthorized")
        request("rls_policy_error", "RLS policy error")
        request("query_canceled", "Query canceled")
        sql(MESSAGES_ARE_AWAY)
        try:
            refuse("missing_partition")
        finally:
            sql(MESSAGES_ARE_BACK)
        sql(f'alter role "{stage.role}" rename to "{stage.role}_2"')
        try:
            refuse("unable_to_set_policies")
            request("unable_to_set_policies", "RLS policy error")
        finally:
            sql(f'alter role "{stage.role}_2" rename to "{stage.role}"')
        name = stage.database.name
        stage.postgres.execute(f'alter database "{name}" allow_connections false')
        try:
            stage.postgres.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = %s and application_name like '%%polic%%'",
                (name,),
            )
            refuse(away)
            request(away, "UnableToConnectToProject")
        finally:
            stage.postgres.execute(f'alter database "{name}" allow_connections true')
        # What failed for a moment is asked anew.
        for each, program in programs.items():
            program.tell(send=away, event="at last", payload={})
            if each != "py":
                program.wait_for(channel=away, sent="ok")


def test_whoever_has_too_many_policies_waiting_is_told(stage: Stage) -> None:
    code, slow = "increase_connection_pool", [f"query_canceled {number}" for number in range(24)]
    token = stage.token(reads=slow, writes=[])

    def send(program: Program, rooms: list[str]) -> None:
        for room in rooms:
            program.tell(send=room, event="m", payload={})

    with (
        stage.everybody(token) as programs,
        stage.program("js", token) as one,
        stage.program("js", token) as another,
    ):
        # Of one connection eight channels ask at once.
        rooms = {one: slow[:8], another: slow[8:16], **dict.fromkeys(programs.values(), slow[16:])}
        for program, its in rooms.items():
            for room in its:
                config = {"private": True, "broadcast": {"ack": True, "bytes": False}}
                program.tell(subscribe=room, bindings=[], config=config)
        for program, its in rooms.items():
            for room in its:
                program.wait_for(channel=room, status="SUBSCRIBED")
        for program in (one, another):
            send(program, rooms[program])
        eventually_sync(lambda: stage.refused(code))
        for program in programs.values():
            send(program, rooms[program])
        for name, program in programs.items():
            # Python's client does not tell the application of an answer.
            if name != "py":
                program.wait_for(refused=code)
