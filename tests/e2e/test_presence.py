"""The clients of today, unmodified, see who of them is present.

npm's @supabase/realtime-js 2.119 in both versions of the protocol, the client that supabase-js
makes, npm's phoenix 1.8, and PyPI's realtime 2.34. The server needs no database for it.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.e2e.program import NodeProgram, Program
from tests.e2e.server_process import ServerProcess
from tests.e2e.test_rooms import NOWHERE

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

KINDS = ("js", "js-vsn1", "supabase-js", "phoenix", "py")
LIMITS: dict[str, Any] = {"MAX_PRESENCE_CALLS_PER_SECOND": "1000"}
PATIENCE = 30.0
_numbers = count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(NOWHERE, publications='["changes"]', streaming=False, **LIMITS) as server:
        yield server


class Crowd:
    """A group of clients of all kinds in a room, and what each of them tracks."""

    def __init__(self, programs: list[Program], group: str, each: int) -> None:
        self.programs = programs
        self.keys = [f"{group}-{kind}-{number}" for kind in KINDS for number in range(each)]
        self.tracked: dict[str, Any] = {}

    def _tell(self, keys: list[str] | None, make: Callable[[list[str]], dict[str, Any]]) -> None:
        done = next(_numbers)
        told = []
        for place, program in enumerate(self.programs):
            named = self.keys if keys is None else keys
            here = [key for key in named if ("-py-" in key) == place]
            if here:
                program.tell(**make(here), done=done)
                told.append(program)
        for program in told:
            program.wait_for(done=done)

    def ready(self, times: int = 1) -> None:
        """Wait until all have joined, so many times."""
        for key in self.keys:
            self.programs["-py-" in key].wait_for(ready=key, times=times)

    def track(self, payload: Any, keys: list[str] | None = None) -> None:
        self._tell(keys, lambda here: {"track": payload, "of": here})
        self.tracked |= dict.fromkeys(self.keys if keys is None else keys, payload)

    def untrack(self, keys: list[str]) -> None:
        self._tell(keys, lambda here: {"untrack": here})
        for key in keys:
            del self.tracked[key]

    def leave(self, keys: list[str]) -> None:
        self._tell(keys, lambda here: {"leave": here})
        for key in keys:
            self.keys.remove(key)
            self.tracked.pop(key, None)

    def kill(self) -> None:
        """End the programs without a word to the server."""
        for program in self.programs:
            program.signal(signal.SIGKILL)
        self.keys, self.tracked = [], {}

    def report(self) -> list[dict[str, Any]]:
        number = next(_numbers)
        for program in self.programs:
            program.tell(report=number)
        found = []
        for program in self.programs:
            program.wait_for(report=number)
            found += [line for line in [*program.said] if line.get("report") == number]
        return found


def agree(*crowds: Crowd, others: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Wait until all clients have the same state: of what they track, and of others."""
    expected = {key: [payload] for key, payload in others.items()}
    for crowd in crowds:
        expected |= {key: [payload] for key, payload in crowd.tracked.items()}
    keys = {key for crowd in crowds for key in crowd.keys}
    deadline = time.monotonic() + PATIENCE
    while True:
        reports = [report for crowd in crowds for report in crowd.report()]
        states = [state for report in reports for state, of in report["distinct"] if keys & {*of}]
        differing = [key for report in reports for key in report["differing"] if key in keys]
        shown = {key: [payload for _, payload in metas] for key, metas in states[0]}
        if all(state == states[0] for state in states) and shown == expected and not differing:
            return
        assert time.monotonic() < deadline, (differing, expected, states)


@contextlib.contextmanager
def crowds_in(
    room: str,
    groups: dict[str, dict[str, Any]],
    server: ServerProcess,
    clients: Path,
    python_client: Path,
    *,
    wrong: tuple[str, ...] = ("log", "track", "untrack"),
    is_killed: bool = False,
) -> Iterator[list[Crowd]]:
    """Yield groups of clients that have joined a room.

    Args:
        room: that they join.
        groups: by name, and how many of each kind.
        server: that they join it at.
        clients: where the programs are.
        python_client: the Python that has the Python client.
        wrong: what no client may say: it could not read something, or was refused.
        is_killed: whether the programs are killed by the test.
    """
    said = json.dumps(groups)
    url = server.websocket_url
    js = NodeProgram(clients / "presence_crowd.mjs", url, said)
    py = Program(str(python_client), str(clients / "presence_crowd.py"), url, said)
    with contextlib.ExitStack() as stack:
        for program in (js, py):
            stack.enter_context(_killed(program) if is_killed else program)
            program.tell(join=room)
        crowds = [Crowd([js, py], group, options["each"]) for group, options in groups.items()]
        for crowd in crowds:
            crowd.ready()
        yield crowds
        for program in (js, py):
            assert [line for line in program.said if {*wrong} & line.keys()] == []


@contextlib.contextmanager
def _killed(program: Program) -> Iterator[None]:
    """Let a program run that is going to be killed."""
    program.__enter__()
    try:
        yield
    finally:
        # It does not end as it should, and is to end otherwise if it was not killed.
        with contextlib.suppress(AssertionError):
            program.__exit__(None, None, None)


def test_two_of_each_see_each_other(
    server: ServerProcess, clients: Path, python_client: Path
) -> None:
    groups: dict[str, dict[str, Any]] = {
        "a": {"each": 2},
        "quiet": {"each": 1, "watches": False},
        "late": {"each": 1, "late": True},
    }
    some: dict[str, dict[str, Any]] = {"killed": {"each": 1}}
    with (
        crowds_in("room", groups, server, clients, python_client) as [a, quiet, late],
        crowds_in("room", some, server, clients, python_client, is_killed=True) as [killed],
    ):
        agree(a, late)
        shown = {"n": 1, "text": "hé 😀", "metas": [{"a": None}]}
        # A client may show others what it was shown itself.
        a.track({**shown, "phx_ref": "mine", "presence_ref": {}})
        a.tracked = dict.fromkeys(a.tracked, shown)
        agree(a, late, killed)
        # Who does not ask sees all others from its first track on.
        quiet.track({"quiet": True})
        killed.track({})
        agree(a, quiet, late, killed)
        a.track({"n": 2}, a.keys[::2])
        a.untrack(a.keys[1::4])
        agree(a, quiet, late, killed)
        killed.kill()
        a.leave(a.keys[3::4])
        agree(a, quiet, late)
        # With keys and values that are special in JavaScript, all still live.
        for payload in ({"__proto__": {"x": 1}, "constructor": 1}, {"deep": nested(98)}):
            a.track(payload)
            agree(a, quiet, late)
        special = "constructor", "toString", "hasOwnProperty", "7", "metas", "é" * 127
        with contextlib.ExitStack() as stack:
            for key in special:
                stack.enter_context(stranger(server, key, "x" * 8000))
            agree(a, quiet, late, others={key: {"x": "x" * 8000} for key in special})
            # What JavaScript's client shows has no such key, but nobody ends at it.
            stack.enter_context(stranger(server, "__proto__", ""))
        agree(a, quiet, late)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@contextlib.contextmanager
def stranger(server: ServerProcess, key: str, text: str) -> Iterator[None]:
    """Have somebody present in the room who is no stock client."""
    config = {"presence": {"key": key, "enabled": False}}
    track = {"event": "track", "payload": {"x": text}}
    with connect(f"{server.websocket_url}/websocket?vsn=2.0.0", compression=None) as websocket:
        for number, (event, payload) in enumerate(
            [("phx_join", {"config": config}), ("presence", track)]
        ):
            message = ["0", str(number), "realtime:room", event, payload]
            websocket.send(json.dumps(message))
            answer = json.loads(websocket.recv(timeout=30))
            assert answer[4] == {"status": "ok", "response": answer[4]["response"]}
        yield


def test_two_hundred_see_each_other(
    server: ServerProcess, clients: Path, python_client: Path
) -> None:
    groups, some = {"many": {"each": 35}}, {"killed": {"each": 5}}
    with crowds_in("large room", groups, server, clients, python_client) as [many]:
        many.track({"n": 1})
        with crowds_in("large room", some, server, clients, python_client, is_killed=True) as [
            killed
        ]:
            killed.track({"k": 1})
            agree(many, killed)
            many.track({"n": 2})
            killed.kill()
            many.leave(many.keys[::2])
            many.track({"n": 3}, many.keys[::3])
            many.untrack(many.keys[1::3])
            agree(many)


def test_after_a_restart_presence_is_whole_again(clients: Path, python_client: Path) -> None:
    settings: dict[str, Any] = {"publications": '["changes"]', "streaming": False, **LIMITS}
    # Python's client logs each attempt to connect that fails.
    wrong = "track", "untrack"
    with (
        ServerProcess(NOWHERE, **settings) as server,
        crowds_in("room", {"a": {"each": 2}}, server, clients, python_client, wrong=wrong) as [a],
    ):
        a.track({"n": 1})
        agree(a)
        server.stop()
        with ServerProcess(NOWHERE, port=server.port, **settings):
            a.ready(times=2)
            agree(a)
