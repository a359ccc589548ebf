"""Sending dead letters again, and what ends it."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path
from typing import Any, Self

import pytest

from realtime_core import ConfigError
from realtime_server.webhooks import redeliver
from realtime_server.webhooks.client import Answer
from realtime_server.webhooks.dead_letters import DeadLetter, DeadLetters
from realtime_server.webhooks.request import Request


class Endpoint:
    """Takes the first request, and gives no answer to the next one."""

    def __init__(self) -> None:
        self.is_silent = asyncio.Event()
        self._count = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def post(self, *_: object) -> Answer:
        self._count += 1
        if self._count > 1:
            self.is_silent.set()
            await asyncio.Event().wait()
        return Answer(200)


async def test_a_second_signal_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "dead.jsonl")
    requests = [Request(f"msg_{n}", f"0/{n}:0@7.1/shop", b"{}", 1, True, 0.0) for n in (1, 2)]
    await DeadLetters(path).add([DeadLetter(one, "one", 3, "status 500") for one in requests])
    config = tmp_path / "realtime.json"
    webhook = {"name": "one", "config": {"endpoint": "http://127.0.0.1:1/"}}
    config.write_text(json.dumps({"webhooks": [webhook]}))

    def fail(self: DeadLetters, keys: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    endpoint = Endpoint()
    monkeypatch.setattr(redeliver, "Client", lambda config: endpoint)
    monkeypatch.setattr(DeadLetters, "remove", fail)
    environ = {"CONFIGURATION_FILE": str(config), "WEBHOOK_DEAD_LETTERS": path}
    task = asyncio.create_task(redeliver.run_redeliver(environ, dev=False, tell=print))
    await asyncio.wait(
        {task, asyncio.create_task(endpoint.is_silent.wait())}, return_when="FIRST_COMPLETED"
    )
    assert not task.done()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(ConfigError, match="1 requests were taken by their endpoints"):
        await task
