"""Fuzz broadcasts by HTTP: requests mutated and torn, each read as the endpoint reads it.

The promise: a request is refused with a status of the client's and a body of JSON that says why, or
read to broadcasts that every client can read, and that are what the request has, as Python's json
module and urllib understand it.

    python -m tests.fuzz.fuzz_requests 1000000 7
"""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any
from urllib.parse import quote, unquote

from realtime_server.phoenix.broadcasts import broadcast_json
from realtime_server.phoenix.http_broadcasts import (
    MAX_MESSAGES,
    HttpRefusal,
    Messages,
    read_names,
    read_single,
    reading_batch,
)
from tests.fuzz.command_line import main

__all__ = ["BrokenPromiseError", "run"]

MAX_PAYLOAD = 3000
CHUNK = 1000
STATUSES = (400, 415, 422)
NAMES = ["room", "room:1/2", "é", "..", "a\0b", "%2F", "%252F", "\ud800", "", "x" * 300, "1", "\n"]
PIECES = [
    b"%2F",
    b"%00",
    b"%",
    b"%zz",
    b"%ff",
    b"/",
    b"\\",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
]
PIECES += [b"\\ud800", b"\xff", b"1e999", b"NaN", b"null", b"\0", "漢".encode(), b"9" * 5000]
VALUES: list[Any] = [
    *(None, True, "true", "", 0, -1.5, 1e308, [], {}, [{}], "x" * 4000, {"ids": 1}),
    *({"__proto__": {"data": []}}, "\ud83d", {"phx_ref": [None]}),
]
KINDS = [
    "application/json",
    "",
    "Application/JSON; charset=x",
    "application/octet-stream",
    "text/html",
]
QUERIES: list[dict[str, str]] = [
    *({}, {"private": "true"}, {"private": "TRUE"}, {"private": "7"}, {"private": ""}),
    *({"persist": "true"}, {"persist[ttl]": "x", "private": "true"}, {"apikey": "k"}),
]
DEEP = b"[" * 2000 + b"]" * 2000


class BrokenPromiseError(Exception):
    """A request that went wrong."""


def run(count: int, seed: int = 0) -> Counter[str]:
    """Try ``count`` requests; return what became of how many.

    Raises:
        BrokenPromiseError: with the request, and the seed and chunk that make it again.
    """
    outcomes: Counter[str] = Counter()
    for chunk, start in enumerate(range(0, count, CHUNK)):
        random = Random(f"{seed} {chunk}")
        for _ in range(min(CHUNK, count - start)):
            request = _single(random) if random.random() < 0.5 else _batch(random)
            try:
                outcomes[_outcome(*request)] += 1
            except Exception as error:
                told = BrokenPromiseError(f"{request!r:.4000}")
                told.add_note(f"seed {seed}, chunk {chunk}")
                raise told from error
    return outcomes


def _outcome(path: str, kind: str, query: dict[str, str], body: bytes) -> str:
    try:
        messages = _read(path, kind, query, body)
    except HttpRefusal as refusal:
        return _refused(refusal)
    if messages is None:
        return "not found"
    found = [
        (room.topic.removeprefix("realtime:"), room.is_private, one.event, _payload(one))
        for room, one in messages
    ]
    assert repr(found) == repr(_expected(path, kind, query, body)), found
    return f"{'one' if path else 'batch'} sent"


def _refused(refusal: HttpRefusal) -> str:
    told = json.loads(refusal.body)
    assert refusal.status in STATUSES, refusal.status
    assert isinstance(told.get("message", told.get("error")), str), told
    return f"refused {refusal.status.value}"


def _read(path: str, kind: str, query: dict[str, str], body: bytes) -> Messages | None:
    """Read a request as the endpoint does."""
    if not path:
        steps = reading_batch(body, max_bytes=MAX_PAYLOAD)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                messages: Messages = end.value
                return messages
    names = read_names(path)
    return None if names is None else read_single(names, kind, query, body, max_bytes=MAX_PAYLOAD)


def _payload(broadcast: Any) -> Any:
    """Return what clients are sent."""
    assert broadcast.size <= MAX_PAYLOAD
    if not broadcast.is_json:
        return bytes(broadcast.payload)
    sent = json.loads(broadcast_json(broadcast), parse_constant=_refuse)
    assert sent.keys() == {"type", "event", "payload"}
    assert (sent["type"], sent["event"]) == ("broadcast", broadcast.event)
    return sent["payload"]


def _expected(path: str, kind: str, query: dict[str, str], body: bytes) -> list[Any]:
    if path:
        _, topic, _, event = (unquote(part, errors="strict") for part in path.split("/"))
        payload = body if kind.endswith("stream") else json.loads(body)
        return [(topic, query.get("private", "").lower() == "true", event, payload)]
    messages = json.loads(body)["messages"]
    assert len(messages) <= MAX_MESSAGES
    return [
        (one["topic"], str(one.get("private")).lower() == "true", one["event"], one["payload"])
        for one in messages
    ]


def _refuse(name: str) -> None:
    raise ValueError(name)


# Requests.


def _single(random: Random) -> tuple[str, str, dict[str, str], bytes]:
    topic, event = (random.choice(NAMES).encode("utf-8", "replace").decode() for _ in range(2))
    path = f"/{quote(topic, safe='')}/events/{quote(event, safe='')}"
    body = json.dumps(random.choice(VALUES)).encode()
    if random.random() < 0.1:
        body = random.choice([b"", DEEP, random.randbytes(20)])
    if random.random() < 0.2:
        path = _torn(random, path.encode()).decode("latin-1")
    if random.random() < 0.2:
        body = _torn(random, body)
    return "/" + path.lstrip("/"), random.choice(KINDS), random.choice(QUERIES), body


def _batch(random: Random) -> tuple[str, str, dict[str, str], bytes]:
    count = random.choice([0, 1, 1, 2, 5]) if random.random() < 0.99 else MAX_MESSAGES + 1
    messages: list[Any] = [_message(random) for _ in range(count)]
    whole: dict[str, Any] = {"messages": messages}
    if random.random() < 0.1:
        messages.append(random.choice(VALUES))
    if random.random() < 0.1:
        whole = {"x": random.choice(VALUES), **whole, "messages ": [], "y": [[]]}
    body = json.dumps(whole, ensure_ascii=random.random() < 0.5, indent=random.choice([None, 1]))
    data = body.encode("utf-8", "surrogatepass")
    if random.random() < 0.05:
        data = data.replace(b"{}", DEEP)
    return "", "", {}, _torn(random, data) if random.random() < 0.2 else data


def _message(random: Random) -> dict[str, Any]:
    message: dict[str, Any] = {"topic": "room", "event": "m", "payload": {"x": [1]}}
    kind = random.random()
    if kind < 0.3:
        message["payload"] = {"v": random.choice(VALUES)}
    elif kind < 0.5:
        message[random.choice(["topic", "event"])] = random.choice(NAMES)
    elif kind < 0.6:
        message[random.choice([*message, "private"])] = random.choice(VALUES)
    elif kind < 0.7:
        message["private"] = random.choice([True, False, "True", "false"])
    return message


def _torn(random: Random, data: bytes) -> bytes:
    start = random.randrange(len(data) + 1)
    end = min(start + random.choice([0, 1, 2, 10]), len(data))
    piece = random.choice(PIECES)
    return random.choice(
        [data[:start] + piece + data[end:], data[:start] + data[end:], data[:end] + data[start:]]
    )


if __name__ == "__main__":
    main(run, "requests", "all kept the promise")
