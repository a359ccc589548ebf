"""What a client may send: messages of all kinds, a few of them made to take long.

They are written as text, not made of Python's objects: so a name can come twice, a number can be
as long as it likes, and ten million are made soon enough.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import attrs

from realtime_core import FilterError
from realtime_core.filters import parse_filter
from realtime_server.phoenix.joins import MAX_WEIGHT
from tests.fuzz.session_envelopes import VALUES, envelope, quoted
from tests.fuzz.session_filters import long_filter, make_filter, some_conditions
from tests.fuzz.session_frames import BINARY, TEXT, deflated, fragments, frame, odd_frames
from tests.fuzz.session_rooms import PUSHES, make_binary, make_room_message
from tests.fuzz.session_tokens import long_tokens, make_token

__all__ = ["EXPENSIVE", "MOST", "Sent", "make_message"]

MOST: Final = 65_536
"""Bytes of a message, frames included."""
EXPENSIVE: Final = 0.005
"""The share of messages that are made to take long: each takes as long as a hundred others."""
ENVELOPE: Final = 200
"""Bytes around what fills a message."""

TOPICS: Final = [
    *("realtime:room", "realtime:room", "realtime:room 2", "realtime:public:todos"),
    *("realtime:public:t", "realtime:*", "realtime:public", "realtime:", "realtime:secret:"),
    *("realtime:public:todos:id=eq.1", "realtime:public:t:c12=like.%a%", "realtime:a:b:c:d=eq.e:f"),
    *("realtime:public:t:c0=eq", "phoenix", "room", "", "realtime:public:secret", "realtime:漢"),
]
EVENTS: Final = [
    *("phx_join", "phx_leave", "phx_leave", "heartbeat", "access_token", "broadcast", "presence"),
    *("phx_close", "phx_reply", "dance", "", "postgres_changes"),
]
PIECES: Final = [
    *('"', "{", "}", "[", "]", ":", ",", "\\", "\\ud800", "1e999", "null", "\0", "漢", "\ud800"),
    *("9" * 5000, " " * 2000, '"filter":"id=eq.1",', '"config":', "[" * 1000),
]  # fmt: skip
OPTIONS: Final = [
    '"postgres_changes_options":{"wait":true,"timeout":15000}',
    '"postgres_changes_options":{"wait":true,"timeout":1e999}',
    '"broadcast":{"ack":false,"self":true}',
    '"presence":{"key":"","enabled":true}',
    '"presence":{"key":"__proto__"}',
    '"private":false',
    '"private":true',
]


@attrs.frozen
class Sent:
    """What a client sends in one go."""

    kind: str
    data: bytes
    """As it comes from the socket."""
    is_join: bool = False
    is_expensive: bool = False
    """Whether it was made to take long; then changes with long values follow."""
    is_many: bool = False
    """Whether it is many messages, of which each gives way to others: then it is asked only how
    long they wait."""


def make_message(
    random: Random,
    vsn: str,
    *,
    is_deflating: bool,
    is_talking: bool = False,
    expensive: float = EXPENSIVE,
) -> Sent:
    """Return a message of a protocol version.

    Args:
        random: decides on all of it.
        vsn: the version.
        is_deflating: whether it may be compressed.
        is_talking: whether it most probably is about a room.
        expensive: the share of messages that are made to take long.
    """
    if random.random() < expensive:
        return _expensive(random, vsn, is_deflating)
    kind = random.random()
    if is_talking and random.random() < 0.9:
        # A push of kind 3, where there are such, or any of the last.
        kind = 0.79 if kind < 0.1 else 1.0
    if kind < 0.4:
        name, text, is_join = _small(random, vsn)
    elif kind < 0.7:
        name, text, is_join = "join", _join(random, vsn), True
    elif kind < 0.76:
        _, text, is_join = _small(random, vsn) if kind < 0.72 else ("", _join(random, vsn), True)
        name, text = "torn", _torn(random, text)
    elif kind < 0.78:
        return Sent("odd frame", odd_frames(random))
    elif kind < (0.81 if vsn == "2.0.0" else 0.785):
        return Sent("binary", frame(make_binary(random), BINARY))
    else:
        name, text, is_join = make_room_message(random, vsn)
    payload = text.encode("utf-8", "surrogatepass")
    if is_deflating and random.random() < 0.3:
        return Sent(f"{name}, deflated", deflated(payload), is_join)
    if random.random() < 0.02:
        size = random.choice((1, 10, 100)) if len(payload) < 1000 else 500
        return Sent(f"{name}, in fragments", fragments(payload, size), is_join)
    return Sent(name, frame(payload), is_join)


# Usual ones.


def _small(random: Random, vsn: str) -> tuple[str, str, bool]:
    kind = random.random()
    if kind < 0.25:
        return "heartbeat", envelope(random, vsn, '"phoenix"', '"heartbeat"', "{}"), False
    topic = quoted(random.choice(TOPICS))
    if kind < 0.55:
        payload = f'{{"access_token":{quoted(make_token(random))}}}'
        return "token", envelope(random, vsn, topic, '"access_token"', payload), False
    if kind < 0.7:
        return "leave", envelope(random, vsn, topic, '"phx_leave"', "{}"), False
    if kind < 0.8:
        payload = random.choice(
            ("{}", "[]", "null", f'{{"user_token":{quoted(make_token(random))}}}')
        )
        return "join, old", envelope(random, vsn, topic, '"phx_join"', payload), True
    if kind < 0.9:
        event, told, values = random.choice(PUSHES)
        value = random.choice(VALUES)
        inner = value if random.random() < 0.5 else f'{{"x":{value},{values}}}'
        payload = f'{{"event":{told},"payload":{inner}}}'
        return event, envelope(random, vsn, topic, f'"{event}"', payload), False
    event = random.choice(EVENTS)
    text = envelope(random, vsn, topic, quoted(event), random.choice(VALUES))
    return "event", text, event == "phx_join"


def _join(random: Random, vsn: str) -> str:
    topic = quoted(random.choice(TOPICS[:6]) if random.random() < 0.9 else random.choice(TOPICS))
    bindings = ",".join(_binding(random) for _ in range(random.choice((0, 1, 1, 1, 1, 2, 3, 8))))
    members = [f'"postgres_changes":[{bindings}]']
    if random.random() < 0.3:
        members.append(random.choice(OPTIONS))
    if random.random() < 0.05:
        members.append(f'"{random.choice(("private", "broadcast", "x"))}":{random.choice(VALUES)}')
    config = f'{{"config":{{{",".join(members)}}}'
    if random.random() < 0.7:
        config += f',"access_token":{quoted(make_token(random))}'
    return envelope(random, vsn, topic, '"phx_join"', config + "}")


def _binding(random: Random) -> str:
    kind = random.random()
    if kind < 0.1:
        return random.choice(_BINDINGS)
    if kind < 0.95:
        table, extra = ("t", random.choice(_EXTRA)) if kind < 0.8 else ("todos", "")
        event = random.choice(("*", "*", "INSERT", "UPDATE", "DELETE"))
        text = quoted(make_filter(random))
        return f'{{"event":"{event}","schema":"public","table":"{table}","filter":{text}{extra}}}'
    name = random.choice(("event", "schema", "table", "filter", "select", "leaves"))
    return f'{{"schema":"public","table":"t","{name}":{random.choice(VALUES)}}}'


_BINDINGS: Final = [
    '{"event":"*","schema":"public","table":"todos"}',
    '{"event":"*","schema":"*"}',
    '{"event":"TRUNCATE","schema":"public","table":"t"}',
    '{"event":"INSERT","schema":"public","table":"secret","filter":"id=eq.1"}',
    '{"event":"INSERT","schema":"public","table":"missing"}',
    '{"event":"*","schema":"realtime","table":"subscription"}',
    '{"event":"*","schema":"public","table":"todos","select":["id"]}',
    '{"event":"*","schema":"public","table":"todos","select":["id","nothing"]}',
    "{}",
    "null",
]
_EXTRA: Final = ["", "", "", ',"leaves":true', ',"select":["c0","c12"]', ',"select":[]']


def _torn(random: Random, text: str) -> str:
    for _ in range(random.choice((1, 1, 2))):
        start = random.randrange(len(text) + 1)
        end = min(start + random.choice((0, 1, 2, 10, 100)), len(text))
        match random.randrange(4):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:end] + text[start:end] * random.choice((1, 2, 20)) + text[end:]
            case _:
                text = text[:start] + random.choice(PIECES) + text[end:]
    return text


# Those that look as if they took long.


def _expensive(random: Random, vsn: str, is_deflating: bool) -> Sent:
    make: Callable[[Random, str, int], str]
    name, make = random.choice(_MAKERS)
    most = MOST - ENVELOPE
    kind = random.random()
    if is_deflating and kind < 0.5:
        # What becomes as much as a frame may have, of few bytes.
        text = make(random, vsn, random.choice((most, 250_000, 1_000_000)))
        data = deflated(text.encode("utf-8", "surrogatepass"))
        if len(data) <= MOST:
            return Sent(f"long {name}, deflated", data, is_join=True, is_expensive=True)
    text = make(random, vsn, most if kind < 0.8 else random.randint(1000, most))
    payload = text.encode("utf-8", "surrogatepass")[: MOST - 14]
    if kind < 0.9:
        return Sent(f"long {name}", frame(payload), is_join=True, is_expensive=True)
    if kind < 0.93:
        data = fragments(payload[: MOST // 2], random.choice((8, 100, 1000)))[:MOST]
        return Sent("many fragments", data, is_join=True, is_many=True)
    if kind < 0.96:
        few = random.choice(
            (frame(b"", 9), frame(b""), frame(b"x", TEXT, first=0), odd_frames(random))
        )
        return Sent("many frames", (few * (MOST // len(few)))[:MOST], is_many=True)
    _, small, _ = _small(random, vsn)
    few = frame(small.encode("utf-8", "surrogatepass")) or b"\0"
    return Sent("many messages", (few * (MOST // len(few) + 1))[:MOST], is_many=True)


def _with_bindings(random: Random, vsn: str, bindings: list[str], rest: str = "") -> str:
    payload = f'{{"config":{{"postgres_changes":[{",".join(bindings)}]{rest}}}}}'
    return envelope(random, vsn, '"realtime:room"', '"phx_join"', payload)


def _filtered(text: str, extra: str = "") -> str:
    return f'{{"event":"*","schema":"public","table":"t","filter":{quoted(text)}{extra}}}'


def _one_filter(random: Random, vsn: str, most: int) -> str:
    extra = random.choice(_EXTRA)
    return _with_bindings(random, vsn, [_filtered(long_filter(random, most - 200), extra=extra)])


def _many_filters(random: Random, vsn: str, most: int) -> str:
    """Join with as many filters as there may be, mostly as heavy as they may be together."""
    count = random.choice((2, 8, 10, 50, 100, 100, 100, 101))
    each = most // count - 80
    extra = random.choice(_EXTRA)
    filters = [some_conditions(random, max(each - len(extra), 8)) for _ in range(min(count, 9))]
    left = MAX_WEIGHT if random.random() < 0.85 else 10**9
    bindings = []
    size = 0
    for number in range(count):
        # Another filter each, so that nothing is shared.
        text = f"c2=neq.{number}," + filters[number % len(filters)]
        weight = _weight(text)
        if weight > left:
            text = f"c2=neq.{number}," + some_conditions(random, 8)
            weight = _weight(text)
        binding = _filtered(text, extra=extra)
        size += len(binding.encode("utf-8", "surrogatepass")) + 1
        left -= weight
        if size > most - 100 or left < 0:
            break
        bindings.append(binding)
    return _with_bindings(random, vsn, bindings)


def _weight(text: str) -> int:
    try:
        return parse_filter(text).weight
    except FilterError:
        return 1


def _long_topic(random: Random, vsn: str, most: int) -> str:
    most = random.choice((4000, 4096, most))
    text = random.choice(
        (
            lambda: "public:t:" + long_filter(random, most - 20),
            lambda: ":" * most,
            lambda: "a:" * (most // 2),
            lambda: "public:t:c12=eq." + ":" * most,
            lambda: "public:t:" + "a:" * 2000 + some_conditions(random, 90),
        )
    )()
    payload = random.choice(("{}", '{"config":{}}'))
    topic = quoted("realtime:" + text[: most - 30])
    return envelope(random, vsn, topic, '"phx_join"', payload)


def _long_select(random: Random, vsn: str, most: int) -> str:
    entry = random.choice(("1", '"c12"', '"c0"', '""', "[]", '"' + "x" * 60 + '"', "null"))
    count = random.choice((10, 1600, 1601, 10**9))
    count = min(count, most // (len(entry) + 1))
    bindings = f'{{"schema":"public","table":"t","select":[{",".join([entry] * count)}]}}'
    return _with_bindings(random, vsn, [bindings] * max(min(most // len(bindings), 101), 1))


def _long_list(random: Random, vsn: str, most: int) -> str:
    entry = random.choice(
        (*_BINDINGS, "1", "[]", '{"event":1}', '{"filter":"a=b","a":[[]]}', *VALUES[:13])
    )
    count = random.choice((99, 100, 101, 10**9))
    return _with_bindings(random, vsn, [entry] * min(count, most // (len(entry) + 1)))


def _long_json(random: Random, vsn: str, most: int) -> str:
    piece = random.choice(
        (*('"\\u0041",', "1,", "[],", "[", '{"a":', "1e5,", "1.5,", "-0.0,", '"漢",', '"a":1,'),
         *('{"a":1},', "null,", "9", "9.", "\\\\", '"\\ud83d\\ude42",', "[[[]]],", " ", "e9"))
    )  # fmt: skip
    filled = piece * (most // len(piece.encode()))
    closing = random.choice(("", "]", "1]", "}", '"":1}', '"'))
    opening = random.choice(("[", "{", '"', ""))
    payload = f"{opening}{filled}{closing}"
    if random.random() < 0.5:
        payload = f'{{"config":{payload}}}'
    place = random.random()
    if place < 0.7:
        event = random.choice(('"phx_join"', '"broadcast"', '"access_token"', '"dance"'))
        return envelope(random, vsn, '"realtime:room"', event, payload)
    if place < 0.8:
        return f'[1,{payload},"realtime:room","phx_join",{{}}]'
    if place < 0.9:
        # A float, for which the whole frame is read once more.
        return f'[1.5,1e400,"realtime:room","phx_join",{payload}]'
    text = quoted(filled)
    return envelope(random, vsn, text, random.choice(('"heartbeat"', text[: most // 2])), "{}")


def _long_config(random: Random, vsn: str, most: int) -> str:
    option = random.choice(OPTIONS[2:4]).partition(":")[0]
    members = ",".join(f'"{number}":[{{}}]' for number in range(most // 16))
    rest = f",{option}:{{{members}}}"
    return _with_bindings(random, vsn, [_BINDINGS[0]], rest)


def _long_token(random: Random, vsn: str, most: int) -> str:
    token = quoted(random.choice(long_tokens()))
    if random.random() < 0.5:
        payload = f'{{"access_token":{token}}}'
        return envelope(random, vsn, '"realtime:room"', '"access_token"', payload)
    payload = f'{{"config":{{}},"access_token":{token}}}'
    return envelope(random, vsn, '"realtime:room"', '"phx_join"', payload)


_MAKERS: Final[list[tuple[str, Callable[[Random, str, int], str]]]] = [
    ("filter", _one_filter),
    ("filter", _one_filter),
    ("list of filters", _many_filters),
    ("list of filters", _many_filters),
    ("list of filters", _many_filters),
    ("list of bindings", _long_list),
    ("select", _long_select),
    ("topic", _long_topic),
    ("JSON", _long_json),
    ("config", _long_config),
    ("token", _long_token),
]
