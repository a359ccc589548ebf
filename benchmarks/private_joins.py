"""Joins of private channels, on which a policy with an index lookup decides.

    python -m benchmarks.private_joins             # all of it, half a minute
    python -m benchmarks.private_joins distinct    # one part

The server, PostgreSQL and the clients are on this machine. A hundred sockets join one private topic
over and over, each as soon as its last join was answered: with a token of its own for each join, so
that no two share what the policy says, or all with one token; and a public one, of which the policy
is not asked. What is decided without sockets, tokens and all else that a join takes is measured by
itself, in this process.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

from psycopg import AsyncConnection

from benchmarks._report import percentile
from benchmarks._sender import HANDSHAKE, TOPIC
from benchmarks.fanout import OURS, Bench, Row, cpu_time, run_parts
from realtime_server.messages.policies.policy_checks import PolicyChecks
from realtime_server.messages.policies.questions import Extension, Question
from realtime_server.rls.setup.migrations import migrate
from realtime_server.rls.viewers import Viewer
from tests.tokens import SECRET, make_token

SOCKETS = 100
ROLE = "bench_member"
POLICY = f"""
    drop owned by {ROLE} cascade;
    drop table if exists bench_members;
    create table bench_members (who text, topic text, primary key (who, topic));
    insert into bench_members select 'user ' || n, 'room' from generate_series(1, 100000) n;
    analyze bench_members;
    create policy bench on realtime.messages for select to {ROLE} using (
        exists (
            select from public.bench_members m
            where m.topic = (select realtime.topic())
                and m.who = current_setting('request.jwt.claims')::jsonb ->> 'sub'
        )
    );
    grant usage on schema realtime to {ROLE};
    grant select on bench_members, realtime.messages to {ROLE}
"""


def token(number: int) -> str:
    return make_token({"role": ROLE, "sub": f"user {number}"})


def join(access_token: str, *, private: bool = True) -> bytes:
    """Return a client's frame; a mask of zeros changes nothing."""
    payload = {"config": {"private": private}, "access_token": access_token}
    data = json.dumps(["1", "1", TOPIC, "phx_join", payload]).encode()
    return struct.pack("!BBH", 0x81, 0x80 | 126, len(data)) + bytes(4) + data


class Socket:
    """A connection that joins, and joins again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int, apikey: str) -> Socket:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE.replace(b"vsn=2.0.0", b"vsn=2.0.0&apikey=" + apikey.encode()))
        await reader.readuntil(b"\r\n\r\n")
        return cls(reader, writer)

    async def join(self, frame: bytes) -> float:
        """Join; return how many seconds the answer took."""
        begin = time.perf_counter()
        self._writer.write(frame)
        head = answer = b""
        # Else it is a ping.
        while head[:1] != b"\x81":
            head = await self._reader.readexactly(2)
            size = head[1]
            if size == 126:
                [size] = struct.unpack("!H", await self._reader.readexactly(2))
            answer = await self._reader.readexactly(size)
        if b'"status":"ok"' not in answer:
            raise RuntimeError(f"a join was refused: {answer!r}")
        return time.perf_counter() - begin

    def close(self) -> None:
        self._writer.close()


async def measure(bench: Bench, frames: list[bytes]) -> list[Row]:
    await prepare(bench)
    limits = dict.fromkeys(("MAX_TOKENS", "MAX_JOINS_PER_SECOND"), "1000000")
    settings = {"SECURE_CHANNELS": "true", "JWT_SECRET": SECRET, "PRIVATE_CHANNELS": "true"}
    with bench.server(OURS, **limits, **settings) as server:
        sockets = [await Socket.connect(server.port, token(1)) for _ in range(SOCKETS)]
        todo: Iterator[bytes] = iter(frames)
        times: list[float] = []

        async def go_on(socket: Socket) -> None:
            for frame in todo:
                times.append(await socket.join(frame))

        # Those that the sessions connect for.
        await asyncio.gather(*(socket.join(join(token(1))) for socket in sockets))
        pid = server.process.pid
        cpu, begin = cpu_time(pid), time.perf_counter()
        await asyncio.gather(*map(go_on, sockets))
        seconds = time.perf_counter() - begin
        cpu = cpu_time(pid) - cpu
        for socket in sockets:
            socket.close()
    return [
        {
            "joins": len(frames),
            "joins a second": round(len(frames) / seconds),
            "processor us a join": round(cpu / len(frames) * 1e6),
            "ms p50": round(percentile(times, 0.5) * 1e3, 1),
            "ms p99": round(percentile(times, 0.99) * 1e3, 1),
        }
    ]


async def prepare(bench: Bench) -> None:
    """Have the table and the policy."""
    bench.connection.execute(
        f"do $$ begin create role {ROLE}; exception when duplicate_object then null; end $$"
    )
    async with await AsyncConnection.connect(bench.dsn, autocommit=True) as connection:
        await migrate(connection)
    bench.connection.execute(POLICY.encode())


async def distinct(bench: Bench) -> list[Row]:
    """Each join with claims of its own."""
    return await measure(bench, [join(token(number)) for number in range(1, 5001)])


async def equal(bench: Bench) -> list[Row]:
    """All joins with the same claims."""
    return await measure(bench, [join(token(1))] * 10_000)


async def public(bench: Bench) -> list[Row]:
    """All joins with the same claims, of a public channel."""
    return await measure(bench, [join(token(1), private=False)] * 10_000)


async def decisions(bench: Bench) -> list[Row]:
    """What is decided in a second, with a thousand that wait at a time."""
    await prepare(bench)

    async def dsn() -> str:
        return bench.dsn

    rows: list[Row] = []
    async with PolicyChecks(dsn, timeout=1.0) as checks:
        for name, count, people in (("distinct", 5000, 5000), ("equal", 20_000, 1)):
            viewers = [Viewer.of({"role": ROLE, "sub": f"user {n + 1}"}) for n in range(people)]
            todo = iter(range(count))

            async def go_on(todo: Iterator[int], viewers: list[Viewer]) -> None:
                for number in todo:
                    viewer = viewers[number % len(viewers)]
                    question = Question(viewer, "{}", "room", (Extension.BROADCAST,))
                    answer = await checks.ask(question)
                    if not answer.granted:
                        raise RuntimeError(f"refused: {answer}")

            begin = time.perf_counter()
            await asyncio.gather(*(go_on(todo, viewers) for _ in range(1000)))
            seconds = time.perf_counter() - begin
            rows.append({"claims": name, "decisions a second": round(count / seconds)})
    return rows


PARTS: dict[str, Callable[[Bench], Awaitable[list[Row]]]] = {
    "distinct": distinct,
    "equal": equal,
    "public": public,
    "decisions": decisions,
}


if __name__ == "__main__":
    asyncio.run(run_parts("private_joins", PARTS, sys.argv[1:]))
