"""The original README's secure example, with npm's @supabase/realtime-js 1.7.5 under Node."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.program import NodeProgram
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.tokens import SECRET, make_token

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

USERS = "realtime:public:users"
REFUSED = f"error occurred when joining {USERS}"


@pytest.fixture
def database(one_pg: Server) -> Iterator[Database]:
    """On one version: tokens are none of PostgreSQL's business."""
    with fresh_database(one_pg) as database:
        yield database


@pytest.fixture
def server(shop: Database) -> Iterator[ServerProcess]:
    """A server with secure channels."""
    with ServerProcess(
        shop, publications='["changes"]', SECURE_CHANNELS="true", JWT_SECRET=SECRET
    ) as server:
        yield server


def client(clients: Path, server: ServerProcess, *, apikey: str | None) -> NodeProgram:
    """A client with a quick heartbeat, which in this version sends its token again, too."""
    params = {} if apikey is None else {"params": {"apikey": apikey}}
    options = json.dumps({"heartbeatIntervalMs": 300, **params})
    return NodeProgram(clients / "lifecycle.mjs", server.websocket_url, options)


def insert(shop: Database, number: int) -> None:
    shop.execute(f"insert into users values ({number}, 'somebody')")


def test_the_readmes_example_gets_changes_also_after_its_token_was_refreshed(
    clients: Path, shop: Database, server: ServerProcess
) -> None:
    first, expires = make_token(expires_in=8), time.time() + 8
    with client(clients, server, apikey=first) as program:
        program.tell(join=USERS, user_token=first)
        program.wait_for(joined=USERS)
        program.tell(setAuth=first)
        insert(shop, 1)
        program.wait_for(topic=USERS, id="1")
        program.tell(setAuth=make_token())
        program.wait_until(lambda: time.time() > expires)
        beats = program.count(heartbeat="ok")
        program.wait_for(heartbeat="ok", times=beats + 2)
        insert(shop, 2)
        program.wait_for(topic=USERS, id="2")
        assert program.count(frame="phx_error") == 0
        assert program.count(joined=USERS) == 1
        assert program.count(socket="open") == 1


def test_an_expired_token_ends_the_channel(
    clients: Path, shop: Database, server: ServerProcess
) -> None:
    with client(clients, server, apikey=make_token()) as program:
        program.tell(join=USERS, user_token=make_token(expires_in=6))
        program.wait_for(joined=USERS)
        insert(shop, 1)
        program.wait_for(topic=USERS, id="1")
        program.wait_for(frame="phx_error", topic=USERS)
        # It tries again by itself, with the same token and so in vain; then this client
        # gives up, and it is for the application to join anew.
        program.wait_for(refused=USERS, reason=REFUSED)
        insert(shop, 2)
        program.tell(leave=USERS)
        program.wait_for(left=USERS)
        program.tell(join=USERS, user_token=make_token())
        program.wait_for(joined=USERS, times=2)
        insert(shop, 3)
        program.wait_for(topic=USERS, id="3")
        ids = [line["id"] for line in program.said if line.get("topic") == USERS and "id" in line]
        assert ids == ["1", "3"]
        assert program.count(socket="open") == 1


def test_a_client_that_was_given_no_token_to_refresh_stays(
    clients: Path, shop: Database, server: ServerProcess
) -> None:
    with client(clients, server, apikey=make_token()) as program:
        program.tell(join=USERS)
        program.wait_for(joined=USERS)
        # With each of them comes an access_token of null.
        beats = program.count(heartbeat="ok")
        program.wait_for(heartbeat="ok", times=beats + 4)
        insert(shop, 1)
        program.wait_for(topic=USERS, id="1")
        assert program.count(frame="phx_error") == 0


def test_without_a_good_apikey_the_socket_does_not_open(
    clients: Path, server: ServerProcess
) -> None:
    keys = [None, "nonsense", make_token(secret="another secret")]
    with contextlib.ExitStack() as stack:
        programs = [stack.enter_context(client(clients, server, apikey=apikey)) for apikey in keys]
        for program in programs:
            program.tell(join=USERS, user_token=make_token())
        for program in programs:
            # It tries again, in vain.
            program.wait_for(socket="closed", times=2)
            assert program.count(socket="open") == 0
