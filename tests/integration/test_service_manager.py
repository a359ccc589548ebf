"""What the server tells systemd, or another service manager, as that hears it: by datagrams."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fix_postgres import Server, unique_name
from tests.integration.conftest import fresh_database
from tests.proxy_process import free_port
from tests.server_process import ServerProcess
from tests.waiting import eventually_sync

pytestmark = pytest.mark.integration

NOWHERE = "host=127.0.0.1 port=1 dbname=none user=nobody"


class Manager:
    """A service manager's socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.heard: list[str] = []

    def hears(self, line: str) -> bool:
        return self.count(line) > 0

    def count(self, line: str) -> int:
        """Read what has come; return how many lines are this one."""
        while True:
            try:
                self.heard += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self.heard.count(line)


@pytest.fixture(params=["a file", "an abstract name"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "a file" else f"@{unique_name('notify')}"


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address.replace("@", "\0"))
        sock.setblocking(False)
        yield Manager(sock)


def test_the_service_is_ready_when_it_is_attached_and_says_what_it_does(
    one_pg: Server, manager: Manager, address: str
) -> None:
    with fresh_database(one_pg) as database:
        with ServerProcess(
            database.dsn,
            PUBLICATIONS='["shop"]',
            DB_RECONNECT_BACKOFF_MAX="200",
            NOTIFY_SOCKET=address,
        ) as server:
            server.wait_for_log(re.compile("trying again in"))
            missing = "STATUS=Not ready: the database's changes are not being read"
            eventually_sync(lambda: manager.hears(missing))
            assert not manager.hears("READY=1")
            database.execute("create publication shop for all tables")
            eventually_sync(lambda: manager.hears("READY=1"))
            eventually_sync(lambda: manager.hears("STATUS=Changes are being read"))
            assert server.stop() == 0
        assert manager.count("READY=1") == 1
        assert manager.hears("STOPPING=1")
        assert not manager.hears("WATCHDOG=1")


def test_several_workers_are_ready_when_they_accept_connections(
    one_pg: Server, manager: Manager, address: str
) -> None:
    port = free_port()
    with fresh_database(one_pg) as database:
        database.execute("create publication shop for all tables")
        settings = {"WORKERS": "2", "PUBLICATIONS": '["shop"]', "NOTIFY_SOCKET": address}
        server = ServerProcess(database.dsn, patience=90, PORT=str(port), **settings)
        with ThreadPoolExecutor(1) as starting:
            entered = starting.submit(server.__enter__)
            try:
                # The database is attached to long before the workers have started.
                eventually_sync(lambda: manager.hears("READY=1"), within=90)
                socket.create_connection(("127.0.0.1", port)).close()
            finally:
                entered.result()
                server.__exit__(None, None, None)


def test_the_watchdog_hears_from_it_until_it_stands_still(manager: Manager, address: str) -> None:
    with ServerProcess(NOWHERE, NOTIFY_SOCKET=address, WATCHDOG_USEC="100000") as server:
        eventually_sync(lambda: manager.count("WATCHDOG=1") >= 3)
        server.process.send_signal(signal.SIGSTOP)
        eventually_sync(lambda: is_stopped(server.process.pid))
        before = manager.count("WATCHDOG=1")
        server.process.send_signal(signal.SIGCONT)
        eventually_sync(lambda: manager.count("WATCHDOG=1") > before)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("address", ["/nowhere/notify"])
def test_a_socket_that_is_not_there_is_said_once_and_stops_nothing(address: str) -> None:
    with ServerProcess(NOWHERE, NOTIFY_SOCKET=address, WATCHDOG_USEC="4000") as server:
        server.wait_for_log(re.compile(r"nothing can be sent to NOTIFY_SOCKET \(.*No such file"))
        assert server.stop() == 0
    assert sum("NOTIFY_SOCKET" in line for line in server.log) == 1
