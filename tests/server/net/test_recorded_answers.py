"""What today's clients were recorded to be answered and told of: whole scenarios. No network.

The database is a stand-in: the real one is asked in tests/integration/test_private_channels.py.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import pytest

from realtime_server.messages.policies.policy_checks import PolicyChecks
from realtime_server.messages.policies.questions import Answer, Question
from realtime_server.messages.stored_messages import StoredMessages
from realtime_server.net import connection as connection_module
from realtime_server.net.private_channels import PrivateChannels
from realtime_server.phoenix.broadcasts import Broadcast, RoomName
from tests.server.net.test_connection import Client, open_connection
from tests.server.net.test_connection_presence import World
from tests.server.net.test_connection_private import Tokens
from tests.server.net.test_connection_rooms import expected, push, received
from tests.server_helpers import make_metrics
from tests.waiting import eventually

DATA = Path(__file__).parents[2] / "data" / "answer_frames.jsonl"


class Checks:
    """Policies that let everybody read, and write everywhere but in one topic."""

    async def ask(self, question: Question) -> Answer:
        is_granted = not (question.is_write and question.topic == "readonly")
        return Answer(frozenset(question.extensions if is_granted else ()))


def recorded() -> dict[tuple[str, str], list[dict[str, Any]]]:
    found = defaultdict(list)
    for line in DATA.read_text(encoding="utf-8").splitlines():
        frame = json.loads(line)
        found[frame["client"], frame["scenario"]].append(frame)
    return found


def ours(frame: dict[str, Any]) -> Any:
    """Return what this server sends where the original sends a frame; None: nothing."""
    means = frame.get("means")
    if means is not None and means["encoding"] == "json":
        message = expected(frame)
        if means["metadata"] is not None:
            message[4]["meta"] = means["metadata"]
        return message
    message = json.loads(frame["text"])
    topic, event, payload = (
        (message["topic"], message["event"], message["payload"])
        if isinstance(message, dict)
        else message[2:]
    )
    if topic == "realtime:room:kill" and event in ("system", "phx_close"):
        # Whoever calls too often is refused, and its channel stays.
        return None
    if event == "phx_reply" and topic == "realtime:toolarge" and "error" in payload["response"]:
        # The stub called it large, which it would have to be.
        payload.update(status="ok", response={})
    if event == "phx_reply" and "id" in payload["response"]:
        payload.update(status="error", response={"error": "persist_unavailable"})
    return message


def heard_before(frame: dict[str, Any], message: Any) -> list[Any]:
    """Return what a sender hears of itself before an answer that was another one."""
    if (frame["client"], frame["scenario"]) != ("py", "ack_self") or message["ref"] != "2":
        return []
    payload = {"type": "broadcast", "event": "m", "payload": {}}
    return [{"topic": message["topic"], "event": "broadcast", "payload": payload, "ref": None}]


def sent(message: Any) -> Any:
    """Return a frame without the reason of a refusal, which the original does not tell."""
    if isinstance(message, bytes):
        return message
    payload = message["payload"] if isinstance(message, dict) else message[4]
    if payload.get("status") == "error":
        assert payload["response"].pop("reason")
    return message


def stored(message: Any) -> tuple[tuple[RoomName, Broadcast], ...]:
    """Return what the database has to send for a recorded frame of it."""
    payload = message["payload"] if isinstance(message, dict) else message[4]
    body, meta = (json.dumps(payload[name]).encode() for name in ("payload", "meta"))
    room = RoomName("realtime:dbsend:1", is_private=True)
    return ((room, Broadcast(payload["event"], body, meta=meta)),)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scenario"), sorted(recorded()))
async def test_recorded_clients_are_answered_as_they_were(
    name: str, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "NEXT_WITHIN", 0.01)
    opened, *frames = recorded()[name, scenario]
    world = World()
    checks = cast(PolicyChecks, Checks())
    private = PrivateChannels(checks, cast(StoredMessages, None), (), make_metrics())
    got: list[Any] = []
    told: list[Any] = []

    def is_complete(client: Client) -> bool:
        got.extend(map(sent, received(client)))
        return len(got) >= len(told)

    async with open_connection(
        Tokens(),
        rooms=world.rooms,
        presence=world.presence,
        private=private,
        vsn=opened["url"].partition("vsn=")[2],
    ) as client:
        for frame in frames:
            if frame["dir"] == "c2s":
                # With vsn=1.0.0 a leave's phx_close waits for a moment.
                await eventually(lambda: is_complete(client))
                data = frame["text"] if "text" in frame else bytes.fromhex(frame["hex"])
                await push(client, data)
            elif (message := ours(frame)) is not None:
                told += heard_before(frame, message)
                told.append(message)
                if not isinstance(message, bytes) and '"meta"' in json.dumps(message):
                    world.rooms.publish(stored(message))
        await eventually(lambda: is_complete(client))
    assert got == told
