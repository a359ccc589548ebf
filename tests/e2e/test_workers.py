"""The clients of today, unmodified, on a server with several workers, in both modes."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from tests.e2e import test_todays_clients as stream
from tests.e2e import test_todays_clients_rls as rls
from tests.e2e.program import Program
from tests.e2e.rls_shop import rls_server
from tests.e2e.server_process import ServerProcess
from tests.e2e.test_todays_clients import Start, changes
from tests.e2e.test_todays_clients import start as start
from tests.e2e.test_todays_clients_rls import notes as notes
from tests.e2e.test_todays_clients_rls import token as token
from tests.fix_postgres import Database, Server, unique_name
from tests.server_process import worker_pids
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.pg17]

BINDING = {"event": "INSERT", "schema": "public", "table": "users"}


@pytest.fixture(scope="module")
def pg(pg17: Server) -> Server:
    """One server: what clients see does not depend on its version."""
    return pg17


@pytest.fixture
def server(shop: Database) -> Iterator[ServerProcess]:
    with ServerProcess(shop, publications='["changes"]', **settings()) as server:
        yield server


def settings() -> dict[str, str]:
    # Replay needs a slot and a secret here.
    return {"WORKERS": "2", "SLOT_NAME": unique_name("slot"), "REPLAY_SECRET": "s" * 32}


@pytest.mark.parametrize("client", ["js", "py"])
def test_each_binding_gets_its_events(
    start: Start, shop: Database, server: ServerProcess, client: str
) -> None:
    stream.test_each_binding_gets_its_events_with_the_right_types(start, shop, server, client)


def test_in_rls_mode_each_client_gets_the_rows_of_its_tokens_owner(
    start: Start, notes: Database, token: rls.Token
) -> None:
    with rls_server(notes, **settings()) as server:
        rls.test_each_client_gets_the_rows_of_its_tokens_owner(start, notes, server, token)


def test_clients_of_a_killed_worker_come_back_and_get_what_they_missed(
    start: Start, shop: Database
) -> None:
    with (
        ServerProcess(shop, publications='["changes"]', **settings()) as server,
        contextlib.ExitStack() as stack,
    ):
        server.wait_for_log("made slot .*_replay")
        # Each has a session of its own by its address, and its join's ref.
        programs = [
            stack.enter_context(start(name, server.websocket_url, session=f"{number}-{'x' * 20}"))
            for number, name in enumerate(["js", "js-vsn1"] * 3)
        ]
        for program in programs:
            program.tell(subscribe="room", bindings=[BINDING])
            program.wait_for(channel="room", status="SUBSCRIBED")
        shop.execute("insert into users values (1, 'all are here')")
        for program in programs:
            program.wait_until(lambda program=program: len(changes(program)) >= 1)  # type: ignore[misc]
        workers = worker_pids(server.pid)
        os.kill(workers[0], signal.SIGKILL)
        shop.execute("insert into users values (2, 'one is killed')")
        eventually_sync(lambda: len({*worker_pids(server.pid)} - {*workers}) == 1)
        os.kill(workers[1], signal.SIGKILL)
        shop.execute("insert into users values (3, 'so is the other')")
        for program in programs:
            wait_for_rows(program, [1, 2, 3])


def wait_for_rows(program: Program, expected: list[int]) -> None:
    """Wait until a client has all of these rows, in this order but for repeated ones."""

    def has_all() -> bool:
        seen = [new["id"] for _, _, _, new, _ in changes(program)]
        return list(dict.fromkeys(seen)) == expected

    program.wait_until(has_all)
