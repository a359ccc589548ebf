"""PyPI's realtime 2.34, told what to do by the test and telling what happens to it.

    python realtime_py.py ws://localhost:4000/socket '{"apikey": "eyJ…"}'

Commands and reports are those of channels.mjs. What the client logs as an error is told too:
it skips a message that it does not understand.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from functools import partial
from typing import Any

from realtime import AsyncRealtimeChannel, AsyncRealtimeClient


def say(**what: Any) -> None:
    print(json.dumps(what, default=str), flush=True)


class Teller(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(log=record.getMessage())


class Program:
    def __init__(self, url: str, options: dict[str, Any]) -> None:
        # Milliseconds that a handler takes now and then, at most.
        self.slow = options.pop("slow", 0)
        self.client = AsyncRealtimeClient(url, options.pop("apikey", "anon"), **options)
        self.channels: dict[str, AsyncRealtimeChannel] = {}

    async def obey(self, command: dict[str, Any]) -> None:
        match command:
            case {"subscribe": name}:
                await self.subscribe(name, command.get("bindings", []), command.get("config", {}))
            case {"unsubscribe": name}:
                await self.channels[name].unsubscribe()
                say(channel=name, left="ok")
            case {"resubscribe": name}:
                await self.channels[name].unsubscribe()
                await self.subscribe(name, command.get("bindings", []), command.get("config", {}))
            case {"token": token}:
                await self.client.set_auth(token)
                say(token="set")
            case {"send": name, "event": event}:
                await self.channels[name].send_broadcast(event, command.get("payload", {}))
                say(channel=name, sent="ok")
            case {"http": name, "event": event}:
                payload = bytes(command["bytes"]) if "bytes" in command else command.get("payload")
                config = {"config": command.get("config", {"private": False})}
                channel = self.channels.get(name) or self.client.channel(name, config)
                try:
                    await channel.http_send(event, {} if payload is None else payload)
                except Exception as error:
                    say(channel=name, http=str(error))
                else:
                    say(channel=name, http="ok")
            case {"track": name}:
                await self.channels[name].track(command.get("payload", {}))
                say(channel=name, tracked="ok")

    async def subscribe(self, name: str, bindings: list[Any], config: dict[str, Any]) -> None:
        channel = self.client.channel(name, {"config": {"private": False, **config}})
        self.channels[name] = channel
        for place, binding in enumerate(bindings):
            channel.on_postgres_changes(
                binding["event"],
                partial(self.changed, name, place),
                table=binding.get("table", "*"),
                schema=binding.get("schema", "public"),
                filter=binding.get("filter"),
                select=binding.get("select"),
            )
        # When it will join again, it keeps to itself.
        timer = channel.rejoin_timer
        schedule = timer.schedule_timeout
        timer.schedule_timeout = lambda delay=None: (
            say(channel=name, delay=delay),
            schedule(delay),
        )
        channel.on_broadcast("*", lambda message: say(channel=name, broadcast=dict(message)))
        if config.get("presence"):
            channel.on_presence_sync(
                lambda: say(channel=name, present=sorted(channel.presence_state()))
            )
        channel.on_system(lambda system: say(channel=name, system=system))
        await channel.subscribe(
            lambda status, error: say(
                channel=name, status=status.value, **({"error": str(error)} if error else {})
            )
        )

    def changed(self, name: str, place: int, change: Any) -> None:
        if self.slow and random.random() < 0.01:
            time.sleep(random.uniform(0, self.slow / 1000))
        say(channel=name, binding=place, change=change)


async def main() -> None:
    logging.getLogger("realtime").addHandler(Teller(logging.ERROR))
    program = Program(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
    tasks = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        # A subscription waits for its reply; commands go on meanwhile.
        tasks.add(asyncio.create_task(program.obey(json.loads(line))))
    await program.client.close()


asyncio.run(main())
