"""Many clients of PyPI's realtime that are present in one room, each with a socket of its own.

    python presence_crowd.py ws://localhost:4000/socket '{"a": {"each": 2}, "b": {"each": 1}}'

Groups, keys, commands and reports are those of presence_crowd.mjs; the kind is `py`. What the
client logs as an error is told, too. With `"late": true` they ask to be told who is present when
they have joined, so that the client joins again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

from realtime import AsyncRealtimeClient


def say(**what: Any) -> None:
    print(json.dumps(what, default=str), flush=True)


class Teller(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(log=record.getMessage())


def read_meta(meta: dict[str, Any]) -> list[Any]:
    payload = dict(meta)
    return [payload.pop("presence_ref"), payload]


class Member:
    def __init__(self, key: str, url: str, options: dict[str, Any]) -> None:
        self.key = key
        self.options = options
        self.client = AsyncRealtimeClient(url, "anon", initial_backoff=0.1, max_retries=60)
        self.tracked: Any = None
        self.summed: dict[str, dict[str, Any]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.has_joined = asyncio.Event()

    async def join(self, room: str) -> None:
        config = {"presence": {"key": self.key, "enabled": False}, "private": False}
        self.channel = self.client.channel(room, {"config": config})
        late = self.options.get("late", False)
        if self.options.get("watches", True) and not late:
            self.watch()
        await self.channel.subscribe(self.status)
        if late:
            await self.has_joined.wait()
            self.watch()

    def watch(self) -> None:
        self.channel.on_presence_join(self.joined)
        self.channel.on_presence_leave(self.left)

    def status(self, status: Any, error: Any) -> None:
        if status.value == "SUBSCRIBED":
            task = asyncio.create_task(self.ready())
            self.tasks.add(task)

    async def ready(self) -> None:
        self.has_joined.set()
        if self.tracked is not None:
            await self.channel.track(self.tracked)
        say(ready=self.key)

    def joined(self, key: str, _: Any, metas: list[Any]) -> None:
        self.summed.setdefault(key, {}).update(map(read_meta, metas))

    def left(self, key: str, _: Any, metas: list[Any]) -> None:
        found = self.summed.setdefault(key, {})
        for ref, _payload in map(read_meta, metas):
            found.pop(ref, None)
        if not found:
            del self.summed[key]

    async def track(self, payload: Any) -> None:
        self.tracked = payload
        await self.channel.track(payload)

    async def untrack(self) -> None:
        self.tracked = None
        await self.channel.untrack()


def report(number: int, members: dict[str, Member]) -> None:
    states: dict[str, list[str]] = {}
    differing = []
    for key, member in members.items():
        found = member.channel.presence_state()
        state = json.dumps(
            sorted([name, sorted(map(read_meta, metas))] for name, metas in found.items())
        )
        summed = json.dumps(
            sorted(
                [name, sorted(map(list, metas.items()))] for name, metas in member.summed.items()
            )
        )
        if member.options.get("watches", True) and state != summed:
            differing.append(key)
        states.setdefault(state, []).append(key)
    distinct = [[json.loads(state), keys] for state, keys in states.items()]
    say(report=number, distinct=distinct, differing=differing)


async def obey(command: dict[str, Any], members: dict[str, Member]) -> None:
    def chosen(keys: list[str] | None) -> list[Member]:
        return [members[key] for key in (keys or members)]

    match command:
        case {"join": room}:
            await asyncio.gather(*(member.join(room) for member in members.values()))
        case {"track": payload}:
            of = chosen(command.get("of"))
            await asyncio.gather(*(member.track(payload) for member in of))
            say(done=command.get("done"))
        case {"untrack": keys}:
            await asyncio.gather(*(member.untrack() for member in chosen(keys)))
            say(done=command.get("done"))
        case {"leave": keys}:
            leaving = [members.pop(member.key) for member in chosen(keys)]
            await asyncio.gather(*(member.channel.unsubscribe() for member in leaving))
            say(done=command.get("done"))
        case {"report": number}:
            report(number, members)


async def main() -> None:
    logging.getLogger("realtime").addHandler(Teller(logging.ERROR))
    url, groups = sys.argv[1], json.loads(sys.argv[2])
    members = {}
    for group, options in groups.items():
        for number in range(options.get("each", 1)):
            key = f"{group}-py-{number}"
            members[key] = Member(key, url, options)
    everybody = list(members.values())
    tasks = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        tasks.add(asyncio.create_task(obey(json.loads(line), members)))
    await asyncio.gather(*(member.client.close() for member in everybody))


asyncio.run(main())
