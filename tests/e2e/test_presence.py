"""The clients of today, unmodified, see who of them is present.

npm's @supabase/realtime-js 2.119 in both versions of the protocol, the client that supabase-js
makes, npm's phoenix 1.8, and PyPI's realtime 2.34. The server needs no database for it.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.e2e.program import NodeProgram, Program
from tests.e2e.server_process import ServerProcess
from tests.e2e.test_rooms import NOWHERE

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

KINDS = ("js", "js-vsn1", "supabase-js", "phoenix", "py")
LIMITS = {"MAX_PRESENCE_CALLS_PER_SECOND": "1000"}
_numbers = count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(NOWHERE, publications='["changes"]', streaming=False, **LIMITS) as server:
        yield server


class Crowd:
    """Clients of all kinds in a room, and what each of them tracks."""

    def __init__(self, programs: list[Program], prefix: str, each: int) -> None:
        self.programs = programs
        self.keys = [f"{prefix}-{kind}-{number}" for kind in KINDS for number in range(each)]
        self.tracked: dict[str, Any] = {}

    def _tell(self, keys: list[str] | None, make: Callable[[list[str]], dict[str, Any]]) -> None:
        done = next(_numbers)
        told = []
        for place, program in enumerate(self.programs):
            is_py = place == 1
            named = self.keys if keys is None else keys
            here = [key for key in named if ("-py-" in key) == is_py]
            if here:
                program.tell(**make(here), done=done)
                told.append(program)
        for program in told:
            program.wait_for(done=done)

    def join(self, room: str) -> None:
        for program in self.programs:
            program.tell(join=room)
        self.ready()

    def ready(self, times: int = 1) -> None:
        """Wait until all have joined, so many times."""
        for program in self.programs:
            for key in self.keys:
                if ("-py-" in key) == (program is self.programs[1]):
                    program.wait_for(ready=key, times=times)

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


def agree(*crowds: Crowd, within: float = 20, **others: Any) -> None:
    """Wait until all clients have the same state, of just those who track something."""
    expected = {key: [payload] for key, payload in others.items()}
    for crowd in crowds:
        expected |= {key: [payload] for key, payload in crowd.tracked.items()}
    deadline = time.monotonic() + within
    while True:
        reports = [report for crowd in crowds for report in crowd.report()]
        states = [state for report in reports for state, _ in report["distinct"]]
        differing = [key for report in reports for key in report["differing"]]
        shown = {key: [payload for _, payload in metas] for key, metas in states[0]}
        if all(state == states[0] for state in states) and shown == expected and not differing:
            return
        assert time.monotonic() < deadline, (differing, expected, states)


@contextlib.contextmanager
def crowd(
    server: ServerProcess,
    clients: Path,
    python_client: Path,
    prefix: str,
    *,
    each: int,
    is_killed: bool = False,
    is_cut_off: bool = False,
    **options: Any,
) -> Iterator[Crowd]:
    said = json.dumps({"prefix": prefix, "each": each, **options})
    url = server.websocket_url
    js = NodeProgram(clients / "presence_crowd.mjs", url, said)
    py = Program(str(python_client), str(clients / "presence_crowd.py"), url, said)
    with contextlib.ExitStack() as stack:
        for program in (js, py):
            if is_killed:
                stack.enter_context(contextlib.suppress(AssertionError))
            stack.enter_context(program)
        yield Crowd([js, py], prefix, each)
        # There was nothing that they could not read, and no call that was refused. Python's client
        # logs each attempt to connect that fails.
        wrong = {"track", "untrack"} if is_cut_off else {"log", "track", "untrack"}
        for program in (js, py):
            assert [line for line in program.said if wrong & line.keys()] == []


def test_two_of_each_see_each_other(
    server: ServerProcess, clients: Path, python_client: Path
) -> None:
    with (
        crowd(server, clients, python_client, "a", each=2) as a,
        crowd(server, clients, python_client, "quiet", each=1, watches=False) as quiet,
        crowd(server, clients, python_client, "late", each=1, late=True) as late,
        crowd(server, clients, python_client, "killed", each=1, is_killed=True) as killed,
    ):
        for each in (a, quiet, late, killed):
            each.join("room")
        agree(a, late)
        a.track({"n": 1, "text": "hé 😀", "phx_ref": "mine", "metas": [{"a": None}]})
        shown = {"n": 1, "text": "hé 😀", "metas": [{"a": None}]}
        a.tracked = dict.fromkeys(a.tracked, shown)
        agree(a, late, killed)
        # Who does not ask sees all others from its first track on.
        quiet.track({"quiet": True})
        killed.track({})
        agree(a, late, killed, *([quiet] if quiet.report() else []))
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
            agree(a, quiet, late, **{key: {"x": "x" * 8000} for key in special})
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
    with (
        crowd(server, clients, python_client, "many", each=35) as many,
        crowd(server, clients, python_client, "killed", each=5, is_killed=True) as killed,
    ):
        many.join("large room")
        many.track({"n": 1})
        killed.join("large room")
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
    with (
        ServerProcess(NOWHERE, **settings) as server,
        crowd(server, clients, python_client, "a", each=2, is_cut_off=True) as a,
    ):
        a.join("room")
        a.track({"n": 1})
        agree(a)
        server.stop()
        with ServerProcess(NOWHERE, port=server.port, **settings):
            a.ready(times=2)
            agree(a)
