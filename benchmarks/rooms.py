"""A broadcast to a thousand members of a room, beside a change to a thousand clients.

    python -m benchmarks.rooms             # all of it, four minutes
    python -m benchmarks.rooms push        # one part

The server, PostgreSQL and the load client are processes of their own on this machine. One server
has a thousand clients that get a table's changes, and a thousand members of a room; transactions
and broadcasts are written in turns, each when the last one has arrived everywhere ("in step"). The
broadcasts have 200 bytes and come in binary frames from one more member, as realtime-js sends them;
ten are written to its socket at once where ten rows are inserted by one transaction.

From the database a broadcast goes to a hundred members, and in turns with it a change to a hundred
clients; the time is that from COMMIT until the last of them has it.

What is sent at another worker of the machine, or at another machine over NATS, goes to ten members;
the time is that from the push until all ten have it, in turns with ten at the sender's own process.

While one member of a room of five thousand pushes a thousand times a second, broadcasts in another
room and changes are written in step to ten clients each, in turns with times without the flood. One
process sends to the ten and reads for them; the five thousand, and who floods, run by the
scheduler's idle policy, so that they take no processor from it and the server.

For presence a thousand clients join a room and track themselves; the frames and bytes that all of
them get are counted, and for how long the server's event loop is held.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from benchmarks import _database, _flood, _nodes, _presence
from benchmarks._sender import BYTES, JOIN, TOPIC, Sender, pushed
from benchmarks.fanout import (
    DATA,
    INSERT,
    OURS,
    ROUNDS,
    TABLES,
    Bench,
    Row,
    WritePath,
    ratios,
    run_parts,
)
from realtime_server.fanout.bus import LocalBus
from realtime_server.fanout.room import Member
from realtime_server.fanout.rooms import Rooms
from realtime_server.phoenix.actions import Join, Publish
from realtime_server.phoenix.broadcasts import RoomName
from realtime_server.phoenix.joins import parse_join
from realtime_server.phoenix.message_handler import SocketState
from realtime_server.phoenix.serializers import SERIALIZERS

CHANGE, BROADCAST = "change", "broadcast"


@contextlib.asynccontextmanager
async def both(bench: Bench, clients: int) -> AsyncIterator[list[WritePath]]:
    """Yield what writes changes, and what broadcasts, on one server."""
    table = TABLES[OURS]
    limits = {
        "MAX_DELIVERIES_PER_SECOND": "1000000000",
        "MAX_MESSAGES_PER_SECOND": "1000000",
        # Nobody sends heartbeats, however long a busy machine takes.
        "IDLE_TIMEOUT": "3600000",
    }
    with bench.server(OURS, **limits) as server:
        pid = server.process.pid
        listeners = await bench.client(server.port, clients, f"realtime:public:{table}")
        members = await bench.client(server.port, clients, TOPIC, config=1)
        sender = await Sender.join(server.port)

        async def insert(rows: int) -> None:
            bench.connection.execute(INSERT.format(table, DATA), (rows,), prepare=True)

        async with listeners, members:
            yield [
                WritePath(CHANGE, pid, listeners, clients, insert),
                WritePath(BROADCAST, pid, members, clients, sender.send),
            ]
        sender.close()


async def in_step(bench: Bench) -> list[Row]:
    """One after the other, and ten at once, to a thousand."""
    rows = []
    for count, times in ((1, 40), (10, 8)):
        async with both(bench, 1000) as found:
            for path in found:
                await path.run(2, count)
                path.rates.clear()
                path.costs.clear()
            for _ in range(ROUNDS):
                for path in found:
                    await path.run(times, count)
        rows += [{"clients": 1000, "at once": count, **row} for row in ratios(found)]
    return rows


async def one_member(bench: Bench) -> list[Row]:
    """All that a broadcast costs the server beside the fan-out: its frame, and one member."""
    rows = []
    for count, times in ((1, 300), (10, 100)):
        async with both(bench, 1) as [_, path]:
            await path.run(20, count)
            path.costs.clear()
            for _ in range(ROUNDS):
                await path.run(times, count)
        cost = statistics.median(path.costs)
        rows.append({"clients": 1, "at once": count, "cpu_us_per_broadcast": round(cost, 1)})
    return rows


class _Nobody:
    is_behind = False

    def write(self, frames: object) -> None:
        """Take it."""


async def push(_: Bench) -> list[Row]:
    """From a frame to its place in the room's order, without socket and fan-out."""
    rows = []
    payload = pushed(1)[-BYTES:].decode()
    texts = {
        "2.0.0": f'["1","2","{TOPIC}","broadcast",'
        f'{{"type":"broadcast","event":"m","payload":{payload}}}]',
        "1.0.0": f'{{"topic":"{TOPIC}","event":"broadcast","payload":{{"type":"broadcast",'
        f'"event":"m","payload":{payload}}},"ref":"2","join_ref":"1"}}',
    }
    frames: list[tuple[str, str, str | bytes]] = [("kind 3", "2.0.0", pushed(1))]
    frames += [(f"text, vsn={vsn}", vsn, text) for vsn, text in texts.items()]
    for name, vsn, frame in frames:
        serializer = SERIALIZERS[vsn]
        state = SocketState(serializer, max_payload_bytes=1 << 18, serves_broadcast=True)
        joined = JOIN
        if vsn == "1.0.0":
            joined = (
                f'{{"topic":"{TOPIC}","event":"phx_join","payload":{{"config":{{}}}},"ref":"1",'
                '"join_ref":"1"}'
            )
        (action,) = state.receive(joined)
        assert isinstance(action, Join)
        state.accept(action.channel, parse_join(action.payload))
        times = []
        for _ in range(50):
            rooms = Rooms(LocalBus(), later=lambda _, __: None, clock=time.perf_counter)
            member = Member(
                RoomName(TOPIC), serializer, _Nobody(), takes_bytes=True, hears_itself=False
            )
            rooms.join(member)
            begin = time.perf_counter()
            for _ in range(200):
                (action,) = state.receive(frame)
                assert isinstance(action, Publish)
                rooms.publish(((member.room, action.broadcast),), member)
            times.append((time.perf_counter() - begin) / 200 * 1e6)
        rows.append({"frame": name, "us": round(statistics.median(times), 2)})
    return rows


PARTS: dict[str, Callable[[Bench], Awaitable[list[Row]]]] = {
    "in step": in_step,
    "one member": one_member,
    "push": push,
    "from the database": _database.latency,
    "flood": _flood.flood,
    "several servers": _nodes.several_servers,
    "presence storm": _presence.storm,
    "presence changes": _presence.changes,
    "presence first change": _presence.first_change,
    "presence memory": _presence.memory,
}


if __name__ == "__main__":
    asyncio.run(run_parts("rooms", PARTS, sys.argv[1:]))
