"""What a supervisor knows of processes that somebody else has started for it."""

from __future__ import annotations

import os
import signal

import pytest

from realtime_server.workers.forks import ForkedProcess, Forks


def spawn(script: str) -> int:
    return os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ)


@pytest.mark.asyncio
async def test_it_is_told_how_a_process_ends_and_signals_no_other_one_by_then() -> None:
    process = ForkedProcess(spawn("sleep 60"))
    assert process.returncode is None
    process.send_signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    # Without a process of that ID this would be an error.
    process.send_signal(signal.SIGKILL)
    other = ForkedProcess(spawn("exit 2"))
    assert await other.wait() == 2


@pytest.mark.asyncio
async def test_nothing_is_started_while_the_server_stops() -> None:
    forks = Forks((), os.environ)
    forks.close()
    with pytest.raises(OSError, match="the server is being stopped"):
        await forks.start(1, (), "0123456789abcdef")
