"""The demo as a newcomer runs it: a process, its words, its exit code."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import psycopg
import pytest
from websockets.sync.client import connect

from tests.fix_postgres import Database
from tests.waiting import eventually_sync

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "realtime_server.demo"]


def environment(**settings: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PORT", "DEMO_DSN", "EXAMPLES_PORT")
    }
    return {**kept, **settings}


def free_port() -> int:
    """Return a port that is free, as is the one after it, which the demo takes as well.

    It is below those that the kernel gives to connections, of which there are many while tests
    run beside each other.
    """
    while True:
        port = 10_000 + 2 * secrets.randbelow(10_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for wanted in (port, port + 1):
                stack.enter_context(socket.create_server(("127.0.0.1", wanted)))
            return port


def run_to_its_end(**settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        COMMAND, env=environment(**settings), capture_output=True, text=True, timeout=60
    )


class Demo:
    """A running demo and what it said when it was up."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.said = ""
        while "Change something yourself" not in self.said or not self.said.endswith("')\"\n"):
            line = process.stdout.readline()
            assert line, f"the demo ended: {self.said}"
            self.said += line

    def family(self) -> list[psutil.Process]:
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def snippet(self, heading: str) -> str:
        """Return the indented lines below a heading."""
        found = re.search(rf"^{heading}.*:\n\n((?:    .*\n|\n(?=    ))+)", self.said, re.MULTILINE)
        assert found, self.said
        return textwrap.dedent(found[1])

    def socket_url(self) -> str:
        [url] = set(re.findall(r'ws://[^\s"]+/socket', self.said))
        return f"{url}/websocket"

    def views_url(self) -> str:
        """Return the address of the page with two people's views."""
        [url] = re.findall(r"^    (http://127\.0\.0\.1:\d+/#view=\S+)$", self.said, re.MULTILINE)
        assert isinstance(url, str)
        return url

    def stop(self, signum: int) -> None:
        """Stop it, which is done soon."""
        self.process.send_signal(signum)
        self.process.wait(30)


@contextlib.contextmanager
def running(**settings: str) -> Iterator[Demo]:
    with subprocess.Popen(
        COMMAND,
        env=environment(PORT=str(free_port()), **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield Demo(process)
        finally:
            process.terminate()  # not kill: it has a folder to remove


def first_change(demo: Demo) -> str:
    """Return the first change of the table users."""
    with connect(demo.socket_url()) as client:
        client.send('{"topic":"realtime:public:users","event":"phx_join","payload":{},"ref":"1"}')
        return next(str(frame) for frame in client if "commit_timestamp" in str(frame))


def terminate_others(database: Database) -> bool:
    database.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )
    return True


def test_a_busy_port_is_one_line_and_nothing_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_to_its_end(PORT=str(port))
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.fullmatch(
        rf"demo: port {port} on 127\.0\.0\.1 is not free: in use, perhaps by another demo; "
        r"choose another one: PORT=\d+ make demo\n",
        result.stderr,
    )


def test_a_port_that_is_none_is_one_line() -> None:
    result = run_to_its_end(PORT="http")
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"demo: .*PORT.*\n", result.stderr)


def test_a_database_that_is_not_there_is_said() -> None:
    result = run_to_its_end(
        PORT=str(free_port()), DEMO_DSN=f"postgresql://postgres@127.0.0.1:{free_port()}/shop"
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"demo: the database: connection failed: .*\n", result.stderr)


@pytest.mark.integration
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_of_it_though_a_client_is_connected(signum: int) -> None:
    with running() as demo:
        family = demo.family()
        assert any(process.name() == "postgres" for process in family)
        found = re.search(r"--unix_socket_directories=(\S+)", " ".join(family[1].cmdline()))
        assert found
        folder = Path(found[1])
        assert folder.exists()
        with connect(demo.socket_url()) as client:
            client.send('{"topic":"realtime:*","event":"phx_join","payload":{},"ref":"1"}')
            assert '"status":"ok"' in client.recv()
            demo.stop(signum)
        assert demo.process.returncode == 0
        assert not [process for process in family if process.is_running()]
        assert not folder.exists()


@pytest.mark.integration
def test_a_signal_while_it_starts_stops_it_too() -> None:
    with subprocess.Popen(COMMAND, env=environment(PORT=str(free_port()))) as process:
        parent = psutil.Process(process.pid)
        eventually_sync(parent.children)
        family = parent.children(recursive=True)
        process.terminate()
        assert process.wait(30) == 0
    assert not [child for child in family if child.is_running()]


@pytest.mark.integration
def test_a_second_demo_on_the_port_is_refused() -> None:
    with running() as demo:
        [port] = re.findall(r"^The demo is at http://127\.0\.0\.1:(\d+)/ ", demo.said)
        result = run_to_its_end(PORT=port)
        assert result.returncode == 2
        assert "perhaps by another demo" in result.stderr
        demo.stop(signal.SIGTERM)


@pytest.mark.integration
def test_the_page_and_the_psql_line_that_are_printed_work() -> None:
    with running() as demo:
        psql = demo.snippet("Change something yourself")
        output = subprocess.check_output(psql, shell=True, text=True, timeout=30)
        assert output == "INSERT 0 1\n"
        # The line has the database's password, without which nobody is let in.
        [(user, password)] = set(re.findall(r"postgresql://(\w+):([^@]+)@", psql))
        without = psql.replace(f"{user}:{password}@", f"{user}@")
        no_password = {**os.environ, "PGPASSFILE": os.devnull}
        no_password.pop("PGPASSWORD", None)
        refused = subprocess.run(
            without.replace("psql ", "psql -w ", 1),
            shell=True,
            text=True,
            capture_output=True,
            timeout=30,
            env=no_password,
        )
        assert refused.returncode == 2
        assert "password" in refused.stderr
        [page] = re.findall(r"^The demo is at (http://127\.0\.0\.1:\d+/) ", demo.said)
        with urlopen(page, timeout=30) as answer:
            assert b"<title>Realtime inspector</title>" in answer.read()
        demo.stop(signal.SIGTERM)


@pytest.mark.integration
def test_demo_dsn_uses_that_database(database: Database) -> None:
    with running(DEMO_DSN=database.dsn) as demo:
        assert not any(process.name() == "postgres" for process in demo.family())
        assert 'psql "$DEMO_DSN"' in demo.said
        assert "users" in first_change(demo)
        demo.stop(signal.SIGTERM)
        assert demo.process.returncode == 0
    [(rows,)] = database.execute("select count(*) from users")
    assert rows > 0


@pytest.mark.integration
def test_losing_the_database_is_one_line(database: Database) -> None:
    with running(DEMO_DSN=database.dsn) as demo:
        # Not only once: the writer may connect after the demo has said its words.
        eventually_sync(lambda: terminate_others(database) and demo.process.poll() is not None)
        assert demo.process.returncode == 1
        assert demo.process.stdout is not None
        said = demo.process.stdout.read()
    # The server logs its own loss before that, and libpq's words depend on the moment.
    assert said.splitlines()[-1].startswith("demo: the database: ")
    assert "Traceback" not in said


@pytest.mark.integration
def test_somebody_elses_table_is_left_alone(database: Database) -> None:
    database.execute("create table orders (id int)")
    result = run_to_its_end(PORT=str(free_port()), DEMO_DSN=database.dsn)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"demo: table public\.orders is not the demo's.*\n", result.stderr)
    with pytest.raises(psycopg.errors.UndefinedTable):
        database.execute("select from todos")
