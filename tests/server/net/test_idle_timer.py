"""IdleTimer: the time that a connection waits for one message counts, and nothing else."""

from __future__ import annotations

import asyncio
from typing import cast

from websockets.asyncio.server import ServerConnection

from realtime_server.net.idle_timer import IdleTimer
from tests.server_helpers import make_metrics
from tests.virtual_time import run_in_virtual_time


class Socket:
    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def close(self, code: int, reason: str) -> None:
        assert (code, reason) == (1000, "no message within the idle time")
        self.closed.set()


def test_each_message_puts_the_end_off_however_long_it_is_carried_out() -> None:
    async def waits() -> float:
        socket, time = Socket(), asyncio.get_running_loop().time
        timer = IdleTimer(cast(ServerConnection, socket), 10.0, make_metrics())
        for _ in range(3):
            with timer:
                await asyncio.sleep(9)
            await asyncio.sleep(25)
        began = time()
        with timer:
            await socket.closed.wait()
        return time() - began

    assert run_in_virtual_time(waits()) == 10.0


def test_a_connection_that_has_ended_is_not_closed_again() -> None:
    async def is_closed() -> bool:
        socket = Socket()
        timer = IdleTimer(cast(ServerConnection, socket), 10.0, make_metrics())
        with timer:
            timer.close()
            await asyncio.sleep(100)
        return socket.closed.is_set()

    assert not run_in_virtual_time(is_closed())
