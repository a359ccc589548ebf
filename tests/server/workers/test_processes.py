"""What the supervisor decides of its processes, and what it tells them; processes of a few lines
stand for the workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from realtime_core import LSN, SourceStats, StreamIdentity
from realtime_core.errors import ServerError
from realtime_server.cluster.source_stats import stats_from_json, stats_to_json
from realtime_server.workers.control import ControlLink
from realtime_server.workers.forks import WorkerProcess
from realtime_server.workers.in_flight import InFlight
from realtime_server.workers.links import Links
from realtime_server.workers.processes import Pace, Processes
from realtime_server.workers.room_switch import RoomSwitch
from realtime_server.workers.worker import Worker
from tests.server_helpers import make_metrics
from tests.waiting import eventually

NAME = "0123456789abcdef"
WORKER = """\
import json, os, pathlib, signal, sys, time

_, changes, rooms, control = map(int, sys.argv[2].split(",")[:4])
signal.signal(signal.SIGHUP, lambda *_: pathlib.Path("hangup").touch())
pathlib.Path("pid").write_text(str(os.getpid()))
while not os.path.exists("go"):
    time.sleep(0.01)
if os.path.exists("forks"):
    child = os.fork()
    if not child:
        signal.pause()
    pathlib.Path("child").write_text(str(child))
os.write(control, b'{"kind": "started"}\\n')
if os.path.exists("asks"):
    os.write(control, pathlib.Path("asks").read_bytes())
lines = open(control)
with open("heard", "w", buffering=1) as heard:
    # Until the other end has gone.
    for line in lines:
        message = json.loads(line)
        print(message["kind"], file=heard)
        if message["kind"] == "ping":
            os.write(control, b'{"kind": "pong"}\\n')
        if message["kind"] == "collect":
            answer = {"kind": "metrics", "id": message["id"], "text": ""}
            os.write(control, json.dumps(answer).encode() + b"\\n")
"""


@contextlib.asynccontextmanager
async def one_worker(directory: Path, names: set[str] | None = None) -> AsyncIterator[Processes]:
    """Have one worker, which says that it has started once there is a file ``go``."""
    program = directory / "worker"
    program.write_text(f"#!{sys.executable}\n{WORKER}")
    program.chmod(0o755)

    async def start(worker: int, files: Sequence[int], name: str) -> WorkerProcess:
        links = ",".join(map(str, (worker, *files, name)))
        return await asyncio.create_subprocess_exec(program, "--worker", links, pass_fds=files)

    source: Any = None
    processes = Processes(
        1,
        start=start,
        links=Links(source, InFlight[Any](), clock=time.monotonic, stalled=lambda _: None),
        rooms=RoomSwitch(),
        names=set() if names is None else names,
        metrics=make_metrics().render,
    )
    processes.start()
    try:
        yield processes
    finally:
        await processes.stop(30)


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_worker_that_cannot_be_started_for_a_while_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "go").touch()
    async with one_worker(tmp_path) as processes:
        await eventually(lambda: processes.running == 1)
        waiting = asyncio.create_task(processes.wait())
        (tmp_path / "worker").rename(tmp_path / "away")
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        await eventually(lambda: waiting.done() or "cannot be started" in caplog.text)
        (tmp_path / "away").rename(tmp_path / "worker")
        await eventually(lambda: waiting.done() or processes.running == 1)
        assert not waiting.done()
        waiting.cancel()


@pytest.mark.asyncio
async def test_a_signal_reaches_a_worker_that_is_being_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with one_worker(tmp_path) as processes:
        await eventually((tmp_path / "pid").exists)
        # The keys that it has read may be those of before.
        processes.send_signal(signal.SIGHUP)
        (tmp_path / "go").touch()
        await eventually((tmp_path / "hangup").exists)


@pytest.mark.asyncio
async def test_a_worker_that_is_slow_to_start_is_named_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    async with one_worker(tmp_path) as processes:
        await eventually((tmp_path / "pid").exists)
        for _ in range(25):
            processes.look()
        (tmp_path / "go").touch()
        await eventually(lambda: processes.running == 1)
        processes.look()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == [f"worker 1 has not started for {seconds} s" for seconds in (10, 20)]


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_worker_that_stands_still_is_ended_and_one_that_answers_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    heard, pid = tmp_path / "heard", tmp_path / "pid"
    for file in (tmp_path / "go", heard):
        file.touch()
    async with one_worker(tmp_path) as processes:
        await eventually(lambda: processes.running == 1)
        for number in range(1, 100):
            processes.look()
            # What the worker has answered before is read in this turn.
            await asyncio.sleep(0)
            await eventually(lambda number=number: heard.read_text().count("ping") == number)  # type: ignore[misc]
        assert "has not answered" not in caplog.text
        first = pid.read_text()
        os.kill(int(first), signal.SIGSTOP)
        for _ in range(40):
            processes.look()
        await eventually(lambda: processes.restarts == 1 and processes.running == 1)
        assert "worker 1 has not answered for 30 s" in caplog.text
        assert pid.read_text() != first


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_worker_is_started_again_although_what_it_has_started_keeps_its_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("go", "forks"):
        (tmp_path / name).touch()
    names: set[str] = set()
    async with one_worker(tmp_path, names) as processes:
        await eventually(lambda: processes.running == 1)
        (name,) = names
        (tmp_path / "forks").unlink()
        first = (tmp_path / "pid").read_text()
        os.kill(int(first), signal.SIGKILL)
        try:
            await eventually(lambda: processes.restarts == 1 and processes.running == 1)
            # Another process has another name.
            assert len(names) == 1
            assert name not in names
        finally:
            os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


@pytest.mark.asyncio
async def test_a_worker_says_that_it_is_alive_until_the_supervisor_has_ended() -> None:
    ours, theirs = socket.socketpair()
    supervisor, control = await ControlLink.over(ours), await ControlLink.over(theirs)
    feed: Any = None
    rooms: Any = None
    running = asyncio.create_task(Worker(1, feed, rooms, control, name=NAME).run(bytes))
    supervisor.send("ping")
    async with asyncio.timeout(30):
        assert await anext(supervisor.messages()) == {"kind": "pong"}
        supervisor.close()
        with pytest.raises(ServerError, match="worker 1"):
            await running
    control.close()
    await eventually(lambda: theirs.fileno() == -1)


@pytest.mark.asyncio
async def test_a_worker_says_that_its_supervisor_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realtime_server.workers.worker._ANSWER", 0.01)
    ours, theirs = socket.socketpair()
    supervisor, control = await ControlLink.over(ours), await ControlLink.over(theirs)
    feed: Any = None
    rooms: Any = None
    now = 0.0
    worker = Worker(1, feed, rooms, control, name=NAME, clock=lambda: now)
    running = asyncio.create_task(worker.run(bytes))
    assert worker.why_not_ready() is None
    now = 12.0
    assert worker.why_not_ready() == "the supervisor has said nothing for 12 s"
    with pytest.raises(TimeoutError):
        await worker.metrics()
    supervisor.send("ping")
    await eventually(lambda: worker.why_not_ready() is None)
    supervisor.close()
    await asyncio.gather(running, return_exceptions=True)
    control.close()


@pytest.mark.asyncio
async def test_many_requests_for_metrics_share_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asks = [json.dumps({"kind": "ask", "id": number}) + "\n" for number in range(200)]
    (tmp_path / "asks").write_text("".join(asks))
    (tmp_path / "go").touch()
    async with one_worker(tmp_path):
        heard = tmp_path / "heard"
        await eventually(lambda: heard.exists() and heard.read_text().count("answer") == 200)
        # One for those that came first, and one for those that came meanwhile, if any did.
        assert heard.read_text().count("collect") <= 10


def test_a_worker_is_started_again_at_once_but_not_without_end() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    assert [pace.pause() for _ in range(3)] == [0, 0, 0]
    assert pace.pause() == 10
    now = 10.0
    assert pace.pause() == 0
    now = 100.0
    assert [pace.pause() for _ in range(3)] == [0, 0, 0]


def test_what_a_source_counts_comes_through_json() -> None:
    stats = SourceStats(
        changes=3,
        confirmed_lsn=LSN(2**63),
        lag_seconds=0.5,
        connected=True,
        stream=StreamIdentity(2**63, 3, ("a b", "c")),
    )
    assert stats_from_json(stats_to_json(stats)) == stats
    assert stats_from_json(stats_to_json(SourceStats())) == SourceStats()
    assert stats_from_json(stats_to_json(stats) | {"later": 1}) == stats
