"""The clients of today, unmodified, broadcast to each other, and by HTTP.

npm's @supabase/realtime-js 2.119 in both versions of the protocol, the client that supabase-js
makes, npm's phoenix 1.8, and PyPI's realtime 2.34. The server needs no database for it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.e2e.program import NodeProgram, Program
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database
from tests.tokens import SECRET, make_token

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

NOWHERE = cast(Database, SimpleNamespace(dsn="host=127.0.0.1 port=1 dbname=none user=nobody"))
OPTIONS: dict[str, dict[str, Any]] = {
    "js": {},
    "js-vsn1": {"vsn": "1.0.0"},
    "supabase-js": {"supabase": True},
    "phoenix": {},
    "py": {},
}
READ_BYTES = ("js", "supabase-js")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(NOWHERE, publications='["changes"]', streaming=False) as server:
        yield server


class Room:
    """All clients, in one room."""

    def __init__(self, programs: dict[str, Program]) -> None:
        self.programs = programs

    def heard(self, client: str) -> list[Any]:
        """What a client's callbacks got."""
        return [line["broadcast"] for line in [*self.programs[client].said] if "broadcast" in line]

    def events(self, client: str) -> list[str]:
        return [message["event"] for message in self.heard(client)]

    def fence(self, sender: str, *but: str) -> None:
        """Wait until all have got all that was sent before this."""
        self.fences = getattr(self, "fences", 0) + 1
        event = f"fence {self.fences}"
        self.programs[sender].tell(send="room", event=event, payload={})
        for name, program in self.programs.items():
            if name not in (sender, *but):
                program.wait_until(lambda name=name: event in self.events(name))  # type: ignore[misc]


@contextlib.contextmanager
def clients_in_a_room(
    server: ServerProcess,
    clients: Path,
    python_client: Path,
    *,
    apikey: str = "anon",
    others: Sequence[ServerProcess] = (),
    **broadcast: bool,
) -> Iterator[Room]:
    """Have each client in the room, at one of the servers in turn."""
    urls = cycle(each.websocket_url for each in (server, *others))
    with contextlib.ExitStack() as stack:
        programs = {}
        for (name, options), url in zip(OPTIONS.items(), urls, strict=False):
            said = json.dumps({**options, "apikey": apikey})
            if name == "py":
                command = str(clients / "realtime_py.py"), url, said
                program = Program(str(python_client), *command)
            else:
                file = "phoenix_1.mjs" if name == "phoenix" else "realtime_js_2.mjs"
                program = NodeProgram(clients / file, url, said)
            programs[name] = stack.enter_context(program)
        for name, program in programs.items():
            config = {"broadcast": {**broadcast, **({"bytes": False} if name == "phoenix" else {})}}
            program.tell(subscribe="room", bindings=[], config=config)
        for program in programs.values():
            program.wait_for(channel="room", status="SUBSCRIBED")
        yield Room(programs)
        for program in programs.values():
            # There was nothing that it could not read.
            assert not any("log" in line for line in program.said)
            assert program.count(status="CHANNEL_ERROR") == program.count(status="CLOSED") == 0


PAYLOAD = {"text": "hé 😀 \ud800", "n": 1.5, "deep": [[{"ids": 1}]], "none": None}


def test_all_hear_each_other(server: ServerProcess, clients: Path, python_client: Path) -> None:
    with clients_in_a_room(server, clients, python_client, ack=True, self=False) as room:
        payload = {**PAYLOAD, "text": "hé 😀"}
        for name, program in room.programs.items():
            program.tell(send="room", event=name, payload=payload)
            program.wait_for(channel="room", sent="ok")
            room.fence(name)
        for name in room.programs:
            said = [message for message in room.heard(name) if "fence" not in message["event"]]
            assert [message["event"] for message in said] == [
                each for each in OPTIONS if each != name
            ]
            assert all(message["payload"] == payload for message in said)
            # Only these members go on.
            assert all(message.get("more", ["type"]) == ["type"] for message in said)

        # Bytes, from those who can send them to those who can read them.
        for name in (*READ_BYTES, "phoenix"):
            room.programs[name].tell(send="room", event="bin", bytes=[0, 1, 255])
            room.fence(name)
        shown = {"event": "bin", "bytes": [0, 1, 255], "more": ["type"]}
        for name in room.programs:
            senders = [each for each in READ_BYTES if each != name] if name in READ_BYTES else []
            assert [each for each in room.heard(name) if each["event"] == "bin"] == [shown] * len(
                senders
            )
        # The protocol's own client cannot send them so, and is told.
        (refused,) = (line for line in room.programs["phoenix"].said if line.get("sent") == "error")
        assert "binary push of kind 0" in refused["reason"]

        # By HTTP, to all.
        for name in ("js", "supabase-js", "py"):
            program = room.programs[name]
            program.tell(http="room", event=f"http {name}/é", payload={"by": name})
            program.wait_for(channel="room", http="ok")
            program.tell(http="room", event="bytes", bytes=[7])
            program.wait_for(channel="room", http="ok", times=2)
        room.fence("js")
        room.fence("py")
        for name in room.programs:
            events = [each for each in room.events(name) if "http" in each]
            assert events == [f"http {each}/é" for each in ("js", "supabase-js", "py")]
            read = [each for each in room.heard(name) if each["event"] == "bytes"]
            assert [each["bytes"] for each in read] == [[7]] * (3 if name in READ_BYTES else 0)

        # What JavaScript's client sends before it has joined goes by HTTP.
        listener = room.programs["phoenix"]
        listener.tell(subscribe="lobby", bindings=[], config={"broadcast": {"bytes": False}})
        listener.wait_for(channel="lobby", status="SUBSCRIBED")
        early = "js", "js-vsn1", "supabase-js"
        for name in early:
            room.programs[name].tell(send="lobby", event=f"early {name}", payload={"x": 1})
            room.programs[name].wait_for(channel="lobby", sent="ok")
        listener.wait_until(lambda: f"early {early[-1]}" in room.events("phoenix"))
        assert room.events("phoenix")[-len(early) :] == [f"early {name}" for name in early]


def test_who_asked_for_it_hears_itself(
    server: ServerProcess, clients: Path, python_client: Path
) -> None:
    with clients_in_a_room(server, clients, python_client, ack=False, self=True) as room:
        for name, program in room.programs.items():
            program.tell(send="room", event=name, payload={})
            for each in room.programs:
                room.programs[each].wait_until(
                    lambda each=each, name=name: name in room.events(each)
                )  # type: ignore[misc]
        for name in room.programs:
            assert room.events(name) == [*OPTIONS]


def test_a_sender_is_told_why_nobody_gets_it(
    server: ServerProcess, clients: Path, python_client: Path
) -> None:
    with clients_in_a_room(server, clients, python_client, ack=True, self=False) as room:
        for name in ("js", "js-vsn1", "supabase-js", "phoenix"):
            program = room.programs[name]
            program.tell(send="room", event="large", payload={"x": "x" * 300_000})
            program.wait_for(channel="room", sent="error")
        for name in ("js", "supabase-js", "py"):
            program = room.programs[name]
            for size, why in ((300_000, "MAX_PAYLOAD_BYTES"), (1_100_000, "MAX_FRAME_BYTES")):
                program.tell(http="room", event="large", payload={"x": "x" * size})
                program.wait_until(
                    lambda program=program, why=why: why in said_of_requests(program)
                )  # type: ignore[misc]
        room.fence("js")
        room.fence("py")
        assert not any("large" in room.events(name) for name in room.programs)


def said_of_requests(program: Program) -> str:
    return " ".join(line.get("http", "") for line in [*program.said])


def test_only_tokens_open_a_room(clients: Path, python_client: Path) -> None:
    good = make_token({"role": "authenticated"})
    with ServerProcess(
        NOWHERE,
        publications='["changes"]',
        streaming=False,
        SECURE_CHANNELS="true",
        JWT_SECRET=SECRET,
    ) as server:
        with clients_in_a_room(server, clients, python_client, apikey=good, ack=True) as room:
            for name in ("js", "supabase-js", "py"):
                room.programs[name].tell(http="room", event=name, payload={})
                room.programs[name].wait_for(channel="room", http="ok")
            room.fence("phoenix")
            assert [each for each in room.events("js") if "fence" not in each] == [
                *("js", "supabase-js", "py"),
            ]
        url = server.websocket_url
        stranger = json.dumps({"apikey": make_token(secret="x" * 32)})
        js = NodeProgram(clients / "realtime_js_2.mjs", url, stranger)
        py = Program(str(python_client), str(clients / "realtime_py.py"), url, stranger)
        with js, py:
            for program in (js, py):
                program.tell(http="room", event="m", payload={})
                program.wait_until(
                    lambda program=program: any("http" in line for line in program.said)
                )  # type: ignore[misc]
                (line,) = (line for line in program.said if "http" in line)
                assert "Unauthorized" in line["http"]
        assert good not in "".join(server.log)


def test_each_status_that_a_server_without_a_database_has(
    clients: Path, python_client: Path
) -> None:
    refusing = {"publications": '["changes"]', "streaming": False}
    by_http = ("js", "supabase-js", "py")
    with (
        ServerProcess(NOWHERE, MAX_DELIVERIES_PER_SECOND="1", **refusing) as busy,
        ServerProcess(NOWHERE, BROADCAST="false", **refusing) as off,
    ):
        with clients_in_a_room(busy, clients, python_client, ack=True) as room:
            for name, program in room.programs.items():
                for _ in range(4):
                    program.tell(send="room", event="m", payload={})
                if name != "py":
                    program.wait_for(refused="rate_limited")
            # Without an event it is no broadcast; JavaScript's binary frame has always one.
            for name in ("js-vsn1", "phoenix"):
                room.programs[name].tell(send="room", payload={})
                room.programs[name].wait_for(refused="invalid_payload")
            for name in by_http:
                program = room.programs[name]
                for _ in range(4):
                    program.tell(http="room", event="m", payload={})
                program.wait_for(http="You have exceeded your rate limit")
                # There are no private channels.
                config = {"private": True}
                program.tell(http="other", event="m", payload={}, config=config)
                program.wait_for(channel="other", http="Unauthorized")
        with clients_in_a_room(off, clients, python_client, ack=True) as room:
            for name, program in room.programs.items():
                program.tell(send="room", event="m", payload={})
                program.tell(track="room", payload={})
                if name != "py":
                    program.wait_for(channel="room", sent="error", times=1)
                    program.wait_for(refused="broadcast_disabled")
                    program.wait_for(channel="room", tracked="error")
            for name in by_http:
                program = room.programs[name]
                program.tell(http="room", event="m", payload={})
                program.wait_for(http="This server has no broadcast: BROADCAST is false")
            assert all(room.heard(name) == [] for name in room.programs)
