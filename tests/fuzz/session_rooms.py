"""What a client may say in rooms, public and private ones."""

from __future__ import annotations

from random import Random
from typing import Final

from tests.fuzz.session_envelopes import VALUES, envelope, quoted
from tests.fuzz.session_tokens import GOOD, OTHER, make_token

__all__ = ["PUSHES", "ROOM", "make_binary", "make_room_message"]

ROOM: Final = "realtime:room"
"""Where most of it is said."""

_TOPICS: Final = [*[ROOM] * 8, "realtime:Room", "realtime:private:room"]
PUSHES: Final = [
    ("broadcast", '"m"', '"y":1'),
    ("presence", '"track"', '"phx_ref":"mine"'),
    ("presence", '"TRACK"', '"metas":[]'),
    ("presence", '"untrack"', '"y":1'),
]
"""Events, with the events in their payloads, and members of what is in these."""
_BROADCASTS: Final = [
    '{"ack":true,"self":true}',
    '{"ack":true}',
    '{"bytes":false,"self":"TRUE"}',
    '{"replay":{"since":0,"limit":25}}',
    '{"replay":{"limit":1},"ack":true}',
    "null",
]
_PRESENCES: Final = ['{"enabled":true,"key":"a"}', "{}", '{"key":"__proto__"}', "null"]


def make_room_message(random: Random, vsn: str) -> tuple[str, str, bool]:
    """Return a message of a client that talks in rooms: its kind, its text, whether it joins."""
    topic = quoted(random.choice(_TOPICS))
    kind = random.random()
    if kind < 0.35:
        private = random.choice(("true", "true", "true", "false", '"True"'))
        config = (
            f'{{"private":{private},"broadcast":{random.choice(_BROADCASTS)},'
            f'"presence":{random.choice(_PRESENCES)}}}'
        )
        payload = f'{{"config":{config},"access_token":{quoted(_token(random))}}}'
        return "room join", envelope(random, vsn, topic, '"phx_join"', payload), True
    if kind < 0.65:
        event, told, values = PUSHES[0] if random.random() < 0.6 else random.choice(PUSHES)
        inner = f'{{"x":{random.choice(VALUES)},{values}}}'
        payload = f'{{"event":{told},"payload":{inner}}}'
        return f"room {event}", envelope(random, vsn, topic, f'"{event}"', payload), False
    if kind < 0.9:
        payload = f'{{"access_token":{quoted(_token(random))}}}'
        return "room token", envelope(random, vsn, topic, '"access_token"', payload), False
    return "room leave", envelope(random, vsn, topic, '"phx_leave"', "{}"), False


def _token(random: Random) -> object:
    # Another good one is decided on anew.
    return random.choice((GOOD, OTHER)) if random.random() < 0.8 else make_token(random)


def make_binary(random: Random) -> bytes:
    """Return a push of kind 3, or one that is torn."""
    parts = [b"1", b"2", b"realtime:room", b"cursor", random.choice((b"", b'{"persist":true}'))]
    payload = random.choice((b'{"x":1}', b"\xff\0", b"", b"x" * 3000, b"[" * 900))
    data = bytes([3, *map(len, parts), random.choice((0, 1))]) + b"".join(parts) + payload
    for _ in range(random.choice((0, 1, 1, 2))):
        at = random.randrange(len(data))
        end = min(at + random.choice((0, 1, 3)), len(data))
        data = data[:at] + random.randbytes(random.choice((0, 1, 2))) + data[end:] or b"\0"
    return data
