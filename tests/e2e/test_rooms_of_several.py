"""The clients of today, unmodified, in rooms that span two machines, of which one has two workers.

They share a NATS. Their servers need no database for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.e2e.program import Program
from tests.e2e.server_process import ServerProcess
from tests.e2e.test_presence import LIMITS, agree, crowds_in
from tests.e2e.test_rooms import NOWHERE, OPTIONS, READ_BYTES, clients_in_a_room
from tests.nats_server import LATEST, NatsServer
from tests.waiting import eventually_sync

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.integration,
    pytest.mark.parametrize("nats", [LATEST], indirect=True, ids=["latest"]),
]


@pytest.fixture(scope="module")
def servers(nats: NatsServer) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    shared = {"NATS_URL": nats.url, "SLOT_NAME": "e2e_rooms", "CLUSTER_ROLE": "server", **LIMITS}
    with (
        ServerProcess(
            NOWHERE, publications='["changes"]', streaming=False, WORKERS="2", **shared
        ) as two_workers,
        ServerProcess(NOWHERE, publications='["changes"]', streaming=False, **shared) as alone,
    ):
        for server in (two_workers, alone):
            server.wait_for_log("broadcasts reach members at all servers")
        yield two_workers, alone


def test_all_hear_each_other(
    servers: tuple[ServerProcess, ServerProcess], clients: Path, python_client: Path
) -> None:
    first, second = servers
    with clients_in_a_room(first, clients, python_client, others=[second], ack=True) as room:
        # All are known everywhere once they have heard each other.
        for name in OPTIONS:
            room.fence(name)
        for name, program in room.programs.items():
            program.tell(send="room", event=name, payload={"text": "hé 😀", "by": name})
            program.wait_for(channel="room", sent="ok")
            room.fence(name)
        for name in ("js", "supabase-js", "py"):
            # Each at the server that it is connected to, for all.
            program = room.programs[name]
            program.tell(http="room", event=f"http {name}/é", payload={"by": name})
            program.wait_for(channel="room", http="ok")
            program.tell(http="room", event="bytes", bytes=[7])
            program.wait_for(channel="room", http="ok", times=2)
            room.fence(name)
        expected = [*OPTIONS, *(f"http {each}/é" for each in ("js", "supabase-js", "py"))]
        for name in room.programs:
            said = [each for each in room.heard(name) if "fence" not in each["event"]]
            texts = [each["event"] for each in said if each["event"] != "bytes"]
            assert texts == [each for each in expected if each != name]
            read = [each["bytes"] for each in said if each["event"] == "bytes"]
            assert read == [[7]] * (3 if name in READ_BYTES else 0)


def test_all_see_each_other(
    servers: tuple[ServerProcess, ServerProcess], clients: Path, python_client: Path
) -> None:
    first, second = servers
    with (
        crowds_in("room", {"a": {"each": 2}}, first, clients, python_client) as [here],
        crowds_in("room", {"b": {"each": 2}}, second, clients, python_client) as [there],
    ):
        here.track({"n": 1})
        there.track({"n": 1})
        agree(here, there)
        here.track({"n": 2}, here.keys[:5])
        there.untrack(there.keys[:3])
        there.leave(there.keys[-2:])
        agree(here, there)


def test_a_sender_is_told_that_members_elsewhere_do_not_get_it(
    servers: tuple[ServerProcess, ServerProcess],
    nats: NatsServer,
    clients: Path,
    python_client: Path,
) -> None:
    def times_reached() -> list[int]:
        said = "broadcasts reach members at all servers"
        return [sum(said in line for line in [*server.log]) for server in servers]

    before = times_reached()
    with clients_in_a_room(servers[1], clients, python_client, ack=True) as room, nats.down():
        for name, program in room.programs.items():
            refuse(name, program)
        # Those at this server have got it.
        for name in room.programs:
            others = {f"by {each}" for each in room.programs if each != name}
            room.programs[name].wait_until(
                lambda name=name, others=others: others <= {*room.events(name)}
            )  # type: ignore[misc]
    # Whoever comes next finds them together again.
    eventually_sync(lambda: times_reached() == [times + 1 for times in before], within=60)


def refuse(name: str, program: Program) -> None:
    """Have a client send until it is told that others are out of reach."""
    for times in count(1):
        program.tell(send="room", event=f"by {name}", payload={})
        if name == "py":
            # It does not tell the application of an answer.
            return
        program.wait_until(
            lambda times=times: program.count(sent="ok") + program.count(sent="error") == times
        )  # type: ignore[misc]
        if program.count(sent="error"):
            program.wait_for(refused="other_servers_unavailable")
            return
