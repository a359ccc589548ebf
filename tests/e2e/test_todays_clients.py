"""The clients of today, unmodified: each gets its `postgres_changes`.

npm's @supabase/realtime-js 2.119 in both versions of the protocol, PyPI's realtime 2.34, and npm's
phoenix 1.8 with the payloads that those send.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.program import NodeProgram, Program
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import TEST_DSN, Database, Server, unique_name
from tests.tokens import SECRET, make_token

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

Start = Callable[..., Program]
Popen = subprocess.Popen[str]

CLIENTS = ("js", "js-vsn1", "py", "phoenix")


@pytest.fixture(scope="module")
def pg(request: pytest.FixtureRequest) -> Server:
    """One server: what clients see does not depend on its version."""
    if TEST_DSN:
        return Server(TEST_DSN)
    server: Server = request.getfixturevalue("pg18")
    return server


@pytest.fixture
def start(clients: Path, python_client: Path) -> Start:
    """Start a client by its name, at the URL of a server's socket."""

    def start(client: str, url: str, **options: Any) -> Program:
        match client:
            case "js-vsn1":
                options["vsn"] = "1.0.0"
            case "py":
                program = str(clients / "realtime_py.py")
                return Program(str(python_client), program, url, json.dumps(options))
        name = "phoenix_1.mjs" if client == "phoenix" else "realtime_js_2.mjs"
        return NodeProgram(clients / name, url, json.dumps(options))

    return start


def normal(change: Any) -> Any:
    """Bring what a callback gets to one form: type, table, new and old row."""
    if "eventType" in change:  # JavaScript's
        kind, new, old = change["eventType"], change["new"], change["old"]
    else:
        change = change.get("data", change)
        kind = change["type"]
        new, old = change.get("record", {}), change.get("old_record", {})
    assert change["errors"] is None
    committed = datetime.fromisoformat(change["commit_timestamp"])
    assert abs(datetime.now(UTC) - committed) < timedelta(minutes=10)
    return [kind, f"{change['schema']}.{change['table']}", new, old]


def changes(program: Program, channel: str = "room") -> list[Any]:
    """Return what a channel's callbacks got: the binding's place, and the change."""
    return [
        [line["binding"], *normal(line["change"])]
        for line in [*program.said]
        if line.get("channel") == channel and "change" in line
    ]


BINDINGS = [
    {"event": "*", "schema": "public", "table": "users"},
    {"event": "INSERT", "schema": "public", "table": "users", "filter": "id=gt.10,name=like.A*"},
    {"event": "UPDATE", "schema": "public", "table": "todos", "filter": "done=is.true"},
    {"event": "DELETE", "schema": "public", "table": "*"},
    {"event": "*", "schema": "depot", "table": "goods", "select": ["price"]},
]
TRUNCATES = {"event": "TRUNCATE", "schema": "public", "table": "*"}

ADA = {
    "id": 99,
    "name": "Ada",
    "tags": ["a", "b c"],
    "created": "2026-01-31T22:30:00.5+00:00",
}
GRACE = {"id": 1, "name": "Grace", "tags": None, "created": None}
TODO = {"id": 1, "task": "bake", "done": False}

STEPS: list[tuple[str, list[Any]]] = [
    (
        "insert into users values (99, 'Ada', array['a', 'b c'], '2026-02-01 00:30:00.5+02')",
        [[0, "INSERT", "public.users", ADA, {}], [1, "INSERT", "public.users", ADA, {}]],
    ),
    ("insert into users values (1, 'Grace')", [[0, "INSERT", "public.users", GRACE, {}]]),
    (
        "update users set name = 'Ada L.' where id = 99",
        [[0, "UPDATE", "public.users", {**ADA, "name": "Ada L."}, {"id": 99}]],
    ),
    (
        "delete from users where id = 99",
        [
            [0, "DELETE", "public.users", {}, {"id": 99}],
            [3, "DELETE", "public.users", {}, {"id": 99}],
        ],
    ),
    ("insert into todos values (1, 'bake', false)", []),
    ("update todos set task = 'bake bread'", []),
    (
        "update todos set done = true",
        [
            [
                2,
                "UPDATE",
                "public.todos",
                {**TODO, "task": "bake bread", "done": True},
                {**TODO, "task": "bake bread"},
            ]
        ],
    ),
    (
        "delete from todos",
        [[3, "DELETE", "public.todos", {}, {**TODO, "task": "bake bread", "done": True}]],
    ),
    # To bindings of any event it would look like a DELETE.
    ("truncate users", [[5, "TRUNCATE", "public.users", {}, {}]]),
    (
        "insert into depot.goods values (7, 1.25)",
        [[4, "INSERT", "depot.goods", {"id": 7, "price": 1.25}, {}]],
    ),
]


def expected_by(client: str) -> list[Any]:
    lines = [line for _, lines in STEPS for line in lines]
    # It cannot ask for a TRUNCATE.
    return [line for line in lines if client != "py" or line[1] != "TRUNCATE"]


SUBSCRIBED = {"extension": "postgres_changes", "status": "ok"}


@pytest.mark.parametrize("client", CLIENTS)
def test_each_binding_gets_its_events_with_the_right_types(
    start: Start, shop: Database, server: ServerProcess, client: str
) -> None:
    with start(client, server.websocket_url) as program:
        bindings = BINDINGS if client == "py" else [*BINDINGS, TRUNCATES]
        program.tell(subscribe="room", bindings=bindings)
        program.wait_for(channel="room", status="SUBSCRIBED")
        program.wait_until(lambda: any("system" in line for line in [*program.said]))
        for statement, _ in STEPS:
            shop.execute(statement)
        # The last change of all goes to the last binding.
        program.wait_until(lambda: changes(program)[-1:] != [] and changes(program)[-1][0] == 4)
        assert changes(program) == expected_by(client)
        (system,) = (line["system"] for line in program.said if "system" in line)
        if client != "py":
            assert system == {
                **SUBSCRIBED,
                "channel": "room",
                "message": "Subscribed to PostgreSQL",
                "resumed": False,
                "position": system["position"],
            }
        # There was nothing that it could not read.
        assert not any("log" in line for line in program.said)

        program.tell(unsubscribe="room")
        program.wait_for(channel="room", left="ok")
        program.wait_for(channel="room", status="CLOSED")


@pytest.mark.parametrize("client", CLIENTS)
def test_who_unsubscribes_and_subscribes_at_once_is_subscribed(
    start: Start, shop: Database, server: ServerProcess, client: str
) -> None:
    with start(client, server.websocket_url) as program:
        program.tell(subscribe="room", bindings=[BINDINGS[0]])
        program.wait_for(channel="room", status="SUBSCRIBED")
        for times in (2, 3):
            program.tell(resubscribe="room", bindings=[BINDINGS[0]])
            program.wait_for(channel="room", status="SUBSCRIBED", times=times)
            # Whatever the server has said of the former channel has come before this.
            program.tell(subscribe=f"fence {times}")
            program.wait_for(channel=f"fence {times}", status="SUBSCRIBED")
        shop.execute("insert into users values (1, 'Grace')")
        program.wait_until(lambda: bool(changes(program)))
        assert changes(program) == [[0, "INSERT", "public.users", GRACE, {}]]

        # Alone, it ends as ever.
        program.tell(unsubscribe="room")
        program.wait_for(channel="room", left="ok")
        program.tell(subscribe="other")
        program.wait_for(channel="other", status="SUBSCRIBED")


@pytest.mark.parametrize("client", ["js", "js-vsn1", "phoenix"])
def test_a_client_may_ask_for_the_rows_that_leave_its_filter(
    start: Start, shop: Database, server: ServerProcess, client: str
) -> None:
    undone = {"event": "*", "schema": "public", "table": "todos", "filter": "done=is.false"}
    # To JavaScript's client bindings that differ in nothing but `leaves` are the same.
    silent = {**undone, "filter": "done=eq.false"}
    with start(client, server.websocket_url) as program:
        program.tell(subscribe="room", bindings=[silent, {**undone, "leaves": True}])
        program.wait_for(channel="room", status="SUBSCRIBED")
        shop.execute("insert into todos values (1, 'bake', false)")
        shop.execute("update todos set done = true")
        shop.execute("insert into todos values (2, 'eat', false)")
        program.wait_until(lambda: len(changes(program)) == 5)
        assert changes(program) == [
            [0, "INSERT", "public.todos", TODO, {}],
            [1, "INSERT", "public.todos", TODO, {}],
            [1, "DELETE", "public.todos", {}, TODO],
            [0, "INSERT", "public.todos", {"id": 2, "task": "eat", "done": False}, {}],
            [1, "INSERT", "public.todos", {"id": 2, "task": "eat", "done": False}, {}],
        ]


def test_all_at_once_on_one_server_see_the_same(
    start: Start, clients: Path, shop: Database, server: ServerProcess
) -> None:
    url = server.websocket_url
    with contextlib.ExitStack() as stack:
        programs = {name: stack.enter_context(start(name, url)) for name in CLIENTS}
        old = stack.enter_context(NodeProgram(clients / "lifecycle.mjs", url))
        old.tell(join="realtime:public:todos")
        for program in programs.values():
            program.tell(subscribe="room", bindings=[{**BINDINGS[0], "table": "todos"}])
        old.wait_for(joined="realtime:public:todos")
        for program in programs.values():
            program.wait_for(channel="room", status="SUBSCRIBED")
        for number in range(1, 21):
            shop.execute(f"insert into todos values ({number}, 'task {number}', {number} % 2 = 0)")
            shop.execute(f"update todos set done = not done where id = {number}")
        shop.execute("delete from todos")
        for program in programs.values():
            program.wait_until(lambda program=program: len(changes(program)) == 60)  # type: ignore[misc]
        old.wait_until(lambda: old.count(topic="realtime:public:todos", type="DELETE") == 20)
        seen = {name: changes(program) for name, program in programs.items()}
        assert all(each == seen["js"] for each in seen.values())
        by_the_old = [(line["type"], int(line.get("id", 0))) for line in old.said if "type" in line]
        assert by_the_old == [(kind, new.get("id", 0)) for _, kind, _, new, _ in seen["js"]]


def test_a_large_row_cuts_nobody_off(
    start: Start, clients: Path, shop: Database, server: ServerProcess
) -> None:
    mib = 1024 * 1024
    url = server.websocket_url
    with contextlib.ExitStack() as stack:
        programs = {name: stack.enter_context(start(name, url)) for name in CLIENTS}
        old = stack.enter_context(NodeProgram(clients / "lifecycle.mjs", url))
        old.tell(join="realtime:public:users")
        old.wait_for(joined="realtime:public:users")
        for program in programs.values():
            program.tell(subscribe="room", bindings=[BINDINGS[0]])
            program.wait_for(channel="room", status="SUBSCRIBED")
        # Nearly what all of them take, then more than that, then something after it.
        shop.execute(f"insert into users values (1, repeat('x', {mib - 2000}))")
        shop.execute(f"insert into users values (2, repeat('x', {mib}))")
        shop.execute("insert into users values (3, 'after it')")
        for name, program in programs.items():
            program.wait_until(lambda program=program: len(rows(program)) == 3)  # type: ignore[misc]
            (no_error, first), (error, second), (_, third) = rows(program)
            assert (no_error, error) == (None, ["Error 413: Payload Too Large"])
            assert (first["id"], len(first["name"])) == (1, mib - 2000), name
            # Only its key is shown.
            assert {key: second[key] for key in second if second[key] is not None} == {"id": 2}
            assert (third["id"], third["name"]) == (3, "after it")
            assert program.count(status="SUBSCRIBED") == 1
            assert program.count(status="CHANNEL_ERROR") == 0
        old.wait_for(topic="realtime:public:users", id="3")
        assert [line["id"] for line in old.said if "id" in line] == ["1", "2", "3"]
        assert old.count(socket="closed") == 0


def rows(program: Program) -> list[Any]:
    """Return the new rows that a client's callbacks got, each with what is wrong with it."""
    found = []
    for line in [*program.said]:
        change = line.get("change", {})
        data = change.get("data", change)
        row = data.get("new", data.get("record"))
        if row is not None:
            found.append((data["errors"], row))
    return found


def test_a_server_that_restarts_gets_its_clients_back(start: Start, shop: Database) -> None:
    binding = {"event": "INSERT", "schema": "public", "table": "users"}
    with contextlib.ExitStack() as stack:
        with ServerProcess(shop, publications='["changes"]') as server:
            url = server.websocket_url
            programs = [stack.enter_context(start(name, url)) for name in CLIENTS]
            for program in programs:
                program.tell(subscribe="room", bindings=[binding])
                program.tell(subscribe="other", bindings=[])
            for program in programs:
                program.wait_for(channel="room", status="SUBSCRIBED")
                program.wait_for(channel="other", status="SUBSCRIBED")
        with ServerProcess(shop, publications='["changes"]', port=server.port):
            for program in programs:
                program.wait_for(channel="room", status="SUBSCRIBED", times=2)
                program.wait_for(channel="other", status="SUBSCRIBED", times=2)
            shop.execute("insert into users values (1, 'after the restart')")
            shop.execute("insert into users values (2, 'and another')")
            for program in programs:
                program.wait_until(lambda program=program: len(changes(program)) >= 2)  # type: ignore[misc]
                assert [new["id"] for _, _, _, new, _ in changes(program)] == [1, 2]
                assert program.count(status="CLOSED") == 0


@contextlib.contextmanager
def secure_server(database: Database) -> Iterator[ServerProcess]:
    with ServerProcess(
        database, publications='["changes"]', SECURE_CHANNELS="true", JWT_SECRET=SECRET
    ) as server:
        yield server


def test_a_refreshed_token_keeps_a_channel_and_an_old_one_ends_it(
    start: Start, shop: Database
) -> None:
    with secure_server(shop) as server, contextlib.ExitStack() as stack:
        good = make_token({"role": "authenticated"})
        programs = {
            name: stack.enter_context(start(name, server.websocket_url, apikey=good))
            for name in (*CLIENTS, "forgetful")
        }
        # All are up before the short token's time begins.
        for program in programs.values():
            program.tell(token=good)
            program.wait_for(token="set")
        short = make_token({"role": "authenticated"}, expires_in=8)
        for program in programs.values():
            program.tell(token=short)
            program.wait_for(token="set", times=2)
            program.tell(subscribe="room", bindings=[BINDINGS[0]])
        for program in programs.values():
            program.wait_for(channel="room", status="SUBSCRIBED")
        forgetful = programs.pop("forgetful")
        for program in programs.values():
            program.tell(token=good)
            program.wait_for(token="set", times=3)
        # Its token ends with it: it is told why, and that it is over.
        forgetful.wait_for(channel="room", status="CLOSED")
        (told,) = (
            line["system"]
            for line in forgetful.said
            if line.get("system", {}).get("status") == "error"
        )
        assert told["message"] == "the token has expired"

        shop.execute("insert into users values (1, 'still here')")
        for program in programs.values():
            program.wait_until(lambda program=program: changes(program))  # type: ignore[misc]
            assert program.count(status="CLOSED") == 0
        assert changes(forgetful) == []


@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_refused_is_said_to_the_application(
    start: Start, server: ServerProcess, client: str
) -> None:
    with start(client, server.websocket_url) as program:
        bad = {**BINDINGS[0], "filter": "id=equals.1"}
        program.tell(subscribe="bad", bindings=[bad])
        program.wait_for(channel="bad", status="CHANNEL_ERROR")
        error = next(line["error"] for line in program.said if "error" in line)
        assert "config.postgres_changes[0].filter: unknown operator 'equals'" in error

        program.tell(
            subscribe="room",
            bindings=[],
            config={"broadcast": {"ack": True, "self": False}, "private": False},
        )
        program.wait_for(channel="room", status="SUBSCRIBED")
        program.tell(send="room", event="cursor", payload={"x": 1})
        program.wait_for(channel="room", sent="ok")
        # More than MAX_PRESENCE_BYTES.
        program.tell(track="room", payload={"name": "Ada" * 4000})
        program.wait_for(channel="room", tracked="ok" if client == "py" else "error")
        # The channel is as good as before.
        program.tell(unsubscribe="room")
        program.wait_for(channel="room", left="ok")
    server.wait_for_log("message by .* refused: PresenceTooLarge")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_private_channel_is_refused(start: Start, server: ServerProcess, client: str) -> None:
    with start(client, server.websocket_url) as program:
        program.tell(subscribe="secret", bindings=[BINDINGS[0]], config={"private": True})
        program.wait_for(channel="secret", status="CHANNEL_ERROR")
        error = next(line["error"] for line in program.said if "error" in line)
        assert "PrivateChannelsDisabled: this server has no private channels" in error
        assert program.count(channel="secret", status="SUBSCRIBED") == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_a_table_that_is_made_later_is_found_without_the_application(
    start: Start, shop: Database, server: ServerProcess, client: str
) -> None:
    with start(client, server.websocket_url) as program:
        later = {"event": "INSERT", "schema": "public", "table": "later"}
        program.tell(subscribe="room", bindings=[later])
        program.wait_for(channel="room", status="CHANNEL_ERROR")
        error = next(line["error"] for line in program.said if "error" in line)
        assert "there is no table public.later" in error
        shop.execute("create table later (id int primary key)")
        program.wait_for(channel="room", status="SUBSCRIBED")
        shop.execute("insert into later values (1)")
        program.wait_until(lambda: bool(changes(program)))
        assert changes(program) == [[0, "INSERT", "public.later", {"id": 1}, {}]]


def test_the_first_generation_is_joined_before_its_table_is_there(
    clients: Path, shop: Database, server: ServerProcess
) -> None:
    topic = "realtime:public:later"
    with NodeProgram(clients / "lifecycle.mjs", server.websocket_url) as old:
        old.tell(join=topic)
        old.wait_for(joined=topic)
        old.wait_for(frame="system", topic=topic)
        shop.execute("create table later (id int primary key)")
        shop.execute("insert into later values (1)")
        old.wait_for(topic=topic, type="INSERT", id="1")


def test_the_python_client_waits_longer_when_a_limit_was_met(start: Start, shop: Database) -> None:
    with (
        ServerProcess(shop, publications='["changes"]', MAX_CHANNELS="1") as server,
        start("py", server.websocket_url) as program,
    ):
        program.tell(subscribe="one")
        program.wait_for(channel="one", status="SUBSCRIBED")
        program.tell(subscribe="two")
        program.wait_for(channel="two", status="CHANNEL_ERROR")
        program.wait_for(channel="two", delay=30)


def test_a_client_may_wait_for_the_database(start: Start, shop: Database) -> None:
    waits = {"postgres_changes_options": {"wait": True}}
    with ServerProcess(shop, publications='["later"]', streaming=False) as server:
        program = start("js", server.websocket_url)
        with program:
            program.tell(subscribe="patient", bindings=[BINDINGS[0]], config=waits)
            program.tell(subscribe="eager", bindings=[BINDINGS[0]])
            program.wait_for(channel="eager", status="SUBSCRIBED")
            assert program.count(channel="patient") == 0
            assert in_place(program) == set()
            shop.execute("create publication later for all tables")
            program.wait_for(channel="patient", status="SUBSCRIBED")
            program.wait_until(lambda: in_place(program) == {"eager", "patient"})
            shop.execute("insert into users values (1, 'the first')")
            program.wait_until(
                lambda: bool(changes(program, "eager") and changes(program, "patient"))
            )


def in_place(program: Program) -> set[str]:
    """Return the channels that were told that their bindings are."""
    return {line["channel"] for line in [*program.said] if "system" in line}


# What the documentation says of them.

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "connect-clients.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


LANGUAGES = pytest.mark.parametrize("language", ["js", "python"])


@pytest.fixture
def run(clients: Path, python_client: Path) -> Iterator[Callable[[str, str], Popen]]:
    """Run a program of the page's, in JavaScript or Python."""
    with contextlib.ExitStack() as stack:

        def run(language: str, source: str) -> Popen:
            # Beside the packages that it imports.
            path = clients / f".{unique_name('connect')}.{'mjs' if language == 'js' else 'py'}"
            programs.append(path)
            path.write_text(source)
            command = ["node"] if language == "js" else [str(python_client), "-u"]
            process = stack.enter_context(
                subprocess.Popen(
                    [*command, str(path)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return process

        programs: list[Path] = []
        try:
            yield run
        finally:
            for path in programs:
                path.unlink()


def page_program(language: str, url: str, place: int = 0) -> str:
    source = blocks(language)[place].replace("ws://localhost:4000/socket", url)
    return source.replace("@supabase/realtime-js", "realtime-js-2")


def line(process: Popen) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


@LANGUAGES
def test_the_pages_programs_print_what_it_says_and_what_was_missed(
    run: Callable[[str, str], Popen], database: Database, language: str
) -> None:
    create, insert = blocks("sql")[0].splitlines()
    database.execute(create)
    database.execute("create publication changes for all tables")
    expected = blocks("text")[("js", "python").index(language)]
    with ServerProcess(database, publications='["changes"]') as server:
        process = run(language, page_program(language, server.websocket_url))
        subscribed = line(process)
        server.wait_for_log("joined: ")
        database.execute(insert)
        assert f"{subscribed}\n{line(process)}\n" == expected

        database.execute(
            "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots"
            " where database = current_database() and active"
        )
        assert line(process) == "read the table again: temporary_slot"

        database.execute("alter table todos alter done type text using 'no'")
        database.execute("insert into todos values (3, 'sleep', 'no')")
        told = line(process)
        assert "done is text, not boolean, which is.false is for" in told
        assert told.startswith("no more changes: " if language == "js" else "CHANNEL_ERROR: ")

        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
        assert "Traceback" not in said
        assert process.wait(30) == (-signal.SIGINT if language == "js" else 0)


@LANGUAGES
def test_the_pages_programs_print_why_a_join_was_refused(
    run: Callable[[str, str], Popen], database: Database, language: str
) -> None:
    database.execute("create publication changes for all tables")
    with ServerProcess(database, publications='["changes"]') as server:
        told = line(run(language, page_program(language, server.websocket_url)))
        assert told.startswith("CHANNEL_ERROR: ")
        assert "there is no table public.todos" in told


@LANGUAGES
def test_the_pages_programs_join_again_after_more_attempts_than_the_clients_default(
    run: Callable[[str, str], Popen], shop: Database, language: str
) -> None:
    with ServerProcess(shop, publications='["changes"]') as server:
        url = server.websocket_url
        source = page_program(language, url)
        # The same, without the pauses, of which the Python client makes each twice as long.
        process = run(
            language,
            source.replace("max_retries=1000", "max_retries=10**6, initial_backoff=0").replace(
                "transport: WebSocket,", "transport: WebSocket, reconnectAfterMs: () => 10,"
            ),
        )
        assert line(process) == "SUBSCRIBED"
    assert line(process).startswith("CHANNEL_ERROR")
    with socket.create_server(("127.0.0.1", server.port)) as deaf:
        deaf.settimeout(30)
        for _ in range(7):
            connection, _ = deaf.accept()
            connection.close()
    with ServerProcess(shop, publications='["changes"]', port=server.port):
        assert line(process) == "SUBSCRIBED"


def test_the_python_client_gives_up_after_five_attempts(start: Start, shop: Database) -> None:
    with ServerProcess(shop, publications='["changes"]') as server:
        program = start("py", server.websocket_url, initial_backoff=0.01)
        with program:
            program.tell(subscribe="room")
            program.wait_for(channel="room", status="SUBSCRIBED")
            server.stop()
            program.wait_until(
                lambda: any(
                    line.get("log", "").startswith("Connection failed permanently after 5 attempts")
                    for line in [*program.said]
                )
            )


def test_supabase_js_asks_for_its_token_and_forgets_what_it_is_given(
    run: Callable[[str, str], Popen], shop: Database
) -> None:
    key = make_token({"role": "anon"}, expires_in=10 * 365 * 24 * 3600)
    good = make_token({"role": "authenticated"})
    with secure_server(shop) as server:
        source = (
            blocks("js")[2]
            .replace('"http://localhost:4000", "eyJ…"', f'"http://127.0.0.1:{server.port}", KEY')
            .replace("transport: WebSocket", "transport: WebSocket, heartbeatIntervalMs: 500")
        )
        short = make_token({"role": "authenticated"}, expires_in=6)
        asked = source.replace(
            'let token = "eyJ…"',
            f"const KEY = '{key}'\nsetTimeout(() => {{ token = '{good}' }}, 1000)\n"
            f"let token = '{short}'",
        )
        told = source.replace("  accessToken: async () => token,\n", "").replace(
            'let token = "eyJ…"', f"const KEY = '{short}'\nlet token = '{good}'"
        )
        told += "\nsetTimeout(() => supabase.realtime.setAuth(token), 1000)\n"
        with_option, without = run("js", asked), run("js", told)
        assert (line(with_option), line(without)) == ("SUBSCRIBED", "SUBSCRIBED")
        assert line(without) == "CLOSED"
        shop.execute("insert into todos values (1, 'bake', false)")
        assert line(with_option) == "1 bake"


def test_heartbeats_are_answered(start: Start, server: ServerProcess) -> None:
    with (
        start("js", server.websocket_url, heartbeatIntervalMs=1000) as js,
        start("phoenix", server.websocket_url, heartbeatIntervalMs=1000) as phoenix,
    ):
        for program in (js, phoenix):
            program.tell(subscribe="room")
            program.wait_for(channel="room", status="SUBSCRIBED")
        js.wait_for(heartbeat="ok", times=3)
        # One that is not answered in time closes the socket.
        assert js.count(heartbeat="timeout") == 0
        assert phoenix.count(socket="closed") == 0


def test_a_storm_of_rejoins_gets_every_channel_back(start: Start, shop: Database) -> None:
    names = [f"room-{number}" for number in range(100)]
    with ServerProcess(shop, publications='["changes"]') as server:
        program = start("js", server.websocket_url)
        with program:
            for name in names:
                program.tell(subscribe=name, bindings=[BINDINGS[0]])
            program.wait_for(status="SUBSCRIBED", times=len(names))
            server.stop()
            with ServerProcess(shop, publications='["changes"]', port=server.port):
                program.wait_for(status="SUBSCRIBED", times=2 * len(names))
                shop.execute("insert into users values (1, 'to all')")
                program.wait_until(lambda: all(changes(program, name) for name in names))
                assert all(len(changes(program, name)) == 1 for name in names)
