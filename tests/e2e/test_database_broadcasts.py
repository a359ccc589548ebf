"""The clients of today, unmodified, in a private room that a trigger broadcasts to.

npm's @supabase/realtime-js 2.119 in both versions of the protocol, the client that supabase-js
makes, npm's phoenix 1.8, and PyPI's realtime 2.34. The server is in RLS mode.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.program import NodeProgram, Program
from tests.e2e.rls_shop import rls_server
from tests.e2e.test_rooms import OPTIONS, READ_BYTES
from tests.fix_postgres import Server, unique_name
from tests.integration.conftest import fresh_database
from tests.nats_server import LATEST, NatsServer
from tests.rls_helpers import roles
from tests.tokens import make_token

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

TABLE = """
    create table orders (id int primary key, state text);
    grant select on orders to {role};
    create publication changes for table orders
"""
TRIGGER = """
    create policy reads on realtime.messages for select to {role}
        using (realtime.topic() = 'kitchen');
    create policy writes on realtime.messages for insert to {role}
        with check (realtime.topic() = 'kitchen');
    grant usage on schema realtime to {role};
    grant select, insert on realtime.messages to {role};
    create function orders_changed() returns trigger
        language plpgsql security definer set search_path = '' as $$
    begin
        perform realtime.broadcast_changes(
            'kitchen', tg_op, tg_op, tg_table_name, tg_table_schema, new, old, tg_level
        );
        return null;
    end $$;
    create trigger orders_changed after insert or update or delete on orders
        for each row execute function orders_changed()
"""
LISTENER = "everything"


def test_a_trigger_broadcasts_to_a_private_room(
    pg18: Server, clients: Path, python_client: Path
) -> None:
    with contextlib.ExitStack() as stack:
        (role,) = stack.enter_context(roles(pg18, "member"))
        database = stack.enter_context(fresh_database(pg18))
        database.execute(TABLE.replace("{role}", role))
        server = stack.enter_context(rls_server(database, BROADCAST_FROM_DATABASE="true"))
        database.execute(TRIGGER.replace("{role}", role))
        programs: dict[str, Program] = {}
        for name in (*OPTIONS, LISTENER):
            options = {**OPTIONS.get(name, {}), "apikey": make_token({"role": role})}
            said, url = json.dumps(options), server.websocket_url
            if name == "py":
                program = Program(str(python_client), str(clients / "realtime_py.py"), url, said)
            else:
                file = "phoenix_1.mjs" if name == "phoenix" else "realtime_js_2.mjs"
                program = NodeProgram(clients / file, url, said)
            programs[name] = stack.enter_context(program)
        for name, program in programs.items():
            if name == LISTENER:
                # Beside them, in public, with all changes of all tables.
                bindings = [{"event": "*", "schema": "*"}, {"event": "*", "schema": "public"}]
                for topic in ("*", "kitchen"):
                    program.tell(subscribe=topic, bindings=bindings, config={})
                    program.wait_for(channel=topic, status="SUBSCRIBED")
            else:
                config = {"private": True, "broadcast": {"bytes": name != "phoenix"}}
                program.tell(subscribe="kitchen", bindings=[], config=config)
                program.wait_for(channel="kitchen", status="SUBSCRIBED")

        for statement in (
            "insert into orders values (1, 'new')",
            "update orders set state = 'done'",
            "delete from orders",
            "select realtime.send_binary('\\x0001ff', 'bin', 'kitchen')",
            "select realtime.send('{}', 'not here', 'cellar')",
            "select realtime.send('{\"last\": true}', 'end', 'kitchen')",
        ):
            database.execute(statement)
        for name in OPTIONS:
            programs[name].wait_until(lambda name=name: "end" in events(programs[name]))  # type: ignore[misc]
            messages = heard(programs[name])
            assert [message["event"] for message in messages] == [
                *("INSERT", "UPDATE", "DELETE"),
                *(["bin"] if name in READ_BYTES else []),
                "end",
            ]
            changes = [message["payload"] for message in messages[:3]]
            new, done = {"id": 1, "state": "new"}, {"id": 1, "state": "done"}
            assert [(change["record"], change["old_record"]) for change in changes] == [
                (new, None),
                (done, new),
                (None, done),
            ]
            assert {change["operation"] for change in changes} == {"INSERT", "UPDATE", "DELETE"}
            if name in READ_BYTES:
                assert messages[3]["bytes"] == [0, 1, 255]
            # Python's client does not show what stands beside a payload.
            assert name == "py" or all("meta" in message["more"] for message in messages)
        listener = programs[LISTENER]
        tables = [line["change"]["table"] for line in listener.said if "change" in line]
        assert set(tables) == {"orders"}
        assert heard(listener) == []

        # Who was away, and asks for it, misses nothing when it joins again.
        for name in OPTIONS:
            programs[name].tell(unsubscribe="kitchen")
            programs[name].wait_for(channel="kitchen", left="ok")
        since = int(time.time() * 1000)
        first, second = (f"realtime.send('{{}}', 'away {n}', 'kitchen')" for n in (1, 2))
        database.execute(f"do $$ begin perform {first}; perform {second}; end $$")
        for name in OPTIONS:
            broadcast = {"bytes": False, "replay": {"since": since, "limit": 25}}
            config = {"private": True, "broadcast": broadcast}
            programs[name].tell(subscribe="kitchen", bindings=[], config=config)
            programs[name].wait_for(channel="kitchen", status="SUBSCRIBED", times=2)
        database.execute("select realtime.send('{}', 'back', 'kitchen')")
        for name in OPTIONS:
            programs[name].wait_until(lambda name=name: "back" in events(programs[name]))  # type: ignore[misc]
            found = events(programs[name])
            assert found[found.index("end") + 1 :] == ["away 1", "away 2", "back"]


@pytest.mark.parametrize("nats", [LATEST], indirect=True, ids=["latest"])
def test_a_private_room_spans_the_processes_of_several_servers(
    pg18: Server, nats: NatsServer, clients: Path, python_client: Path
) -> None:
    with contextlib.ExitStack() as stack:
        (role,) = stack.enter_context(roles(pg18, "member"))
        database = stack.enter_context(fresh_database(pg18))
        database.execute(TABLE.replace("{role}", role))
        shared = {
            "BROADCAST_FROM_DATABASE": "true",
            "NATS_URL": nats.url,
            "SLOT_NAME": unique_name("rooms"),
        }
        servers = [
            stack.enter_context(rls_server(database, follows=follows, **shared, **more))
            for follows, more in ((False, {"WORKERS": "2"}), (True, {}))
        ]
        for server in servers:
            server.wait_for_log("broadcasts reach members at all servers")
        database.execute(TRIGGER.replace("{role}", role))
        options = {"apikey": make_token({"role": role})}
        programs: dict[str, Program] = {}
        for number, name in enumerate([*OPTIONS, "js", "phoenix"]):
            url = servers[number % 2].websocket_url
            said = json.dumps({**OPTIONS[name], **options})
            if name == "py":
                program = Program(str(python_client), str(clients / "realtime_py.py"), url, said)
            else:
                file = "phoenix_1.mjs" if name == "phoenix" else "realtime_js_2.mjs"
                program = NodeProgram(clients / file, url, said)
            programs[f"{name} {number}"] = stack.enter_context(program)
        for program in programs.values():
            for topic in ("cellar", "kitchen"):
                config = {"private": True, "broadcast": {"ack": True, "bytes": False}}
                program.tell(subscribe=topic, bindings=[], config=config)
        for program in programs.values():
            program.wait_for(channel="cellar", status="CHANNEL_ERROR")
            program.wait_for(channel="kitchen", status="SUBSCRIBED")
        # Each has heard of each when the servers know of each other's members.
        for name, program in programs.items():
            program.tell(send="kitchen", event=f"by {name}", payload={})
            program.wait_for(channel="kitchen", sent="ok")
        first, *others = programs
        for number in range(100):
            fence = f"fence {number}"
            programs[first].tell(send="kitchen", event=fence, payload={})
            programs[first].wait_for(channel="kitchen", sent="ok", times=number + 2)
            if all(any("fence" in event for event in events(programs[name])) for name in others):
                break
            time.sleep(0.05)
        database.execute("insert into orders values (1, 'new'); update orders set state = 'done'")
        database.execute("select realtime.send('{}', 'not here', 'cellar')")
        database.execute("select realtime.send('{\"last\": true}', 'end', 'kitchen')")
        for program in programs.values():
            program.wait_until(lambda program=program: "end" in events(program))  # type: ignore[misc]
            found = [
                event
                for event in events(program)
                if "fence" not in event and not event.startswith("by ")
            ]
            # Once, and in order, whichever process it is at.
            assert found == ["INSERT", "UPDATE", "end"]
            assert program.count(channel="cellar", status="SUBSCRIBED") == 0


def heard(program: Program) -> list[Any]:
    return [line["broadcast"] for line in [*program.said] if "broadcast" in line]


def events(program: Program) -> list[str]:
    return [message["event"] for message in heard(program)]
