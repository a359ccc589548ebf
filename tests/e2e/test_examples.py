"""The examples, each started by the command that its README names, until a change has arrived."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from realtime_server.demo import sample
from tests.e2e.browser import Browser, Page
from tests.e2e.conftest import ROOT, alone
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database, Server
from tests.integration.conftest import IS_STREAMING, fresh_database
from tests.server.demo.test_main import free_port, running
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

EXAMPLES = ROOT / "examples"
NAMES = sorted(readme.parent.name for readme in EXAMPLES.glob("*/README.md"))
KILLS = 5
STATE = "document.getElementById('state')?.textContent"


@pytest.fixture(scope="session", autouse=True)
def installed(clients: Path) -> None:
    """What the examples need, and npm, without which half of them cannot start."""
    with alone():
        subprocess.run(["make", "--silent", "examples"], cwd=ROOT, check=True, timeout=280)


@pytest.fixture
def shop(one_pg: Server) -> Iterator[Database]:
    """The demo's tables, which nobody else writes to."""
    with fresh_database(one_pg) as database:
        with database.connect() as connection:
            sample.prepare(connection)
        yield database


class Example:
    """An example that runs, and what it has printed.

    Args:
        command: how it is started.
        environment: its variables, besides ours.
    """

    def __init__(self, *command: str, **environment: str) -> None:
        self.port = environment.get("PORT", "")
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # npm starts others; all of them are ended together.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, pattern: str) -> None:
        """Wait for a line that it prints."""
        self.wait_until(lambda: any(re.search(pattern, line) for line in [*self.lines]))

    def wait_until(self, condition: Callable[[], object]) -> None:
        def holds() -> object:
            assert self.process.poll() is None, self.lines
            return condition()

        eventually_sync(holds, within=60)

    def get(self, path: str) -> Any:
        return json.load(self.open(path))

    def open(self, path: str, **options: Any) -> Any:
        """Ask for a page, as soon as it listens."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", **options)
        found: list[Any] = []

        def answers() -> object:
            with contextlib.suppress(urllib.error.URLError):
                found.append(urllib.request.urlopen(request, timeout=60))
            return found

        self.wait_until(answers)
        return found[0]

    def interrupt(self) -> int:
        """Press Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(30)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.lines.extend(map(str.rstrip, lines))


@contextlib.contextmanager
def started(name: str, *arguments: str, **environment: str) -> Iterator[Example]:
    example = Example(str(EXAMPLES / "start"), name, *arguments, **environment)
    try:
        yield example
    finally:
        example.end()
    assert not [line for line in example.lines if "Traceback" in line], example.lines


def test_node_js(shop: Database) -> None:
    with (
        ServerProcess(shop, publications='["supabase_realtime"]') as server,
        started("node-js", REALTIME_URL=server.websocket_url) as example,
    ):
        for topic in ("public", "public:users", "public:todos:done=is.true"):
            example.wait_for(f"^joined realtime:{topic}$")
        example.wait_for("^SUBSCRIBED$")
        shop.execute(
            "insert into users (name) values ('Ada'); update users set name = 'Ada L.';"
            "insert into todos (task, done) values ('to do', false), ('did it', true);"
            "insert into orders (total, items) values (20, '[]'), (200, '[]');"
            "delete from users"
        )
        example.wait_for("^user 1 is gone$")
        example.wait_for("^INSERT of order 2$")
        printed = [line for line in example.lines if "public: " not in line]
        assert {line for line in printed if "user" in line} - {"joined realtime:public:users"} == {
            "new user: Ada",
            "user 1 was Ada, and is Ada L.",
            "user 1 is gone",
        }
        assert [line for line in printed if line.startswith("done: ")] == ["done: did it"]
        large = [line for line in printed if line.startswith("large order")]
        assert large == ["large order 2: 200"]
        assert "realtime:public: INSERT of orders" in example.lines


def test_sse(shop: Database) -> None:
    with started("sse", DATABASE_URL=shop.dsn, PORT=str(free_port())) as example:
        with example.open("/changes?table=todos") as stream, example.open("/changes") as all_of_it:
            until_followed(shop)
            shop.execute("insert into users (name) values ('Ada')")
            shop.execute("insert into todos (task) values ('bake')")
            todo = {"id": 1, "task": "bake", "done": False}
            assert next_event(stream) == ("open", {})
            assert next_event(stream) == ("INSERT", {"table": "todos", "row": todo})
            shop.execute("truncate todos")
            assert next_event(stream) == ("TRUNCATE", {"table": "todos"})
            assert next_event(all_of_it) == ("open", {})
            user = {"id": 1, "name": "Ada", "email": None}
            assert next_event(all_of_it) == ("INSERT", {"table": "users", "row": user})
        assert example.interrupt() == 0


def until_followed(database: Database) -> None:
    eventually_sync(lambda: database.execute(IS_STREAMING))


def next_event(stream: Any) -> tuple[str, Any]:
    lines = [stream.readline().decode().rstrip("\n") for _ in range(3)]
    event, data, end = lines
    assert end == ""
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_the_page_of_sse(browser: Browser, shop: Database) -> None:
    with (
        started("sse", DATABASE_URL=shop.dsn, PORT=str(free_port())) as example,
        example.open("/"),
        browser.page(f"http://127.0.0.1:{example.port}/") as page,
    ):
        page.wait_for(f"{STATE} === 'listening'")
        until_followed(shop)
        shop.execute("insert into todos (task) values ('bake')")
        page.wait_for("document.querySelector('li')?.textContent.includes('\"task\":\"bake\"')")
        # Without its connection the source has missed something, and says so.
        terminate_streams(shop)
        page.wait_for(f"{STATE}.includes('missed')")
        assert page.complaints == []


def terminate_streams(database: Database) -> None:
    database.execute(
        "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots"
        " where database = current_database() and active"
    )


def test_etl_does_each_thing_once_though_it_is_killed(shop: Database, tmp_path: Path) -> None:
    shop.execute("insert into orders (total, items) values (1, '[]')")
    path = tmp_path / "orders.sqlite"

    def write() -> None:
        for _ in range(20):
            shop.execute(
                "insert into orders (total, items) values (2, '[{}]');"
                "update orders set total = total + 1 where id = 1"
            )

    for _ in range(KILLS):
        with started("etl", str(path), DATABASE_URL=shop.dsn) as example:
            example.wait_for("^copying orders to ")
            write()
            # At once: some of it is not done yet.
            os.killpg(example.process.pid, signal.SIGKILL)
    write()
    written = ["INSERT", "UPDATE"] * (20 * (KILLS + 1))
    with (
        contextlib.closing(sqlite3.connect(path)) as target,
        started("etl", str(path), DATABASE_URL=shop.dsn) as example,
    ):
        example.wait_until(lambda: history(target) == written)
        shop.execute("delete from orders where id = 2")
        example.wait_until(lambda: history(target) == [*written, "DELETE"])
        copy = target.execute("select id, total, items from orders order by id").fetchall()
        assert copy == shop.execute("select id, total::text, items::text from orders order by id")
        assert example.interrupt() == 0


def test_etl_refuses_a_position_of_another_database(
    pg17: Server, pg18: Server, tmp_path: Path
) -> None:
    path = tmp_path / "orders.sqlite"
    for number, server in enumerate((pg17, pg18)):
        with fresh_database(server) as database:
            with database.connect() as connection:
                sample.prepare(connection)
            with started("etl", str(path), DATABASE_URL=database.dsn) as example:
                if number == 0:
                    example.wait_for("^copying orders to ")
                    database.execute("insert into orders (total, items) values (1, '[]')")
                    example.wait_for(": 1 changes$")
                else:
                    assert example.process.wait(60) == 1
            assert number == 0 or any(line.startswith("etl.py: ") for line in example.lines)


def history(target: sqlite3.Connection) -> list[str]:
    return [op for (op,) in target.execute("select op from history order by number")]


def test_cache(shop: Database) -> None:
    shop.execute("insert into users (name) values ('Ada'), ('Ken')")
    with started("cache", DATABASE_URL=shop.dsn, PORT=str(free_port())) as example:
        until_followed(shop)

        def user(key: int) -> tuple[str, str]:
            with example.open(f"/users/{key}") as answer:
                return json.load(answer)["name"], answer.headers["X-Cache"]

        eventually_sync(lambda: user(1) == ("Ada", "hit"))
        eventually_sync(lambda: user(2) == ("Ken", "hit"))
        shop.execute("update users set name = 'Ada L.' where id = 1")
        # Nobody has waited for it to become old: it is 60 seconds until then.
        eventually_sync(lambda: user(1)[0] == "Ada L.", within=20)
        assert user(2) == ("Ken", "hit")
        shop.execute("update users set id = default where id = 2")
        with pytest.raises(urllib.error.HTTPError) as missing:
            eventually_sync(lambda: raise_errors(example, "/users/2"), within=20)
        assert missing.value.code == 404
        missing.value.close()
        assert user(3)[0] == "Ken"
        # After a gap nothing is believed any more.
        eventually_sync(lambda: user(1) == ("Ada L.", "hit"))
        terminate_streams(shop)
        eventually_sync(lambda: user(1)[1] in ("off", "miss"))
        eventually_sync(lambda: user(1) == ("Ada L.", "hit"))
        assert example.interrupt() == 0


def raise_errors(example: Example, path: str) -> None:
    urllib.request.urlopen(f"http://127.0.0.1:{example.port}{path}", timeout=60).close()


def test_search(shop: Database, tmp_path: Path) -> None:
    shop.execute("insert into todos (task) values ('water the plants'), ('read the manual')")
    environment = {
        "DATABASE_URL": shop.dsn,
        "PORT": str(free_port()),
        "INDEX": str(tmp_path / "todos.sqlite"),
    }
    with started("search", **environment) as example:

        def found(words: str) -> list[int]:
            return [each["id"] for each in example.get(f"/search?q={words}")]

        eventually_sync(lambda: found("the") == [1, 2])
        shop.execute(
            "insert into todos (task) select 'bake bread ' || n from generate_series(1, 200) n;"
            "update todos set task = 'feed the plants' where id = 1;"
            "update todos set done = true;"
            "delete from todos where id = 2"
        )
        eventually_sync(lambda: found("the") == [1] and found("feed%20plants") == [1])
        assert len(found("bread")) == 20
        assert found("bread%20200") == [202]
        assert found('"%20OR') == []
        # Some 400 changes of one transaction, in a few batches.
        writes = [line for line in example.lines if line.endswith("rows written")]
        assert 1 <= len(writes) < 50
        assert example.interrupt() == 0
    # What is committed meanwhile is there after the next start.
    shop.execute("delete from todos where id = 202")
    with started("search", **environment) as example:
        eventually_sync(lambda: example.get("/search?q=bread%20200") == [])
        assert example.get("/search?q=bread%20199")
        # With the slot everything that it would have told is lost, so all is read again.
        shop.execute("delete from todos where id = 201")
        assert example.interrupt() == 0
    shop.execute("select pg_drop_replication_slot('search_todos')")
    with started("search", **environment) as example:
        eventually_sync(lambda: example.get("/search?q=bread%20199") == [])


def test_page(browser: Browser, shop: Database) -> None:
    port = str(free_port())
    origins = json.dumps([f"http://127.0.0.1:{port}"])
    with (
        ServerProcess(
            shop, publications='["supabase_realtime"]', ALLOWED_ORIGINS=origins
        ) as server,
        started("page", PORT=port, REALTIME_URL=server.websocket_url) as example,
        example.open("/"),
        browser.page(f"http://127.0.0.1:{port}/?server=http://127.0.0.1:{server.port}") as page,
    ):
        page.wait_for(f"{STATE} === 'SUBSCRIBED'")
        shop.execute("insert into todos (task) values ('bake'), ('eat')")
        shop.execute("update todos set done = true where id = 2; delete from todos where id = 1")
        rows = "[...document.querySelectorAll('tbody tr')].map((row) => row.innerText)"
        page.wait_for(f"{rows}.length === 1 && {rows}[0].includes('✓')")
        assert page.evaluate(rows) == ["2\teat\t✓"]
        assert page.complaints == []


@pytest.fixture
def chat(one_pg: Server) -> Iterator[Example]:
    """The chat, started twice: the second time its database is there."""
    environment = {
        "DATABASE_URL": one_pg.dsn,
        "PORT": str(free_port()),
        "REALTIME_PORT": str(free_port()),
    }
    try:
        with started("chat", **environment) as example:
            example.open("/").close()
            assert example.interrupt() == 0
        with started("chat", **environment) as example:
            example.open("/").close()
            eventually_sync(
                lambda: answers(f"http://127.0.0.1:{environment['REALTIME_PORT']}/ready")
            )
            yield example
            assert example.interrupt() == 0
    finally:
        Database(one_pg, "chat").drop()
        one_pg.execute("drop role chat_user")
        one_pg.execute("drop role chat_server")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=60):
            return True
    except urllib.error.HTTPError as refused:
        refused.close()
    except urllib.error.URLError:
        pass
    return False


def test_chat(browser: Browser, chat: Example) -> None:
    url = f"http://127.0.0.1:{chat.port}/"
    with contextlib.ExitStack() as stack:
        ann, bob, eve = pages = [stack.enter_context(browser.page(url)) for _ in range(3)]
        for page, name in zip(pages, ("Ann", "Bob", "Eve"), strict=True):
            log_in(page, name)
        assert [rooms_of(page) for page in pages] == [
            ["garden"],
            ["garden", "kitchen"],
            ["kitchen"],
        ]
        say(ann, "the roses are out")
        wait_for_messages(bob, ["Ann: the roses are out"])
        say(bob, "so they are")
        for page in (ann, bob):
            wait_for_messages(page, ["Ann: the roses are out", "Bob: so they are"])
        bob.evaluate("at('rooms').value = 'kitchen'; at('rooms').onchange()")
        say(eve, "who took the spoons?")
        wait_for_messages(bob, ["Eve: who took the spoons?"])
        # It was committed after those of the garden, which have not come, then.
        wait_for_messages(eve, ["Eve: who took the spoons?"])
        assert messages_of(ann) == ["Ann: the roses are out", "Bob: so they are"]
        # By hand: neither reading nor writing goes past the policies.
        assert ann.evaluate("ask('/messages?room=kitchen')") == []
        said = ann.evaluate(
            "ask('/messages', {room: 'kitchen', body: 'I'}).catch((e) => e.message)"
        )
        assert said == "you are not in that room"
        for page in pages:
            assert [text for text in page.complaints if "403" not in text] == []


def log_in(page: Page, name: str) -> None:
    page.wait_for("document.readyState === 'complete' && window.supabase")
    page.evaluate(
        f"document.querySelector('#login input').value = '{name}';"
        "document.querySelector('#login button').click()"
    )
    page.wait_for("at('state').textContent === 'SUBSCRIBED'")


def rooms_of(page: Page) -> Any:
    return page.evaluate("[...at('rooms').options].map((option) => option.value)")


def say(page: Page, text: str) -> None:
    page.evaluate(
        f"document.querySelector('#write input').value = {json.dumps(text)};"
        "document.querySelector('#write button').click()"
    )


MESSAGES = "[...document.querySelectorAll('#messages li')].map((item) => item.textContent)"


def messages_of(page: Page) -> Any:
    return page.evaluate(MESSAGES)


def wait_for_messages(page: Page, expected: list[str]) -> None:
    page.wait_for(f"JSON.stringify({MESSAGES}) === JSON.stringify({json.dumps(expected)})")


def test_an_example_finds_the_demo_that_runs(tmp_path: Path) -> None:
    path = tmp_path / "demo.env"
    path.touch(mode=0o644)
    with running(DEMO_ENV_FILE=str(path)) as demo:
        assert path.stat().st_mode & 0o777 == 0o600
        with started("node-js", DEMO_ENV_FILE=str(path)) as example:
            example.wait_for("^joined realtime:public$")
            example.wait_for("^realtime:public: .* of ")
        with started("etl", str(tmp_path / "orders.sqlite"), DEMO_ENV_FILE=str(path)) as example:
            example.wait_for(r"^[0-9A-F]+/[0-9A-F]+.*: 1 changes$")
        demo.stop(signal.SIGTERM)
        assert demo.process.returncode == 0
    assert not path.exists()
    done = start("etl", DEMO_ENV_FILE=str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "start one with `make demo`, or set DATABASE_URL" in done.stderr


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EXAMPLES / "start", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_examples_are_listed() -> None:
    for arguments in ((), ("no-such-example",)):
        done = start(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"usage: examples/start NAME; NAME is one of: {' '.join(NAMES)}\n"
    index = (EXAMPLES / "README.md").read_text()
    for name in NAMES:
        assert f"examples/start {name}" in (EXAMPLES / name / "README.md").read_text()
        assert f"]({name}/README.md)" in index


def test_every_folder_has_a_test() -> None:
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name[0] != "."}
    tests = "\n".join(name for name in globals() if name.startswith("test_"))
    assert sorted(folders - {"node_modules"}) == NAMES
    for name in NAMES:
        assert f"test_{name.replace('-', '_')}" in tests


@pytest.mark.parametrize("name", ["cache", "chat", "etl", "search", "sse"])
def test_without_a_database_it_says_how_it_is_called(name: str) -> None:
    done = subprocess.run(
        [EXAMPLES / ".venv" / "bin" / "python", EXAMPLES / name / f"{name}.py"],
        env={key: value for key, value in os.environ.items() if key != "DATABASE_URL"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"usage: DATABASE_URL=.* python {name}\.py.*\n", done.stderr)


def test_they_pass_mypy_in_strict_mode() -> None:
    programs = sorted(map(str, EXAMPLES.glob("*/*.py")))
    assert len(programs) == 5
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary"),
            *("--python-executable", EXAMPLES / ".venv" / "bin" / "python"),
            *programs,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_pages_of_the_examples_may_connect_to_the_demo_and_no_others() -> None:
    with running() as demo:
        [port] = re.findall(r"^The demo is at http://127\.0\.0\.1:(\d+)/ ", demo.said)
        for origin in (
            f"http://127.0.0.1:{port}",
            f"http://localhost:{port}",
            "http://localhost:8000",
        ):
            with connect(demo.socket_url(), origin=origin):  # type: ignore[arg-type]
                pass
        with (
            pytest.raises(InvalidStatus),
            connect(demo.socket_url(), origin="http://localhost:8001"),  # type: ignore[arg-type]
        ):
            pass
        demo.stop(signal.SIGTERM)
