"""Does any client break the promise: every frame is answered, ignored, or closes the socket
with a code and a reason?

    python -m tests.fuzz.fuzz_phoenix COUNT [SEED]

tries COUNT conversations, says what became of their frames, and fails with the first one that
broke the promise. The same conversations for the same seed.

A conversation is a few frames to one socket, of either version. A frame is one that stock
clients send, text or binary, mostly with some mutations: a member replaced by another value,
a stretch of the text or the bytes replaced, cut or doubled; or it is anything at all. Joins are
accepted or put off as a server would, tokens are refused at times. Whatever is sent back must be
a frame that the version's own serializer can read, with the ref that it answers.
"""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import orjson

from realtime_server.errors import JoinError
from realtime_server.fanout.presence_state import Entry
from realtime_server.phoenix.actions import (
    Action,
    Channel,
    Close,
    Join,
    Publish,
    Refresh,
    RefuseBinary,
    RefuseBroadcast,
    RefusePayload,
    RefusePresence,
    Release,
    Send,
    Subscribe,
    Track,
    Untrack,
)
from realtime_server.phoenix.broadcasts import Broadcast, broadcast_json
from realtime_server.phoenix.joins import parse_join
from realtime_server.phoenix.message_handler import SocketState
from realtime_server.phoenix.messages import Message
from realtime_server.phoenix.serializers import SERIALIZERS
from tests.fuzz.command_line import main

__all__ = ["BrokenPromiseError", "any_frame", "run"]

CONFIG: dict[str, Any] = {
    "broadcast": {"ack": True, "self": False},
    "presence": {"key": "", "enabled": False},
    "postgres_changes": [
        {"event": "*", "schema": "public", "table": "todos", "filter": "id=eq.1", "select": ["id"]},
        {"event": "INSERT", "schema": "*"},
        {
            "event": "DELETE",
            "schema": "public",
            "table": "t",
            "filter": "a=in.(1,2)",
            "leaves": True,
        },
    ],
    "postgres_changes_options": {"wait": True, "timeout": 15000},
    "private": False,
}
BROADCAST = {"type": "broadcast", "event": "cursor", "payload": {"x": 1}}
FRAMES: list[tuple[str, str, Any]] = [
    ("realtime:room", "phx_join", {"config": CONFIG, "access_token": "eyJ"}),
    ("realtime:room", "phx_join", {"config": CONFIG}),
    ("realtime:public:todos:id=eq.1", "phx_join", {"user_token": "eyJ"}),
    ("realtime:room", "phx_leave", {}),
    ("realtime:room", "access_token", {"access_token": "eyJ"}),
    ("realtime:room", "broadcast", BROADCAST),
    ("realtime:room", "presence", {"type": "presence", "event": "track", "payload": {"x": [1]}}),
    ("realtime:room", "presence", {"event": "UNTRACK", "payload": {"phx_ref": "mine"}}),
    ("realtime:room", "dance", None),
    ("phoenix", "heartbeat", {}),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 2**53, 2**64, 10**40),
    *("", "*", "realtime:", "\0", "漢", "id=eq."),
    *([], {}, [[]], {"": None}, ["x"] * 101, "x" * 5000),
]  # fmt: skip
PIECES = [
    '"',
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\\",
    "\\ud800",
    "1e999",
    "null",
    "\0",
    "漢",
    "9" * 5000,
]
DEEP = "[" * 1000 + "]" * 1000
MAX_PAYLOAD = 3000
MAX_PRESENCE = 1000
CHUNK = 1000
CLOSE_CODES = (1003, 1007, 1008)
MAX_REASON = 123
"""Bytes that fit into a close frame (RFC 6455, section 5.5)."""


class BrokenPromiseError(Exception):
    """A conversation that went wrong."""

    def __init__(self, frames: list[str | bytes], what: object = "") -> None:
        self.frames = frames
        super().__init__(f"{frames!r:.4000} {what!r}")


def run(count: int, seed: int = 0) -> Counter[str]:
    """Try ``count`` conversations; return what became of how many frames.

    Raises:
        BrokenPromiseError: with the frames, and the seed and chunk that make them again.
    """
    outcomes: Counter[str] = Counter()
    for chunk, start in enumerate(range(0, count, CHUNK)):
        random = Random(f"{seed} {chunk}")
        try:
            for _ in range(min(CHUNK, count - start)):
                _Conversation(random, outcomes).hold()
        except BrokenPromiseError as error:
            error.add_note(f"seed {seed}, chunk {chunk}")
            raise
    return outcomes


class _Conversation:
    """One socket: what it was sent, and what it does."""

    def __init__(self, random: Random, outcomes: Counter[str]) -> None:
        self._random = random
        self._outcomes = outcomes
        self._vsn = random.choice(["1.0.0", "2.0.0"])
        self._serializer = SERIALIZERS[self._vsn]
        self._state = SocketState(
            self._serializer,
            max_payload_bytes=MAX_PAYLOAD,
            serves_broadcast=random.random() < 0.8,
            max_presence_bytes=MAX_PRESENCE if random.random() < 0.8 else None,
        )
        self._subscribed: set[Channel] = set()
        self._postponed: set[Channel] = set()
        self._frames: list[str | bytes] = []

    def hold(self) -> None:
        for _ in range(self._random.randint(1, 6)):
            self._frames.append(any_frame(self._random, self._vsn))
            try:
                outcome = self._receive(self._frames[-1])
            except BrokenPromiseError:
                raise
            except Exception as error:
                raise BrokenPromiseError(self._frames) from error
            self._outcomes[outcome] += 1
            if outcome.startswith("closed"):
                return

    def _receive(self, data: str | bytes) -> str:
        actions = self._state.receive(data)
        if len(actions) == 1 and isinstance(actions[0], Close):
            code, reason = actions[0].code, actions[0].reason
            self._hold(code in CLOSE_CODES and 0 < len(reason.encode()) <= MAX_REASON, actions)
            self._hold(self._state.receive(data) == [], "it goes on after the end")
            return f"closed {code}"
        sent = self._perform(actions)
        if self._state.is_waiting and self._random.random() < 0.5:
            sent += self._perform(self._state.part())
        channels = self._state.channels.values()
        self._hold(
            self._subscribed == {one for one in channels if one.is_joined}
            and self._postponed == {one for one in channels if not one.is_joined},
            "channels",
        )
        return "answered" if sent else "ignored"

    def _perform(self, actions: list[Action]) -> int:
        sent = 0
        for action in actions:
            match action:
                case Send(message):
                    self._send(message)
                    sent += 1
                case Join(channel, payload):
                    sent += self._perform(self._join(channel, payload))
                case Publish(channel, message, broadcast):
                    self._hold(_is_sendable(broadcast), broadcast)
                    sent += self._perform(self._state.acknowledge(channel, message))
                case RefuseBroadcast(channel, message, reason):
                    failed = self._state.fail_broadcast(channel, message, reason, most=1)
                    sent += self._perform(failed)
                case Track(_, message, meta):
                    self._hold(_is_showable(meta), meta)
                    sent += self._perform(self._state.confirm(message))
                case Untrack(_, message):
                    sent += self._perform(self._state.confirm(message))
                case RefusePresence(message, why):
                    sent += self._perform(self._state.refuse(message, why.told(most=1)))
                case RefusePayload(message) | RefuseBinary(message):
                    sent += self._perform(self._state.refuse(message, "no"))
                case Refresh(channel, _) if self._random.random() < 0.2:
                    sent += self._perform(self._state.end(channel, "expired"))
                case Subscribe(channel):
                    self._subscribed.add(channel)
                case Release(channel):
                    (self._subscribed if channel.is_joined else self._postponed).remove(channel)
                case Close():
                    self._hold(False, "more than the end")
        return sent

    def _join(self, channel: Channel, payload: Any) -> list[Action]:
        try:
            config = parse_join(payload)
        except JoinError as error:
            self._outcomes["refused join"] += 1
            return self._state.refuse_join(channel, error.reason)
        if config is not None and config.wait is not None and self._random.random() < 0.5:
            self._postponed.add(channel)
            self._state.postpone(channel)
            return []
        self._outcomes["accepted join"] += 1
        return self._state.accept(channel, config)

    def _send(self, message: Message) -> None:
        data = self._serializer.encode(message)
        again = self._serializer.decode(data.decode())
        self._hold(
            (again.topic, again.event, again.payload, again.ref)
            == (message.topic, message.event, message.payload, message.ref),
            message,
        )

    def _hold(self, kept: bool, what: object) -> None:
        if not kept:
            raise BrokenPromiseError(self._frames, what)


def _is_sendable(broadcast: Broadcast) -> bool:
    """Return whether every client can read what it is sent of a broadcast."""
    if not broadcast.is_json:
        return broadcast.size <= MAX_PAYLOAD
    sent = json.loads(broadcast_json(broadcast), parse_constant=_refuse)
    return sent.keys() == {"type", "event", "payload"} and sent["event"] == broadcast.event


def _is_showable(meta: bytes) -> bool:
    """Return whether every client can read what it is sent of a member."""
    entry = Entry(b'"key"', meta, "r" * 16)
    entry.before = "b" * 16
    shown = orjson.loads(entry.rendered())
    return (
        len(meta) <= MAX_PRESENCE
        and (shown["phx_ref"], shown["phx_ref_prev"]) == ("r" * 16, "b" * 16)
        and shown == {**orjson.loads(meta), **shown}
        and meta.count(b'"phx_ref') == 0
    )


def _refuse(name: str) -> None:
    raise ValueError(name)


# Frames.


def any_frame(random: Random, vsn: str) -> str | bytes:
    """Return a frame of a client, torn in whatever way."""
    kind = random.random()
    if kind < 0.05:
        return random.choice([random.randbytes(random.randrange(40)), _noise(random), DEEP])
    topic, event, payload = random.choice(FRAMES)
    if kind < 0.25:
        return _binary(random)
    for _ in range(random.choice([0, 0, 0, 1, 1, 2])):
        payload = _replaced(random, payload)
    ref: Any = random.choice(["1", "2", 1, None])
    join_ref: Any = random.choice(["1", None, "9"])
    frame: Any = {"topic": topic, "event": event, "payload": payload, "ref": ref}
    if vsn == "2.0.0":
        frame = [join_ref, ref, topic, event, payload]
    elif random.random() < 0.5:
        frame["join_ref"] = join_ref
    if random.random() < 0.25:
        frame = _replaced(random, frame)
    text = json.dumps(frame)
    if random.random() < 0.05:
        text = text.replace(random.choice(['"*"', "{}", '"id=eq.1"']), DEEP)
    if random.random() < 0.2:
        text = _torn(random, text, random.choice(PIECES))
    return text


def _replaced(random: Random, value: Any) -> Any:
    """Return a JSON value with one part of it replaced by another value, or gone."""
    if not value or not isinstance(value, (dict, list)) or random.random() < 0.15:
        return random.choice(VALUES)
    if isinstance(value, list):
        place = random.randrange(len(value))
        return [
            _replaced(random, item) if index == place else item for index, item in enumerate(value)
        ]
    name = random.choice(list(value))
    rest = {key: item for key, item in value.items() if key != name}
    return rest if random.random() < 0.1 else {**rest, name: _replaced(random, value[name])}


def _torn(random: Random, text: str, piece: str) -> str:
    start = random.randrange(len(text) + 1)
    end = min(start + random.choice([0, 1, 2, 10]), len(text))
    return random.choice(
        [text[:start] + piece + text[end:], text[:start] + text[end:], text[:end] + text[start:]]
    )


def _binary(random: Random) -> bytes:
    parts = [b"1", b"2", b"realtime:room", b"cursor", random.choice([b"", b'{"persist":true}'])]
    payload = random.choice([b'{"x":1}', b"\xff\0", b"", b"x" * MAX_PAYLOAD])
    data = bytes([3, *map(len, parts), random.choice([0, 1])]) + b"".join(parts) + payload
    for _ in range(random.choice([0, 1, 1, 2])):
        at = random.randrange(len(data))
        end = min(at + random.choice([0, 1, 3]), len(data))
        data = data[:at] + random.randbytes(random.choice([0, 1, 2])) + data[end:] or b"\0"
    return data


def _noise(random: Random) -> str:
    return "".join(random.choice(PIECES) for _ in range(random.randrange(12)))


if __name__ == "__main__":
    main(run, "conversations", "all kept the promise")
