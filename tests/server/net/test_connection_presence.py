"""Clients that are present in rooms, from frame to frame. No network, and no time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from realtime_server.fanout.presence import Presence, PresenceLimits
from realtime_server.net import connection as connection_module
from tests.server.net.test_connection import Client, open_connection
from tests.server.net.test_connection_rooms import make_rooms, push, received, reply, v2
from tests.waiting import eventually

DATA = Path(__file__).parents[2] / "data" / "presence_frames.jsonl"
TOPIC = "realtime:room"
REF = re.compile(r'"(REF\d+|UUID\d+)"')


class World:
    """A server's rooms, whose intervals take no time."""

    def __init__(self, **limits: int) -> None:
        self.rooms = make_rooms()
        refs = count(1)
        asked: dict[str, Any] = {"members": 10_000, "state_bytes": 1 << 21, **limits}
        self.presence = Presence(
            self.rooms,
            PresenceLimits(interval=0.0, **asked),
            later=self._later,
            clock=lambda: 0.0,
            new_ref=lambda: f"ref{next(refs):013}",
        )

    def _later(self, _: float, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(call)

    def open(self, vsn: str = "2.0.0", **settings: int) -> Any:
        return open_connection(rooms=self.rooms, presence=self.presence, vsn=vsn, **settings)

    @contextlib.asynccontextmanager
    async def joined(self, *keys: Any, **settings: int) -> AsyncIterator[list[Client]]:
        """Yield clients that have joined with these keys, and got their states."""
        async with contextlib.AsyncExitStack() as stack:
            clients = []
            for key in keys:
                client = await stack.enter_async_context(self.open(**settings))
                await join(client, key=key)
                clients.append(client)
            for client in clients:
                received(client)
            yield clients


async def join(client: Client, **presence: Any) -> None:
    await push(client, v2("phx_join", {"config": {"presence": presence}}, "1"))


async def track(client: Client, payload: Any, ref: str = "2", event: str = "track") -> None:
    await push(client, v2("presence", {"event": event, "payload": payload}, ref))


def state(metas: dict[str, list[Any]]) -> list[Any]:
    return [None, None, TOPIC, "presence_state", _metas(metas)]


def diff(joins: dict[str, list[Any]], leaves: dict[str, list[Any]]) -> list[Any]:
    return [None, None, TOPIC, "presence_diff", {"joins": _metas(joins), "leaves": _metas(leaves)}]


def _metas(found: dict[str, list[Any]]) -> Any:
    return {key: {"metas": metas} for key, metas in found.items()}


def ref(number: int, before: int | None = None) -> dict[str, str]:
    named = {"phx_ref": f"ref{number:013}"}
    return named if before is None else {**named, "phx_ref_prev": f"ref{before:013}"}


# What stock clients send, as it was recorded, and what the original answers.


def scenarios() -> dict[tuple[str, str], list[dict[str, Any]]]:
    found = defaultdict(list)
    for line in DATA.read_text(encoding="utf-8").splitlines():
        frame = json.loads(line)
        found[frame["client"], frame["scenario"]].append(frame)
    return found


def expected(frame: dict[str, Any], scenario: str) -> Any:
    """Return what this server sends where the original sends a frame; None: nothing."""
    message = json.loads(frame["text"])
    if isinstance(message, dict):
        event, payload = message["event"], message["payload"]
    else:
        event, payload = message[3:]
        if event == "presence_state":
            # All members share its bytes.
            message[0] = None
    if event == "presence_diff" and (scenario, frame["conn"]) == ("presence_auto", "b"):
        # It is in the state already.
        return None
    if event == "phx_reply" and payload == {"status": "error", "response": {}}:
        payload["response"] = {"reason": "the event of a presence message is track or untrack"}
    return message


class Names:
    """What a server made up, by the name that the record has for it."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def fits(self, told: Any, got: Any) -> bool:
        """Return whether a frame is the one that was told, and note what the names stand for."""
        pattern = re.escape(json.dumps(told, sort_keys=True))
        places: list[str] = []

        def place(match: re.Match[str]) -> str:
            places.append(match[1])
            return '"([^"]+)"'

        found = re.fullmatch(REF.sub(place, pattern), json.dumps(got, sort_keys=True))
        if found is None:
            return False
        for name, text in zip(places, found.groups(), strict=True):
            length = 16 if name.startswith("REF") else 36
            if len(text) != length or self._found.setdefault(name, text) != text:
                return False
        return len({*self._found.values()}) == len(self._found)


@pytest.mark.slow
@pytest.mark.parametrize(("client", "scenario"), sorted(scenarios()))
async def test_recorded_clients_get_what_they_got(
    client: str, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "NEXT_WITHIN", 0.01)
    told: dict[str, list[Any]] = defaultdict(list)
    got: dict[str, list[Any]] = defaultdict(list)
    world = World()
    async with contextlib.AsyncExitStack() as stack:
        sockets: dict[str, Client] = {}

        def receive() -> None:
            for each, socket in sockets.items():
                got[each] += received(socket)

        def complete() -> bool:
            receive()
            return all(len(got[name]) >= len(told[name]) for name in told)

        for frame in scenarios()[client, scenario]:
            name = frame["conn"]
            match frame["dir"]:
                case "open":
                    if scenario == "rejoin":
                        # The connection before it was lost.
                        for socket in sockets.values():
                            socket.websocket.hang_up()
                            await asyncio.wait({socket.running})
                    opened = world.open(frame["url"].partition("vsn=")[2])
                    sockets[name] = await stack.enter_async_context(opened)
                case "c2s":
                    # With vsn=1.0.0 a leave's phx_close waits for the next message.
                    await eventually(complete)
                    await push(sockets[name], frame["text"])
                case "s2c":
                    if (message := expected(frame, scenario)) is not None:
                        told[name].append(message)
        await eventually(complete)
    names = Names()
    for name in sockets:
        assert len(got[name]) == len(told[name]), (told[name], got[name])
        for one, other in zip(told[name], got[name], strict=True):
            assert names.fits(one, other), f"{other} instead of {one}"


# Replies, and what follows them.


async def test_the_answer_comes_before_the_diff() -> None:
    async with World().joined("ann", "bob") as [ann, bob]:
        await track(ann, {"n": 1})
        told = diff({"ann": [{"n": 1, **ref(1)}]}, {})
        assert received(ann) == [reply("ok", {}), told]
        assert received(bob) == [told]
        await track(ann, {}, "3", "UnTrack")
        told = diff({}, {"ann": [{"n": 1, **ref(1)}]})
        assert received(ann) == [reply("ok", {}, "3"), told]
        # Once more there is nothing to tell.
        await track(ann, {}, "4", "untrack")
        assert (received(ann), len(received(bob))) == ([reply("ok", {}, "4")], 1)


@pytest.mark.slow
async def test_keys_are_texts_and_each_channel_without_one_gets_its_own() -> None:
    keys = ["é😀", 7, 1.5, True, "__proto__", "constructor", "x" * 255, None, ""]
    async with World().joined(*keys) as clients:
        for number, client in enumerate(clients):
            await track(client, {"number": number})
            for each in clients:
                received(each)
        await join(clients[0], key="last")
        (_, frame) = received(clients[0])
        found = {entry["metas"][0]["number"]: key for key, entry in frame[4].items()}
        # The channel that joined again is not there any more.
        assert [found.get(number) for number in range(7)] == [
            *(None, "7", "1.5", "true", "__proto__", "constructor", "x" * 255),
        ]
        assert len({found[7], found[8]}) == 2
        assert all(re.fullmatch(r"[0-9a-f-]{36}", found[number]) for number in (7, 8))


async def test_values_are_kept_as_they_came_and_refs_are_the_servers() -> None:
    kept = '{"big":12345678901234567890.10,"x":1,"é":{"b":1,"a":[1e5]},"metas":{}'
    sent = '{"phx_ref":"mine", "big": 12345678901234567890.10,"x":0,"\\u00e9":{"b":1,"a":[1e5]},'
    sent += '"metas":{},"phx_ref_prev":[1],"x":1,"presence_ref":{}}'
    async with World().joined("ann") as [ann]:
        await push(ann, f'["1","2","{TOPIC}","presence",{{"event":"track","payload":{sent}}}]')
        data = ann.websocket.transport.sent()
    assert kept.encode() + b',"phx_ref":"ref' in data
    assert b"mine" not in data
    assert b"presence_ref" not in data


HOSTILE: list[tuple[str, Any, str]] = [
    ("no object", 5, "Presence track payload must be a map"),
    ("a list", [{}], "Presence track payload must be a map"),
    ("null", None, "Presence track payload must be a map"),
    ("half a character", {"x": "\ud83d"}, "half a character"),
    ("half a name", {"\ud83d": 1}, "half a character"),
    ("a large number", '{"x":1e999}', "half a character, or a number that is too large"),
    ("deep", '{"x":' + "[" * 200 + "]" * 200 + "}", "nested more than 100 deep"),
    ("deeper", '{"x":' + "[" * 990 + "]" * 990 + "}", "nested more than 100 deep"),
    ("large", {"x": "x" * 1020}, "PresenceTooLarge"),
    ("large names", {"é" * 600: 1}, "PresenceTooLarge"),
]


@pytest.mark.parametrize(
    ("payload", "reason"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE]
)
async def test_what_others_could_not_read_is_not_shown_and_the_channel_stays(
    payload: Any, reason: str
) -> None:
    text = payload if isinstance(payload, str) else json.dumps(payload)
    limit = 1024 if "Large" in reason else 8192
    async with World().joined("ann", "bob", max_presence_bytes=limit) as [ann, bob]:
        await push(ann, f'["1","2","{TOPIC}","presence",{{"event":"track","payload":{text}}}]')
        (answer,) = received(ann)
        assert answer[:4] == ["1", "2", TOPIC, "phx_reply"]
        assert answer[4]["status"] == "error"
        assert reason in answer[4]["response"]["reason"]
        assert received(bob) == []
        await track(ann, {})
        assert received(bob) == [diff({"ann": [ref(1)]}, {})]
        code = "too_large" if "Large" in reason else "invalid"
        assert ann.counted(f'realtime_presence_refused_total{{code="{code}"}} 1.0')


@pytest.mark.parametrize("payload", [{}, {"event": "dance"}, {"event": 7}, [], "track", None])
async def test_other_events_are_refused(payload: Any) -> None:
    async with World().joined("ann") as [ann]:
        await push(ann, v2("presence", payload))
        told = {"reason": "the event of a presence message is track or untrack"}
        assert received(ann) == [reply("error", told)]


async def test_a_large_frame_is_not_looked_into() -> None:
    async with World().joined("ann") as [ann]:
        await push(ann, v2("presence", {"event": "track", "payload": {}, "junk": "x" * 80_000}))
        (answer,) = received(ann)
        assert answer[4]["response"]["reason"].startswith("PresenceTooLarge")


# Limits.


async def test_calls_are_limited_and_the_channel_stays() -> None:
    async with World().joined("ann", "bob", max_presence_calls_per_second=3) as [ann, bob]:
        for number in range(5):
            await track(ann, {"n": number}, str(number), ("track", "untrack")[number % 2])
        answers = [frame[4] for frame in received(ann) if frame[3] == "phx_reply"]
        assert [answer["status"] for answer in answers] == ["ok", "ok", "ok", "error", "error"]
        assert answers[3]["response"]["reason"] == (
            "ClientPresenceRateLimitReached: more than 3 presence messages of a channel in a "
            "second (MAX_PRESENCE_CALLS_PER_SECOND); wait"
        )
        # Others have their own.
        received(bob)
        await track(bob, {})
        assert len(received(ann)) == 1


async def test_a_full_room_refuses_others_and_stays_as_it_is() -> None:
    world = World(members=1, state_bytes=400)
    async with world.joined("ann", "bob") as [ann, bob]:
        await track(ann, {"n": 1})
        received(bob)
        await track(bob, {})
        (answer,) = received(bob)
        assert answer[4]["response"]["reason"] == (
            "PresenceLimitReached: 1 members of the room are tracked, the most there may be "
            "(MAX_PRESENCE_MEMBERS)"
        )
        await track(ann, {"x": "x" * 400}, "3")
        (*_, answer) = received(ann)
        assert "400 bytes (MAX_PRESENCE_STATE_BYTES)" in answer[4]["response"]["reason"]
        assert received(bob) == []
        assert ann.counted('realtime_presence_refused_total{code="limit_reached"} 1.0')


# Members.


async def test_who_does_not_ask_gets_nothing_until_it_tracks() -> None:
    world = World()
    async with world.joined("ann") as [ann], world.open() as quiet, world.open() as old:
        await join(quiet, key="quiet", enabled="False")
        # A client that knows no such member, and one that does not know presence.
        await push(old, v2("phx_join", {"config": {}}, "1"))
        await track(ann, {})
        assert [len(received(client)) for client in (quiet, old)] == [1, 1]
        await track(quiet, {"q": 1})
        shown = {"ann": [ref(1)], "quiet": [{"q": 1, **ref(2)}]}
        assert received(quiet) == [reply("ok", {}), state(shown)]
        await track(old, {})
        assert [frame[3] for frame in received(old)] == ["phx_reply", "presence_state"]


async def test_a_lost_connection_takes_its_members_along() -> None:
    world = World()
    async with world.joined("ann", "bob") as [ann, bob]:
        await track(bob, {})
        received(ann)
        bob.websocket.hang_up(1006)
        await asyncio.wait({bob.running})
        await ann.settle()
        assert received(ann) == [diff({}, {"bob": [ref(1)]})]


async def test_a_push_of_an_earlier_membership_is_ignored() -> None:
    async with World().joined("ann") as [ann]:
        await push(ann, json.dumps(["0", "2", TOPIC, "presence", {"event": "track"}]))
        assert received(ann) == []
