"""Mixed traffic for as long as is asked for, in one room of all of today's clients, unmodified.

    SOAK_SECONDS=3600 python -m pytest tests/e2e/test_soak.py

They broadcast JSON and bytes, by WebSocket and by HTTP, track and untrack, and a stranger pushes
whatever the fuzzer of the protocol makes up. Nobody may miss anything, or meet what it cannot read.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.e2e.program import Program
from tests.e2e.server_process import ServerProcess
from tests.e2e.test_presence import LIMITS, Crowd, agree, crowds_in
from tests.e2e.test_rooms import NOWHERE, READ_BYTES, Room, clients_in_a_room
from tests.fuzz.fuzz_phoenix import any_frame

SECONDS = float(os.environ.get("SOAK_SECONDS", "1"))

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.integration,
    # Besides the time that a test has.
    pytest.mark.timeout(SECONDS + 300),
]

PUSHES = 100
"""Messages of a round, after which all that was sent has to be there."""
PAYLOADS: list[dict[str, Any]] = [
    {},
    {"ids": 1},
    {"data": None, "errors": []},
    {"__proto__": {"x": 1}, "constructor": 7},
    {"text": "hé 😀 \u2028 \x00", "n": 1.5},
    {"deep": json.loads("[" * 80 + "]" * 80)},
    {"long": "x" * 20_000},
]


class Stranger:
    """Pushes into the room what no client would, and comes back whenever it is thrown out."""

    def __init__(self, server: ServerProcess, random: Random) -> None:
        self._url = f"{server.websocket_url}/websocket?vsn=2.0.0"
        self._random = random
        self._socket: ClientConnection | None = None
        self._open = contextlib.ExitStack()
        self.sent = 0

    def push(self) -> None:
        try:
            if self._socket is None:
                opened = connect(self._url, compression=None, close_timeout=0)
                self._socket = self._open.enter_context(opened)
                config = {"config": {"broadcast": {"ack": True}, "presence": {"key": "stranger"}}}
                self._socket.send(json.dumps(["1", "1", "realtime:room", "phx_join", config]))
            self._socket.send(any_frame(self._random, "2.0.0"))
            self.sent += 1
            with contextlib.suppress(TimeoutError):
                while True:
                    self._socket.recv(timeout=0)
        except ConnectionClosed:
            self.close()

    def close(self) -> None:
        self._open.close()
        self._socket = None


def is_wrong(line: dict[str, Any]) -> bool:
    """Return whether a client said what it should not have to say."""
    if "log" in line:
        # Python's client shows payloads that are objects, and says of others that it does not.
        return '"event":"broadcast"' not in line["log"]
    return line.get("status", "SUBSCRIBED") != "SUBSCRIBED" or bool(
        {"track", "untrack"} & line.keys()
    )


class Traffic:
    """What is sent, and what each client got of it."""

    def __init__(self, room: Room, crowd: Crowd, random: Random) -> None:
        self._room = room
        self._crowd = crowd
        self._random = random
        self._numbers = itertools.count()
        self.heard = 0

    def round(self, stranger: Stranger) -> None:
        """Send, and wait until all has been heard by all."""
        sent: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        for _ in range(PUSHES):
            self._send(sent)
            stranger.push()
        some = self._random.sample(self._crowd.keys, 3)
        self._crowd.track({"n": next(self._numbers), "metas": [{}]}, some)
        tracked = [*self._crowd.tracked]
        self._crowd.untrack(self._random.sample(tracked, min(1, len(tracked))))
        for name in self._room.programs:
            self._room.fence(name)
        for name, program in self._room.programs.items():
            self._check(name, program, sent)

    def _send(self, sent: dict[str, list[tuple[str, Any]]]) -> None:
        by = self._random.choice([*self._room.programs])
        program, event = self._room.programs[by], f"m {next(self._numbers)} {by}"
        how = self._random.random()
        if by in READ_BYTES and how < 0.2:
            program.tell(send="room", event=event, bytes=[0, 255])
            sent[by].append((event, [0, 255]))
            return
        payload = self._random.choice(PAYLOADS)
        if by != "phoenix" and how > 0.9:
            # The socket and requests have no order between them.
            answers = sum("http" in line for line in [*program.said])
            program.tell(http="room", event=event, payload=payload)
            program.wait_until(lambda: sum("http" in line for line in [*program.said]) > answers)
            sent["http"].append((event, payload))
        else:
            program.tell(send="room", event=event, payload=payload)
            sent[by].append((event, payload))

    def _check(self, name: str, program: Program, sent: dict[str, list[tuple[str, Any]]]) -> None:
        lines = [*program.said]
        del program.said[: len(lines)]
        assert [line for line in lines if is_wrong(line)] == [], name
        got: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        by = {event: sender for sender, messages in sent.items() for event, _ in messages}
        for line in lines:
            message = line.get("broadcast", {})
            if (event := message.get("event")) in by:
                got[by[event]].append((event, message.get("payload", message.get("bytes"))))
        for sender, messages in sent.items():
            expected = [
                (event, payload)
                for event, payload in messages
                if sender != name and (name in READ_BYTES or not isinstance(payload, list))
            ]
            assert got[sender] == expected, (name, sender)
            self.heard += len(expected)


def test_all_live_and_miss_nothing(clients: Path, python_client: Path) -> None:
    seed = int(os.environ.get("SOAK_SEED", "0"))
    random = Random(seed)
    rounds = 0
    with ServerProcess(NOWHERE, publications='["changes"]', streaming=False, **LIMITS) as server:
        stranger = Stranger(server, random)
        with (
            clients_in_a_room(server, clients, python_client) as room,
            crowds_in("room", {"a": {"each": 2}}, server, clients, python_client, wrong=()) as [
                crowd
            ],
        ):
            traffic = Traffic(room, crowd, random)
            crowd.track({"n": -1})
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                traffic.round(stranger)
                rounds += 1
            stranger.close()
            agree(crowd)
            for program in (*crowd.programs, *room.programs.values()):
                assert [line for line in program.said if is_wrong(line)] == []
                program.said.clear()
    assert rounds
    print(f"seed {seed}: {rounds} rounds, {traffic.heard} heard, {stranger.sent} of a stranger")
