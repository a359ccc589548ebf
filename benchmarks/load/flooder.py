"""A member of a room that broadcasts much faster than is delivered, a process of its own.

    python -m benchmarks.load.flooder PORT TOPIC PUSHES_PER_SECOND

It answers each line of its input with one: "flood" with "flooding"; "stop" with the counts of the
answers that it has got since it began, by "ok" or the code of the error, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter

from websockets.asyncio.client import ClientConnection, connect

_AT_ONCE = 10
_HEARTBEAT = '[null,"h","phoenix","heartbeat",{}]'


async def _count(connection: ClientConnection, answers: Counter[str]) -> None:
    async for text in connection:
        _, _, _, event, payload = json.loads(text)
        if event == "phx_reply":
            answers[payload["response"].get("error", payload["status"])] += 1


async def _beat(connection: ClientConnection) -> None:
    while True:
        await connection.send(_HEARTBEAT)
        await asyncio.sleep(25)


async def _flood(connection: ClientConnection, push: str, per_second: int) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        for _ in range(_AT_ONCE):
            await connection.send(push)
        due = max(due + _AT_ONCE / per_second, loop.time() - 0.1)
        await asyncio.sleep(due - loop.time())


async def main(port: str, topic: str, per_second: str) -> None:
    loop = asyncio.get_running_loop()
    answers: Counter[str] = Counter()
    payload = {"type": "broadcast", "event": "m", "payload": {"data": "x" * 200}}
    push = json.dumps(["1", "2", topic, "broadcast", payload])
    async with connect(f"ws://127.0.0.1:{port}/socket/websocket?vsn=2.0.0") as connection:
        config = {"config": {"broadcast": {"ack": True}}}
        await connection.send(json.dumps(["1", "1", topic, "phx_join", config]))
        others = [asyncio.create_task(_count(connection, answers))]
        others.append(asyncio.create_task(_beat(connection)))
        flood: asyncio.Task[None] | None = None
        while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            if line == "flood":
                answers.clear()
                flood = asyncio.create_task(_flood(connection, push, int(per_second)))
                print("flooding", flush=True)
            elif flood is not None:
                flood.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await flood
                print(json.dumps(answers), flush=True)
        for task in others:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
