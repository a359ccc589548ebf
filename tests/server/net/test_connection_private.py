"""What today's clients were recorded to send to private channels, and what they get. No network.

The database is a stand-in: the real one is asked in tests/integration/test_private_channels.py.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import pytest

from realtime_server.auth.authorizer import AllowAll, JoinRequest
from realtime_server.auth.grant import Grant
from realtime_server.messages.policies.policy_checks import PolicyChecks
from realtime_server.messages.policies.questions import Answer, Question
from realtime_server.messages.stored_messages import StoredMessages
from realtime_server.net.private_channels import PrivateChannels
from realtime_server.phoenix.broadcasts import Broadcast
from realtime_server.phoenix.joins import ReplayConfig
from tests.server.net.test_connection import Client, open_connection
from tests.server.net.test_connection_rooms import make_rooms, push, received, v2
from tests.server_helpers import make_metrics
from tests.waiting import eventually

DATA = Path(__file__).parents[2] / "data" / "private_frames.jsonl"
IDS = (
    b'{"id":"11111111-1111-4111-8111-111111111111"}',
    b'{"id":"22222222-2222-4222-8222-222222222222"}',
)


class Tokens(AllowAll):
    """Takes every token, which says who it is of."""

    async def join(self, request: JoinRequest) -> Grant:
        return Grant({"role": "anon", "sub": "join"})

    async def refresh(self, grant: Grant, token: Any) -> Grant:
        return Grant({"role": "anon", "sub": token})


class Checks:
    """Policies that let everybody read and write one topic."""

    async def ask(self, question: Question) -> Answer:
        is_granted = question.topic == "room:priv"
        return Answer(frozenset(question.extensions) if is_granted else frozenset())


class Stored:
    """A table with two messages; None: it cannot be read."""

    def __init__(self) -> None:
        self.is_away = False

    async def read(
        self, topic: str, wanted: ReplayConfig, *, takes_bytes: bool
    ) -> list[Broadcast] | None:
        found = [
            Broadcast("old", b'{"n":1}', meta=IDS[0]),
            Broadcast("oldbin", b"\xde\xad\x00\xff", is_json=False, meta=IDS[1]),
        ]
        return None if self.is_away else [one for one in found if one.is_json or takes_bytes]


def make_private(stored: Stored | None = None) -> PrivateChannels:
    checks = cast(PolicyChecks, Checks())
    return PrivateChannels(checks, cast(StoredMessages, stored or Stored()), (), make_metrics())


def recorded() -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for line in DATA.read_text(encoding="utf-8").splitlines():
        frame = json.loads(line)
        found[frame["client"]].append(frame)
    return found


def expected(frame: dict[str, Any]) -> Any:
    if "hex" in frame:
        return bytes.fromhex(frame["hex"])
    message = json.loads(frame["text"])
    if isinstance(message, list) and message[3] in ("broadcast", "system"):
        # All members share the bytes, so it has no join_ref.
        return [None, *message[1:]]
    return message


@pytest.mark.parametrize("name", sorted(recorded()))
async def test_recorded_clients_get_what_they_got(name: str) -> None:
    opened, *frames = recorded()[name]
    vsn = opened["url"].partition("vsn=")[2]
    told = [expected(frame) for frame in frames if frame["dir"] == "s2c"]
    async with open_connection(
        Tokens(), rooms=make_rooms(), private=make_private(), vsn=vsn
    ) as client:
        got: list[Any] = []
        for frame in frames:
            if frame["dir"] == "c2s":
                await push(client, frame["text"])
                got += received(client)
        # In V1 the answer to a leave waits for a moment.
        await eventually(lambda: got.extend(received(client)) or len(got) >= len(told))
    assert got == told


async def join(client: Client, **broadcast: Any) -> list[Any]:
    config = {"config": {"private": True, "broadcast": broadcast}}
    await push(client, v2("phx_join", config, "1", "realtime:room:priv"))
    return received(client)


async def test_a_join_is_refused_if_stored_messages_cannot_be_read() -> None:
    stored, rooms = Stored(), make_rooms()
    stored.is_away = True
    async with open_connection(
        Tokens(), rooms=rooms, private=make_private(stored), vsn="2.0.0"
    ) as client:
        [answer] = await join(client, replay={})
        assert answer[4]["response"]["reason"].startswith("UnableToReplayMessages: the stored")
        assert rooms.stats().rooms == 0
        [answer] = await join(client)
        assert answer[4]["status"] == "ok"


@pytest.mark.parametrize("private", [True, "true"])
async def test_without_private_channels_a_private_join_is_never_public(private: Any) -> None:
    rooms = make_rooms()
    async with open_connection(Tokens(), rooms=rooms, vsn="2.0.0") as client:
        await push(client, v2("phx_join", {"config": {"private": private}}, "1"))
        [answer] = received(client)
        assert answer[4]["response"]["reason"].startswith("PrivateChannelsDisabled: ")
        assert rooms.stats().rooms == 0


@pytest.mark.parametrize("payload", [{}, {"config": {}}, {"config": {"private": False}}])
async def test_where_all_channels_are_private_public_ones_are_refused(payload: Any) -> None:
    async with open_connection(
        Tokens(), rooms=make_rooms(), private=make_private(), vsn="2.0.0", private_only=True
    ) as client:
        await push(client, v2("phx_join", payload, "1"))
        [answer] = received(client)
        assert answer[4]["response"]["reason"].startswith("PrivateOnly: ")
        [answer] = await join(client)
        assert answer[4]["status"] == "ok"


NEAR = [
    "realtime:room:priv",
    "realtime:private:room:priv",
    "realtime:ROOM:priv",
    "realtime:room%3Apriv",
    "realtime:room:priv\0",
    "realtime:room:priv ",
    "realtime:x/../room:priv",
    "realtime:realtime:room:priv",
]


async def test_no_other_room_hears_a_private_one() -> None:
    rooms, private = make_rooms(), make_private()
    async with contextlib.AsyncExitStack() as stack:
        member, *others = [
            await stack.enter_async_context(
                open_connection(Tokens(), rooms=rooms, private=private, vsn="2.0.0")
            )
            for _ in range(1 + len(NEAR))
        ]
        await join(member, self=True)
        for client, topic in zip(others, NEAR, strict=True):
            await push(client, v2("phx_join", {"config": {}}, "1", topic))
            [answer] = received(client)
            assert answer[4]["status"] == "ok"
        secret = {"event": "secret", "payload": {}}
        await push(member, v2("broadcast", secret, "2", NEAR[0]))
        assert [frame[4]["event"] for frame in received(member)] == ["secret"]
        assert [received(client) for client in others] == [[]] * len(NEAR)
        for client, topic in zip(others, NEAR, strict=True):
            await push(client, v2("broadcast", secret, "2", topic))
        assert received(member) == []
        assert [received(client) for client in others] == [[]] * len(NEAR)
