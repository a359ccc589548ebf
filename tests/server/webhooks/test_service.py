"""Webhooks of a database in memory: what endpoints do to each other."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime_core import MemorySource
from realtime_server.config import ConfigurationFile
from realtime_server.webhooks.service import Webhooks
from realtime_server.webhooks.stats import EndpointStats
from tests.receiver import Receiver, Reply
from tests.server_helpers import open_config
from tests.waiting import eventually


@contextlib.contextmanager
def silent_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a resolver that gives no answer about names in `silent.example`."""
    look_up = socket.getaddrinfo
    is_over = threading.Event()

    def getaddrinfo(host: str | bytes | None, *arguments: Any, **options: Any) -> Any:
        if "silent.example" in str(host):  # bytes, from anyio
            is_over.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        yield
    finally:
        # The loop waits for its threads when it is closed.
        is_over.set()


@pytest.mark.slow
async def test_names_without_an_answer_do_not_make_requests_to_others_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with Receiver(Reply(headers={"connection": "close"})) as receiver:
        # As many as asyncio has threads.
        count = min(32, (os.cpu_count() or 1) + 4)
        urls = [f"http://{number}.silent.example/" for number in range(count)]
        urls.append(receiver.url.replace("127.0.0.1", "localhost"))
        file = tmp_path / "config.json"
        file.write_text(json.dumps({"webhooks": [{"config": {"endpoint": url}} for url in urls]}))
        config = open_config(
            configuration_file=ConfigurationFile.read(str(file)),
            webhook_timeout=500,
            webhook_max_attempts=0,
        )
        source = MemorySource(slot="hooks", boundaries=True, on_gap="continue")
        table = source.database.table("item", {"id": "int8"}, key="id")
        with silent_resolver(monkeypatch):
            async with Webhooks(config, source, {}, others=source.stats) as webhooks:
                table.insert(id=1)

                def stats() -> tuple[EndpointStats, ...]:
                    return webhooks.stats().endpoints

                # The others have begun first.
                await eventually(lambda: sum(each.retries for each in stats()) >= count)
                table.insert(id=2)
                await receiver.takes(2)
                assert [each.records() for each in receiver.taken] == [["1"], ["2"]]
