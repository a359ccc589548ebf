"""Joins of private channels, on which a policy with an index lookup decides.

    python -m benchmarks.private_joins             # all of it, half a minute
    python -m benchmarks.private_joins distinct    # one part

The server, PostgreSQL and the clients are on this machine. Connections that are open join ten
channels each, all ten at once, with frames and tokens as stock clients send them; fifty connections
wait for answers at a time. Each connection has a token of its own, so that no two share what the
policy says, or all have the same; and public channels are joined, of which the policy is not asked.
The clients are a program in C that leaves the server a core of its own. What is decided without
sockets, tokens and all else that a join takes is measured by itself, in this process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from uuid import UUID

from psycopg import AsyncConnection

from benchmarks.fanout import OURS, Bench, Row, run_parts
from benchmarks.load.programs import Joiner, cpu_time
from realtime_server.messages.policies.policy_checks import PolicyChecks
from realtime_server.messages.policies.questions import Extension, Question
from realtime_server.rls.setup.migrations import migrate
from realtime_server.rls.viewers import Viewer
from tests.tokens import SECRET, make_token

CHANNELS = 10
"""Of a connection."""
AT_ONCE = 50
"""Connections that wait for answers at a time."""
ROLE = "bench_member"
POLICY = f"""
    drop owned by {ROLE} cascade;
    drop table if exists bench_members;
    create table bench_members (who text, topic text, primary key (who, topic));
    insert into bench_members select 'user ' || n, 'room-' || room
        from generate_series(1, 10000) n, generate_series(0, {CHANNELS - 1}) room;
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
    """Return a user's token, with the claims that those of sessions have."""
    email = f"user.{number}@mail.example"
    return make_token(
        {
            "iss": "https://project.example/auth/v1",
            "sub": f"user {number}",
            "aud": "authenticated",
            "iat": 1_790_000_000,
            "email": email,
            "phone": "",
            "app_metadata": {"provider": "email", "providers": ["email"]},
            "user_metadata": {"email": email, "email_verified": True, "phone_verified": False},
            "role": ROLE,
            "aal": "aal1",
            "amr": [{"method": "password", "timestamp": 1_790_000_000}],
            "session_id": str(UUID(int=number)),
            "is_anonymous": False,
        }
    )


def joins(access_token: str, *, private: bool = True) -> bytes:
    """Return what a connection joins, for joins.c."""
    config = {
        "broadcast": {"ack": False, "self": False},
        "presence": {"key": "", "enabled": False},
        "postgres_changes": [],
        "private": private,
    }
    payload = json.dumps({"config": config, "access_token": access_token}, separators=(",", ":"))
    return b"".join(f"realtime:room-{room} {payload}\n".encode() for room in range(CHANNELS))


async def measure(bench: Bench, connections: list[bytes]) -> list[Row]:
    await prepare(bench)
    count = len(connections)
    # Nobody sends heartbeats, however long a busy machine takes.
    settings = {"SECURE_CHANNELS": "true", "JWT_SECRET": SECRET, "IDLE_TIMEOUT": "3600000"}
    with bench.server(OURS, PRIVATE_CHANNELS="true", **settings) as server:

        async def joiner(sent: list[bytes]) -> Joiner:
            return await Joiner.open(
                bench.directory, server.port, len(sent), AT_ONCE, b"".join(sent), token(0)
            )

        # Those that the sessions connect for.
        async with await joiner([joins(token(1))] * AT_ONCE) as first:
            await first.join()
        async with await joiner(connections) as clients:
            pid = server.process.pid
            cpu = cpu_time(pid)
            seconds, median, worst, clients_cpu = await clients.join()
            cpu = cpu_time(pid) - cpu
    return [
        {
            "joins": count * CHANNELS,
            "joins a second": round(count * CHANNELS / seconds),
            "processor us a join": round(cpu / count / CHANNELS * 1e6),
            "of the clients": round(clients_cpu / count / CHANNELS * 1e6),
            "ms p50": round(median * 1e3, 1),
            "ms p99": round(worst * 1e3, 1),
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
    """Each connection with claims of its own."""
    return await measure(bench, [joins(token(number)) for number in range(1, 501)])


async def equal(bench: Bench) -> list[Row]:
    """All connections with the same claims."""
    return await measure(bench, [joins(token(1))] * 1000)


async def public(bench: Bench) -> list[Row]:
    """All connections with the same claims, and public channels."""
    return await measure(bench, [joins(token(1), private=False)] * 1000)


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
                    question = Question(viewer, "{}", "room-1", (Extension.BROADCAST,))
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
