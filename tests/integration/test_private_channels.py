"""Private channels over real sockets, with policies of a real PostgreSQL: who may do what, until
when, and what others notice of it. The server is in STREAM mode."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import pytest_asyncio
from psycopg import AsyncConnection

from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.integration.test_rooms import post, status
from tests.integration.test_stream_http import exchange
from tests.rls_helpers import migrated, roles
from tests.server_helpers import PhoenixClient, Vsn, dev_config, open_client
from tests.tokens import SECRET, make_token
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

RIGHTS = """
    create table public.rights (who text, act text, topic text);
    create function public.may(act text, topic text) returns boolean
        stable language plpgsql security definer as $$
    declare
        claims jsonb := current_setting('request.jwt.claims')::jsonb;
    begin
        if claims ? 'slow' then
            perform pg_sleep((claims ->> 'slow')::float8);
        end if;
        return exists (
            select from public.rights r
            where r.who = claims ->> 'sub' and r.act = may.act and r.topic = may.topic
        );
    end $$;
    create policy reads on realtime.messages for select to {role}
        using (public.may(
            case extension when 'broadcast' then 'read' else 'see' end, realtime.topic()
        ));
    create policy writes on realtime.messages for insert to {role}
        with check (public.may(
            case extension when 'broadcast' then 'write' else 'be' end, realtime.topic()
        ));
    grant usage on schema realtime to {role};
    grant select, insert on realtime.messages to {role};
    create publication shop;
    insert into public.rights values
        ('ann', 'read', 'room'), ('ann', 'write', 'room'),
        ('bob', 'read', 'room'), ('cat', 'write', 'room'), ('ann', 'write', 'other'),
        ('ann', 'see', 'room'), ('ann', 'be', 'room'), ('dan', 'see', 'room'),
        ('eve', 'be', 'room'), ('eve', 'read', 'room');
"""
ROOM = "realtime:room"
UNAUTHORIZED = "Unauthorized: You do not have permissions to read from this Channel topic: room"
LOST = "You no longer have permission to read from this Channel topic: room"


@attrs.frozen
class Stage:
    database: Database
    server: RealtimeServer
    role: str

    def token(self, who: str, **claims: Any) -> str:
        return make_token({"role": self.role, "sub": who, **claims})

    @contextlib.asynccontextmanager
    async def client(self, who: str, vsn: Vsn = "2.0.0", **claims: Any) -> AsyncIterator[Client]:
        token = self.token(who, **claims)
        query = f"vsn={vsn}&apikey={token}"
        async with open_client(self.server.port, vsn, query=query) as plain:
            yield Client(plain.websocket, vsn)

    async def post(self, who: str, body: Any, path: str = "/api/broadcast") -> int:
        authorization = f"Authorization: Bearer {self.token(who)}".encode()
        sent = json.dumps(body).encode()
        answer = await exchange(self.server.port, post(sent, authorization, path=path.encode()))
        return status(answer)


class Client(PhoenixClient):
    async def ask_to_join(
        self, topic: str = ROOM, *, private: bool = True, presence: Any = None, replay: Any = None
    ) -> Any:
        """Join; return the reply's payload."""
        broadcast = {"ack": True, "replay": replay}
        config = {"private": private, "broadcast": broadcast, "presence": presence}
        await self.send(topic, "phx_join", {"config": config}, ref="1", join_ref="1")
        frame = await self.receive()
        return frame["payload"] if isinstance(frame, dict) else frame[4]

    async def enter(self, topic: str = ROOM, *, private: bool = True, presence: Any = None) -> None:
        answer = await self.ask_to_join(topic, private=private, presence=presence)
        assert answer == {"status": "ok", "response": {"postgres_changes": []}}

    async def say(self, payload: Any, topic: str = ROOM) -> Any:
        """Broadcast; return the reply's payload, which has to be the next frame."""
        message = {"type": "broadcast", "event": "m", "payload": payload}
        await self.send(topic, "broadcast", message, ref="2", join_ref="1")
        frame = await self.receive()
        answer = frame["payload"] if isinstance(frame, dict) else frame[4]
        assert answer["status"] in ("ok", "error"), frame
        return answer

    async def track(self) -> Any:
        """Track; return the reply's payload, which has to be the next frame."""
        message = {"type": "presence", "event": "track", "payload": {}}
        await self.send(ROOM, "presence", message, ref="2", join_ref="1")
        return (await self.receive())[4]

    async def sees(self, event: str) -> set[str]:
        """Return the keys of the next frame, which has to be of presence."""
        frame = await self.receive()
        assert frame[3] == event, frame
        return {*(frame[4] if event == "presence_state" else frame[4]["joins"])}

    def heard(self, payload: Any, topic: str = ROOM) -> Any:
        return self.frame(
            topic, "broadcast", {"type": "broadcast", "event": "m", "payload": payload}
        )

    async def renew(self, token: str, topic: str = ROOM) -> None:
        await self.send(topic, "access_token", {"access_token": token}, ref="3", join_ref="1")

    def ended(self, reason: str, topic: str = ROOM) -> list[Any]:
        """What a channel is sent that ends for good."""
        system = {
            "channel": topic.removeprefix("realtime:"),
            "extension": "system",
            "status": "error",
            "message": reason,
        }
        ref = "1"
        return [
            self.frame(topic, "system", system),
            self.frame(topic, "phx_close", {}, ref=ref, join_ref=ref),
        ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(pg18: Server) -> AsyncIterator[Stage]:
    with roles(pg18, "member") as (role,), fresh_database(pg18) as database:
        await migrated(database.dsn)
        database.execute(RIGHTS.replace("{role}", role))
        config = dev_config(
            database.dsn,
            SECURE_CHANNELS="true",
            JWT_SECRET=SECRET,
            PRIVATE_CHANNELS="true",
            BROADCAST_FROM_DATABASE="true",
            RLS_CHECK_TIMEOUT="500",
        )
        async with RealtimeServer(config) as server:
            yield Stage(database, server, role)


OK = {"status": "ok", "response": {}}


def refused(code: str) -> Any:
    """Match the reply to a broadcast that went to nobody."""

    class Refused:
        def __eq__(self, other: object) -> bool:
            assert isinstance(other, dict)
            return bool(other["status"] == "error" and other["response"]["error"] == code)

        __hash__ = None  # type: ignore[assignment]

    return Refused()


async def test_who_may_read_hears_and_who_may_write_is_heard(stage: Stage) -> None:
    async with (
        stage.client("ann") as ann,
        stage.client("bob", "1.0.0") as bob,
        stage.client("cat") as cat,
        stage.client("ann") as public,
    ):
        await ann.enter()
        await bob.enter()
        await public.enter(private=False)
        # To write is not enough.
        assert await cat.ask_to_join() == {"status": "error", "response": {"reason": UNAUTHORIZED}}
        assert await ann.say({"n": 1}) == OK
        assert await bob.receive() == bob.heard({"n": 1})
        assert await bob.say({"n": 2}) == refused("unauthorized")
        # The public room of that name is another.
        assert await public.say({"n": 3}) == OK
        assert await ann.say({"n": 4}) == OK
        assert await bob.receive() == bob.heard({"n": 4})
        for client in (ann, bob, cat, public):
            assert await client.drain() == []


async def test_presence_is_granted_by_itself(stage: Stage) -> None:
    async with (
        stage.client("ann") as ann,
        stage.client("dan") as dan,
        stage.client("bob") as bob,
        stage.client("eve") as eve,
        stage.client("ann") as public,
    ):
        await ann.enter(presence={"key": "ann"})
        assert await ann.sees("presence_state") == set()
        assert await ann.track() == OK
        assert await ann.sees("presence_diff") == {"ann"}
        # It may see, and hears nothing.
        await dan.enter(presence={"key": "dan"})
        assert await dan.sees("presence_state") == {"ann"}
        refusal = (await dan.track())["response"]["reason"]
        assert refusal == "Unauthorized: no policy lets this channel's client send to it"
        # It may hear, and sees nothing.
        await bob.enter(presence={"key": "bob"})
        # It may be there without seeing who is.
        await eve.enter(presence={"key": "eve", "enabled": False})
        assert await eve.track() == OK
        for client in (ann, dan):
            assert await client.sees("presence_diff") == {"eve"}
        await public.enter(private=False, presence={"key": "public"})
        assert await public.sees("presence_state") == set()
        assert await public.track() == OK
        assert await ann.say(1) == OK
        assert await bob.receive() == bob.heard(1)
        assert await eve.receive() == eve.heard(1)
        # Who may see no more is told so, although it may still hear.
        await ann.renew(stage.token("bob"))
        assert [await ann.receive() for _ in range(2)] == ann.ended(LOST)
        for client in (ann, bob, eve):
            assert await client.drain() == []
        left = await dan.receive()
        assert (left[3], [*left[4]["leaves"]]) == ("presence_diff", ["ann"])
        assert await dan.drain() == []


async def test_channels_are_decided_on_one_by_one(stage: Stage) -> None:
    async with stage.client("ann") as ann:
        for topic in (
            "realtime:other",
            "realtime:ROOM",
            "realtime:private:room",
            "realtime:ro\0om",
        ):
            answer = await ann.ask_to_join(topic)
            assert answer["response"]["reason"].startswith("Unauthorized: You do not have")
        await ann.enter()
        assert await ann.say(1) == OK


async def test_a_new_token_that_may_not_read_ends_the_channel(stage: Stage) -> None:
    async with stage.client("ann") as ann, stage.client("ann", "1.0.0") as other:
        await ann.enter()
        await other.enter()
        await ann.renew(stage.token("cat"))
        assert [await ann.receive() for _ in range(2)] == ann.ended(UNAUTHORIZED)
        assert await other.say(1) == OK
        assert await ann.drain() == []
        # Not while nobody asks, but with the next token.
        stage.database.execute("delete from rights where (who, act) = ('ann', 'read')")
        try:
            assert await other.say(2) == OK
            await other.renew(stage.token("ann", more=1))
            ended = other.ended(UNAUTHORIZED)
            assert [await other.receive() for _ in range(2)] == ended
        finally:
            stage.database.execute("insert into rights values ('ann', 'read', 'room')")


async def test_what_may_be_written_is_decided_anew_with_a_token(stage: Stage) -> None:
    async with stage.client("bob") as bob:
        await bob.enter()
        assert await bob.say(1) == refused("unauthorized")
        stage.database.execute("insert into rights values ('bob', 'write', 'room')")
        try:
            assert await bob.say(2) == refused("unauthorized")
            await bob.renew(stage.token("bob", more=1))
            assert await bob.say(3) == OK
            await bob.renew(stage.token("ann"))
            assert await bob.say(4) == OK
        finally:
            stage.database.execute("delete from rights where (who, act) = ('bob', 'write')")
        assert await bob.say(5) == OK
        await bob.renew(stage.token("bob", more=2))
        assert await bob.say(6) == refused("unauthorized")


async def test_nothing_comes_once_a_token_may_not_read_whatever_is_under_way(stage: Stage) -> None:
    async with stage.client("ann") as ann, stage.client("ann") as sender:
        await ann.enter()
        await sender.enter()
        # So that it need not ask any more.
        assert await sender.say("first") == OK
        assert await ann.receive() == ann.heard("first")

        async def keep_saying() -> None:
            for number in range(40):
                assert await sender.say(number) == OK
                await asyncio.sleep(0.01)

        saying = asyncio.create_task(keep_saying())
        # Its policies take a while to say no.
        await ann.renew(stage.token("cat", slow=0.2))
        frames = []
        while (frame := await ann.receive())[3] == "broadcast":
            frames.append(frame)
        assert frames
        assert [frame, await ann.receive()] == ann.ended(UNAUTHORIZED)
        await saying
        assert await ann.drain() == []


async def test_a_policy_that_takes_its_time_is_no_yes(stage: Stage) -> None:
    async with stage.client("ann", slow=30) as slow, stage.client("ann") as ann:
        answers = await asyncio.gather(slow.ask_to_join(), ann.ask_to_join())
        assert answers[0]["response"]["reason"].startswith("QueryCanceled: ")
        assert answers[1]["status"] == "ok"


async def test_a_privilege_that_is_missing_is_logged(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.database.execute(f"revoke select on realtime.messages from {stage.role}")
    try:
        async with stage.client("ann", new="claims") as ann:
            answer = await ann.ask_to_join()
    finally:
        stage.database.execute(f"grant select on realtime.messages to {stage.role}")
    assert answer == {"status": "error", "response": {"reason": UNAUTHORIZED}}
    told = f"the role {stage.role} lacks a privilege on realtime.messages, or on what its policies"
    assert sum(told in message for message in caplog.messages) == 1


async def test_programs_without_a_websocket_are_asked_the_same(stage: Stage) -> None:
    single = "/api/broadcast/room/events/m"
    async with stage.client("bob") as bob, stage.client("ann") as public:
        await bob.enter()
        await public.enter(private=False)
        assert await stage.post("ann", {"n": 1}, f"{single}?private=true") == 202
        assert await stage.post("ann", {"n": 2}, single) == 202
        assert await stage.post("bob", {"n": 3}, f"{single}?private=true") == 403
        assert await stage.post("cat", {"n": 4}, f"{single}?private=true") == 202

        def message(topic: str, number: int, *, private: bool = True) -> Any:
            payload = {"n": number}
            return {"topic": topic, "event": "m", "payload": payload, "private": private}

        # A batch is sent whole, or nothing of it is.
        batch = [message("room", 5, private=False), message("other", 6), message("room", 7)]
        assert await stage.post("cat", {"messages": batch}) == 403
        assert await stage.post("ann", {"messages": batch}) == 202
        numbers = [frame[4]["payload"]["n"] for frame in await bob.drain()]
        assert numbers == [1, 4, 7]
        assert [frame[4]["payload"]["n"] for frame in await public.drain()] == [2, 5]
        many = [message("room", 0)] * 10 + [message(f"none {n}", 0) for n in range(100)]
        assert await stage.post("ann", {"messages": many}) == 403
        assert await bob.drain() == []


async def test_requests_are_told_what_is_wrong_with_policies(stage: Stage) -> None:
    path = "/api/broadcast/room/events/m?private=true"
    for claims, expected in (
        ({"role": "nobody at all"}, 422),
        ({"role": None}, 403),
        ({"slow": 30}, 422),
        ({"slow": "soon"}, 422),
    ):
        token = stage.token("ann", **claims)
        request = post(b"1", f"apikey: {token}".encode(), path=path.encode())
        assert status(await exchange(stage.server.port, request)) == expected, claims


async def test_without_the_database_public_rooms_go_on_and_private_ones_come_back(
    stage: Stage, pg18: Server
) -> None:
    async with (
        stage.client("ann") as private,
        stage.client("bob") as bob,
        stage.client("ann") as public,
    ):
        await private.enter()
        await bob.enter()
        assert await private.say(1) == OK
        assert await bob.receive() == bob.heard(1)
        with pg18.down("immediate"):
            await public.enter(private=False)
            assert await public.say(1) == OK
            # What was decided holds.
            assert await private.say(2) == OK
            assert await bob.receive() == bob.heard(2)
            assert await bob.say(3) == refused("unable_to_connect_to_project")
            answer = await public.ask_to_join("realtime:other")
            assert answer["response"]["reason"].startswith("UnableToConnectToProject: ")
            assert await stage.post("ann", 1, "/api/broadcast/room/events/m?private=true") == 503
            assert await stage.post("ann", 1, "/api/broadcast/room/events/m") == 202

        async with asyncio.timeout(30), stage.client("ann") as late:
            while (await late.ask_to_join())["status"] != "ok":
                pass
        await bob.drain()
        # The stream may begin anew only now, and then there is a gap in it.
        while (answer := await bob.say(4)).get("extension"):
            pass
        assert answer == refused("unauthorized")
    # Other tests' channels are told of no gap.
    await eventually(lambda: stage.server.why_not_ready() is None)


# What was broadcast from the database before a client joined.

SEND = "select realtime.send(jsonb_build_object('n', {n}), 'm', 'room', {private})"
NOT_TO_BE_SENT = """
    insert into realtime.messages (topic, extension, event, payload, private, expires_at) values
        ('room', 'broadcast', 'm', '{"n": 200}', true, timestamp '2020-01-01'),
        ('other', 'broadcast', 'm', '{"n": 201}', true, null)
"""
FROM_THE_FUTURE = """
    insert into realtime.messages (topic, extension, event, payload, private, inserted_at)
    select 'room', 'broadcast', 'm', jsonb_build_object('n', n), true,
        timezone('utc', clock_timestamp()) + ahead
    from (values
        (1, interval '-1 second'), (2, '10 seconds'), (3, '1 hour'), (4, '9000 years')
    ) as rows (n, ahead)
"""


def numbers(frames: list[Any]) -> list[int]:
    return [frame[4]["payload"]["n"] for frame in frames]


def is_replayed(frame: Any) -> bool:
    return frame[4]["meta"].get("replayed") is True


@pytest_asyncio.fixture(loop_scope="module")
async def empty(stage: Stage) -> None:
    """No stored messages, and nobody present any more who was in another test."""
    stage.database.execute("delete from realtime.messages")
    await eventually(lambda: b"\nrealtime_room_members 0.0\n" in stage.server.metrics.render())


@pytest.mark.usefixtures("empty")
async def test_stored_messages_come_first_the_newest_and_in_their_order(stage: Stage) -> None:
    execute = stage.database.execute
    for n in range(5):
        execute(SEND.format(n=n, private="true"))
    execute(SEND.format(n=100, private="false"))
    # In one transaction, and bytes, and what has expired or is of another topic.
    execute(";".join(SEND.format(n=n, private="true") for n in range(5, 9)))
    execute(r"select realtime.send_binary('\x00ff'::bytea, 'bin', 'room')")
    execute(NOT_TO_BE_SENT)
    async with stage.client("ann") as ann, stage.client("bob", "1.0.0") as bob:
        answer = await ann.ask_to_join(replay={"limit": 7}, presence={"key": "ann"})
        assert answer["status"] == "ok"
        frames = [await ann.receive() for _ in range(6)]
        assert (numbers(frames), [*map(is_replayed, frames)]) == ([3, 4, 5, 6, 7, 8], [True] * 6)
        stored = execute("select id::text from realtime.messages where topic = 'room'")
        assert {(frame[4]["meta"]["id"],) for frame in frames} < {*stored}
        async with asyncio.timeout(30):
            data = await ann.websocket.recv()
        assert isinstance(data, bytes)
        assert data.endswith(b"}\x00\xff")
        assert b'"replayed":true' in data
        # Who is there comes behind it.
        assert await ann.sees("presence_state") == set()
        # In V1 there are no bytes, and so one more of the others.
        assert (await bob.ask_to_join(replay={"limit": 7}))["status"] == "ok"
        got = [(await bob.receive())["payload"]["payload"]["n"] for _ in range(7)]
        assert got == [*range(2, 9)]
        execute(SEND.format(n=9, private="true"))
        frame = await ann.receive()
        assert (numbers([frame]), is_replayed(frame)) == ([9], False)
        assert (await bob.receive())["payload"]["payload"]["n"] == 9
        assert await ann.drain() == await bob.drain() == []


@pytest.mark.usefixtures("empty")
async def test_since_counts_and_public_channels_have_no_replay(stage: Stage) -> None:
    stage.database.execute(SEND.format(n=1, private="true"))
    [(since,)] = stage.database.execute(
        "select extract(epoch from clock_timestamp())::float8 * 1000"
    )
    stage.database.execute(SEND.format(n=2, private="true"))
    async with stage.client("ann") as ann:
        answer = await ann.ask_to_join(private=False, replay={})
        assert answer["response"]["reason"].startswith("UnableToReplayMessages: only private")
        assert (await ann.ask_to_join(replay={"since": since}))["status"] == "ok"
        assert numbers([await ann.receive()]) == [2]
        assert await ann.drain() == []


@pytest.mark.usefixtures("empty")
async def test_what_is_too_large_takes_no_place_among_what_is_replayed(stage: Stage) -> None:
    stage.database.execute(SEND.format(n=1, private="true"))
    stage.database.execute(
        "select realtime.send(jsonb_build_object('n', repeat('x', 300000)), 'm', 'room', true)"
        " from generate_series(1, 10)"
    )
    async with stage.client("ann") as ann:
        assert (await ann.ask_to_join(replay={"limit": 10}))["status"] == "ok"
        assert numbers([await ann.receive()]) == [1]
        assert await ann.drain() == []


@pytest.mark.usefixtures("empty")
async def test_replay_and_what_comes_meanwhile_have_no_gap_and_no_repetition(stage: Stage) -> None:
    done = asyncio.Event()

    async def write() -> None:
        async with await AsyncConnection.connect(stage.database.dsn, autocommit=True) as connection:
            for n in range(300):
                await connection.execute(SEND.format(n=n, private="true").encode())
        done.set()

    async def follow() -> list[int]:
        async with stage.client("ann") as ann:
            # On a busy machine so many joins at once may be too many for a moment.
            while (await ann.ask_to_join(replay={"limit": 25}))["status"] != "ok":
                pass
            found: list[int] = []
            while not found or found[-1] != 299:
                found += numbers([await ann.receive()])
            return found

    async def come_and_go() -> list[list[int]]:
        followers: list[asyncio.Task[list[int]]] = []
        while not done.is_set():
            followers.append(asyncio.create_task(follow()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), 0.02)
        return await asyncio.gather(*followers)

    _, found = await asyncio.gather(write(), come_and_go())
    for each in found:
        assert each == [*range(each[0], 300)]
    assert any(len(each) > 25 for each in found)


@pytest.mark.usefixtures("empty")
async def test_what_members_have_is_waited_for_until_the_database_shows_it(
    stage: Stage, pg18: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that waits for a standby is in the stream, and not visible yet."""
    execute = stage.database.execute
    async with stage.client("ann") as ann, stage.client("bob") as bob, stage.client("ann") as late:
        await ann.enter()
        with pg18.setting("synchronous_standby_names", "nobody"):
            await eventually(lambda: execute("show synchronous_standby_names") == [("nobody",)])
            send = SEND.format(n=1, private="true")
            committing = asyncio.create_task(asyncio.to_thread(execute, send))
            assert numbers([await ann.receive()]) == [1]
            with monkeypatch.context() as patch:
                patch.setattr("realtime_server.messages.stored_messages._VISIBLE_WITHIN", 0.1)
                answer = await bob.ask_to_join(replay={})
            assert answer["response"]["reason"].startswith("UnableToReplayMessages: ")
            # Whoever wants no replay need not wait.
            await bob.enter()
            joining = asyncio.create_task(late.ask_to_join(replay={}))
            assert await bob.drain() == []
        await committing
        assert (await joining)["status"] == "ok"
        assert numbers([await late.receive()]) == [1]
        assert await late.drain() == []


@pytest.mark.usefixtures("empty")
async def test_messages_of_the_future_take_no_place_among_what_is_replayed(stage: Stage) -> None:
    stage.database.execute(FROM_THE_FUTURE)
    async with stage.client("ann") as ann:
        assert (await ann.ask_to_join(replay={"limit": 2}))["status"] == "ok"
        assert numbers([await ann.receive() for _ in range(2)]) == [1, 2]
        assert await ann.drain() == []


@pytest.mark.usefixtures("empty")
async def test_a_session_that_answers_nothing_any_more_holds_no_join_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime_server.messages.stored_messages._SILENT", 1.0)
    stage.database.execute(SEND.format(n=1, private="true"))
    async with stage.client("ann") as ann, stage.client("bob") as bob:
        assert (await ann.ask_to_join(replay={}))["status"] == "ok"
        pids = stage.database.execute(
            "select pid from pg_stat_activity where datname = current_database()"
            " and application_name like '%stored messages'"
        )
        try:
            for (pid,) in pids:
                os.kill(pid, signal.SIGSTOP)
            assert (await bob.ask_to_join(replay={}))["status"] == "ok"
            assert numbers([await bob.receive()]) == [1]
        finally:
            for (pid,) in pids:
                os.kill(pid, signal.SIGCONT)


async def test_while_the_database_does_not_answer_other_channels_of_a_connection_go_on(
    stage: Stage,
) -> None:
    async with (
        await AsyncConnection.connect(stage.database.dsn) as locking,
        stage.client("ann") as client,
    ):
        await locking.execute("lock table realtime.messages")
        config = {"config": {"private": True, "broadcast": {"ack": True}}}
        await client.send(ROOM, "phx_join", config, ref="9", join_ref="9")
        await client.enter("realtime:open", private=False)
        assert await client.say(1, "realtime:open") == OK
        await locking.rollback()
        assert await client.receive() == client.reply(
            ROOM, {"postgres_changes": []}, ref="9", join_ref="9"
        )
