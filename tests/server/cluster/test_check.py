"""What the check makes of JetStream's answers; what they are is tried with real servers of NATS."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import nats.errors
import pytest

from realtime_server.cluster.check import ask_of_stream, missing_copies


def test_servers_whose_copy_does_not_keep_up_are_named() -> None:
    replicas = [
        {"name": "nats-1", "current": True, "active": 5_000_000},
        # As JetStream shows one some seconds after it was killed, and later.
        {"name": "nats-2", "current": False, "active": 10_000_000_000},
        {"name": "nats-3", "current": True, "offline": True},
    ]
    info = {"config": {"num_replicas": 3}, "cluster": {"leader": "nats-0", "replicas": replicas}}
    messages = [finding.message for finding in missing_copies("shop", info)]
    assert [message.split("'")[1] for message in messages] == ["nats-2", "nats-3"]
    assert "has a copy of the stream 'shop', is away or has not caught up" in messages[0]


def test_a_server_without_a_cluster_has_no_other_copies() -> None:
    assert not list(missing_copies("shop", {"config": {"num_replicas": 1}}))


class Client:
    """Gives its answers one after the other, and then none; or raises them."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)

    async def request(self, subject: str, **_: float) -> Any:
        answer = self.answers.pop(0) if self.answers else nats.errors.TimeoutError()
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(data=answer)


def ask(*answers: bytes | Exception) -> object:
    client: Any = Client(*answers)
    return asyncio.run(ask_of_stream(client, "shop"))


def test_servers_of_nats_that_have_just_begun_are_asked_again() -> None:
    silence = nats.errors.TimeoutError()
    assert ask(silence, silence, b'{"config": {}}') == {"config": {}}
    assert ask(silence, nats.errors.NoRespondersError()) is None
    with pytest.raises(TimeoutError):
        ask()
