"""Notifier: which messages it sends to the socket, and to whom the watchdog belongs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime_server.net.notify import Notifier
from tests.waiting import eventually


@pytest.fixture
def sock(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def lines(sock: socket.socket) -> list[str]:
    found: list[str] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(4096).decode())
    return found


def make_notifier(sock: socket.socket, **environ: str) -> Notifier:
    return Notifier(
        {"NOTIFY_SOCKET": sock.getsockname(), **environ},
        is_attached=lambda: True,
        why_not_ready=lambda: None,
    )


async def test_without_a_service_manager_nothing_runs() -> None:
    notifier = Notifier({}, is_attached=lambda: True, why_not_ready=lambda: None)
    await notifier.run()
    notifier.stopping()


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "4000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
        {},
    ],
)
async def test_a_watchdog_of_another_process_or_without_a_time_is_not_told(
    sock: socket.socket, environ: dict[str, str]
) -> None:
    heard: list[str] = []
    async with asyncio.TaskGroup() as group:
        running = group.create_task(make_notifier(sock, **environ).run())

        def has_status() -> bool:
            heard.extend(lines(sock))
            return "STATUS=Changes are being read" in heard

        await eventually(has_status)
        # With the watchdog's 4 ms there would have been a message in the same round.
        heard += lines(sock)
        running.cancel()
    assert heard == ["READY=1", "STATUS=Changes are being read"]


@pytest.mark.slow
async def test_the_watchdog_is_told_four_times_in_its_time_and_not_while_the_loop_stands_still(
    sock: socket.socket,
) -> None:
    environ = {"WATCHDOG_USEC": "40000", "WATCHDOG_PID": str(os.getpid())}
    async with asyncio.TaskGroup() as group:
        running = group.create_task(make_notifier(sock, **environ).run())
        await eventually(lambda: "WATCHDOG=1" in lines(sock))
        lines(sock)
        time.sleep(0.1)  # noqa: ASYNC251 (it is what is tested)
        assert lines(sock) == []
        await eventually(lambda: lines(sock) == ["WATCHDOG=1"])
        running.cancel()


async def test_each_change_of_the_status_is_told_once(sock: socket.socket) -> None:
    problem: list[str | None] = ["it rains"]
    notifier = Notifier(
        {"NOTIFY_SOCKET": sock.getsockname(), "WATCHDOG_USEC": "4000"},
        is_attached=lambda: problem[0] is None,
        why_not_ready=lambda: problem[0],
    )
    heard: list[str] = []

    def hears(line: str) -> bool:
        heard.extend(one for one in lines(sock) if one != "WATCHDOG=1")
        return line in heard

    async with asyncio.TaskGroup() as group:
        running = group.create_task(notifier.run())
        await eventually(lambda: hears("STATUS=Not ready: it rains"))
        problem[0] = None
        await eventually(lambda: hears("STATUS=Changes are being read"))
        running.cancel()
    assert heard == ["STATUS=Not ready: it rains", "READY=1", "STATUS=Changes are being read"]
