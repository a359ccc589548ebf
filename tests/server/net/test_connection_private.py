"""What today's clients were recorded to send to private channels, and what they get. No network.

The database is a stand-in: the real one is asked in tests/integration/test_private_channels.py.
"""

from __future__ import annotations

import asyncio
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
from realtime_server.net import channel_queues
from realtime_server.net.private_channels import PrivateChannels
from realtime_server.phoenix.broadcasts import Broadcast
from realtime_server.phoenix.joins import ReplayConfig
from realtime_server.phoenix.messages import Message
from realtime_server.phoenix.serializers import V2Serializer
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


class SlowChecks:
    """Policies that answer about the topic "slow" when they are let, and else at once."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked: list[str] = []
        self.fails = False

    async def ask(self, question: Question) -> Answer:
        self.asked.append(question.topic)
        if question.topic.startswith("slow"):
            await self.go.wait()
        if self.fails:
            raise ZeroDivisionError
        return Answer(frozenset(question.extensions))


def with_checks(checks: SlowChecks) -> PrivateChannels:
    return PrivateChannels(
        cast(PolicyChecks, checks), cast(StoredMessages, Stored()), (), make_metrics()
    )


def private_join(topic: str, ref: str, **more: Any) -> str:
    config = {"private": True, "broadcast": {"ack": True}, **more}
    return json.dumps([ref, ref, f"realtime:{topic}", "phx_join", {"config": config}])


def said(client: Client) -> list[tuple[Any, ...]]:
    """Return topic, ref, event and status of what a client got."""
    return [
        (topic.removeprefix("realtime:"), ref, event, told.get("status"))
        for _, ref, topic, event, told in received(client)
    ]


def send(topic: str, event: str, payload: Any, ref: str, join_ref: str = "1") -> str:
    return json.dumps([join_ref, ref, f"realtime:{topic}", event, payload])


async def test_a_channel_that_waits_for_policies_holds_up_no_other() -> None:
    checks, rooms = SlowChecks(), make_rooms()
    async with open_connection(
        Tokens(), rooms=rooms, private=with_checks(checks), vsn="2.0.0"
    ) as client:
        message = {"event": "m", "payload": 1}
        await push(
            client,
            private_join("slow", "1"),
            send("slow", "broadcast", message, "2"),
            send("slow", "phx_leave", {}, "3"),
            json.dumps(["4", "4", "realtime:open", "phx_join", {"config": {}}]),
            private_join("quick", "5"),
            send("quick", "broadcast", message, "6", "5"),
            json.dumps([None, "7", "phoenix", "heartbeat", {}]),
        )
        assert sorted(said(client)) == [
            ("open", "4", "phx_reply", "ok"),
            ("phoenix", "7", "phx_reply", "ok"),
            ("quick", "5", "phx_reply", "ok"),
            ("quick", "6", "phx_reply", "ok"),
        ]
        checks.go.set()
        await client.settle()
        # In the order sent: what was sent before the leave is sent, and answered.
        assert said(client) == [
            ("slow", "1", "phx_reply", "ok"),
            ("slow", "2", "phx_reply", "ok"),
            ("slow", "3", "phx_reply", "ok"),
            ("slow", "1", "phx_close", None),
        ]
        assert rooms.stats().members == 2


async def test_a_first_push_and_a_new_token_hold_up_no_other_channel() -> None:
    checks, rooms = SlowChecks(), make_rooms()
    checks.go.set()
    async with open_connection(
        Tokens(), rooms=rooms, private=with_checks(checks), vsn="2.0.0"
    ) as client:
        await push(client, private_join("slow", "1"), private_join("quick", "2"))
        assert len(said(client)) == 2
        message = {"event": "m", "payload": 1}
        for first in (
            send("slow", "broadcast", message, "3"),
            send("slow", "access_token", {"access_token": "new"}, "3"),
        ):
            checks.go.clear()
            await push(
                client,
                first,
                send("slow", "broadcast", message, "4"),
                send("quick", "broadcast", message, "5", "2"),
            )
            assert said(client) == [("quick", "5", "phx_reply", "ok")]
            checks.go.set()
            await client.settle()
            answered = [ref for _, ref, _, _ in said(client)]
            assert answered == (["3", "4"] if "broadcast" in first else ["4"])
        # Then all is decided on, and nobody is asked.
        asked = len(checks.asked)
        await push(client, send("slow", "broadcast", message, "6"))
        assert (said(client), len(checks.asked)) == ([("slow", "6", "phx_reply", "ok")], asked)


async def test_a_message_to_another_channel_is_decoded_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[str | bytes] = []
    decode = V2Serializer.decode

    def counted(self: V2Serializer, data: str | bytes) -> Message:
        decoded.append(data)
        return decode(self, data)

    monkeypatch.setattr(V2Serializer, "decode", counted)
    checks = SlowChecks()
    async with open_connection(
        Tokens(), rooms=make_rooms(), private=with_checks(checks), vsn="2.0.0"
    ) as client:
        sent = [private_join("slow", "1"), private_join("quick", "2")]
        await push(client, *sent)
        assert said(client) == [("quick", "2", "phx_reply", "ok")]
        assert decoded == sent
        client.websocket.incoming.put_nowait("[")
        await client.settle()
        assert client.websocket.closed is not None
        checks.go.set()


async def test_whoever_sends_much_to_a_channel_that_waits_is_read_no_further() -> None:
    checks = SlowChecks()
    async with open_connection(
        Tokens(), rooms=make_rooms(), private=with_checks(checks), vsn="2.0.0"
    ) as client:
        await push(client, private_join("slow", "1"))
        large = {"event": "m", "payload": "x" * 160_000}
        for number in range(10):
            client.websocket.incoming.put_nowait(send("slow", "broadcast", large, str(number)))
        for _ in range(50):
            await asyncio.sleep(0)
        assert client.websocket.incoming.qsize() == 10 - 7
        checks.go.set()
        await client.settle()
        assert [ref for _, ref, _, _ in said(client)] == ["1", *map(str, range(10))]


async def test_so_is_whoever_joins_many_channels_that_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else one client could have the server keep all that it sends while the database is slow."""
    monkeypatch.setattr(channel_queues, "MAX_HELD", 1000)
    checks = SlowChecks()
    async with open_connection(
        Tokens(), rooms=make_rooms(), private=with_checks(checks), vsn="2.0.0"
    ) as client:
        for number in range(3):
            join = private_join(f"slow{number}", str(number), filling="x" * 800)
            client.websocket.incoming.put_nowait(join)
        for _ in range(50):
            await asyncio.sleep(0)
        read = len(checks.asked), client.websocket.incoming.qsize()
        checks.go.set()
        assert read == (2, 1)
        await client.settle()
        assert [ref for _, ref, _, _ in said(client)] == ["0", "1", "2"]


async def test_nothing_is_kept_of_channels_whose_client_goes_while_policies_are_asked() -> None:
    checks, rooms = SlowChecks(), make_rooms()
    async with open_connection(
        Tokens(), rooms=rooms, private=with_checks(checks), vsn="2.0.0"
    ) as client:
        replayed = {"broadcast": {"replay": {"since": 0}}}
        await push(client, private_join("slow", "1", **replayed), private_join("quick", "2"))
        assert rooms.stats().members == 1
        client.websocket.hang_up()
        for _ in range(10):
            await asyncio.sleep(0)
        # Those that were joined leave at once.
        assert rooms.stats().members == rooms.stats().rooms == 0
        assert not client.running.done()
        checks.go.set()
        await client.running
        assert rooms.stats().rooms == 0
        assert client.counted("realtime_active_websocket_topic_total 0.0")


async def test_a_defect_ends_the_connection_and_leaves_nothing_held(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Stored):
        async def read(self, *_: Any, **__: Any) -> list[Broadcast] | None:
            raise ZeroDivisionError

    rooms = make_rooms()
    private = PrivateChannels(
        cast(PolicyChecks, SlowChecks()), cast(StoredMessages, Broken()), (), make_metrics()
    )
    async with open_connection(Tokens(), rooms=rooms, private=private, vsn="2.0.0") as client:
        await push(client, private_join("quick", "1", broadcast={"replay": {"since": 0}}))
        await client.running
        assert client.websocket.closed == (1011, "")
        assert rooms.stats().rooms == 0
    assert "a bug in realtime_server" in caplog.text
