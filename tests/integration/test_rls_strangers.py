"""What somebody learns of rows that row level security hides: nothing, whatever he sends."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from joserfc.jwk import OctKey

from tests.fix_rls import Stream
from tests.integration.rls_stage import RlsClient, RlsStage, open_rls_stage
from tests.tokens import SECRET, sign_text

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stage(stream: Stream) -> AsyncIterator[RlsStage]:
    async with open_rls_stage(stream.server, **stream.settings, RLS_CHECK_TIMEOUT="250") as stage:
        yield stage


@pytest.fixture
def stage(module_stage: RlsStage) -> Iterator[RlsStage]:
    with module_stage.scene():
        yield module_stage


# Claims.


def written(claims: str) -> str:
    return sign_text(f'{{"exp": 4102444800, {claims}}}', OctKey.import_key(SECRET), alg="HS256")


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        ("9007199254740993.0", "9007199254740992.0"),
        ("1e-400", "2e-400"),
        ("0.1000000000000000055511151231257827", "0.1"),
    ],
)
async def test_a_number_of_another_token_shows_nothing(
    stage: RlsStage, mine: str, other: str
) -> None:
    claim = "(current_setting('request.jwt.claims')::jsonb ->> 'tenant')::numeric"
    stage.make("notes", "id int primary key, tenant numeric", f"tenant = {claim}")
    topic = stage.topic("notes")
    async with stage.client() as one, stage.client() as two:
        one.token = written(f'"role": "{stage.reader}", "tenant": {mine}')
        two.token = written(f'"role": "{stage.reader}", "tenant": {other}')
        await one.sit(topic)
        await two.sit(topic)
        stage.execute(f"insert into notes values (1, {mine}), (2, {other})")
        await stage.settle()
        for client, key in ((one, 1), (two, 2)):
            assert [frame["payload"]["record"]["id"] for frame in await client.drain()] == [key]
        kept = stage.execute(
            "select claims ->> 'tenant' from realtime.subscription"
            " where entity = 'notes'::regclass order by id"
        )
        assert kept == stage.execute(
            f"select ({mine})::numeric::text union all select ({other})::numeric::text"
        )


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ('"sub": "a\\u0000"', "a claim of the token has the character U+0000"),
        ('"sub": "ann", "sub": "bob"', "error occurred when joining"),
    ],
)
async def test_claims_that_cannot_be_told_apart_are_refused(
    stage: RlsStage, claims: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage.make("notes", "id int primary key", None)
    async with stage.client() as client:
        client.token = written(f'"role": "{stage.reader}", {claims}')
        reply = await client.try_join(stage.topic("notes"))
        assert reply["status"] == "error"
        assert reply["response"]["reason"].startswith(reason)
    assert "Traceback" not in caplog.text


# Tables and columns.


def bindings(client: RlsClient, *sent: dict[str, Any]) -> dict[str, Any]:
    return {"config": {"postgres_changes": list(sent)}, "access_token": client.token}


async def test_a_hidden_table_is_refused_as_one_that_is_not_there(stage: RlsStage) -> None:
    stage.execute("create table hidden (id int primary key, salary int)")
    async with stage.client() as client:
        for topic in ("{}", "{}:id=eq.1", "{}:salary=like.x"):
            hidden, missing = [
                await client.try_join(stage.topic(topic.format(name)))
                for name in ("hidden", "absent")
            ]
            assert hidden["status"] == "error"
            assert (
                hidden["response"]["reason"].replace("hidden", "absent")
                == (missing["response"]["reason"])
            )
        for more in ({}, {"filter": "salary=like.x"}, {"select": ["salary"]}):
            hidden, missing = [
                await client.try_join(
                    "realtime:room",
                    bindings(client, {"event": "*", "schema": stage.schema, "table": name, **more}),
                )
                for name in ("hidden", "absent")
            ]
            assert hidden["status"] == "error"
            assert (
                hidden["response"]["reason"].replace("hidden", "absent")
                == (missing["response"]["reason"])
            )


async def test_a_filter_that_fits_no_more_names_no_hidden_column(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, n int, salary int", None, narrow="id, n")
    binding = {"event": "*", "schema": stage.schema, "table": "notes", "filter": "n=gt.1"}
    async with stage.client(role=stage.narrow) as client:
        await client.sit(stage.topic("notes", "n=gt.2"))
        reply = await client.try_join("realtime:room", bindings(client, binding))
        assert reply["status"] == "ok"
        await stage.payloads(client, "insert into notes values (1, 1, 1)")
        frames = await stage.frames(
            client, "alter table notes drop column n", "insert into notes values (2, 1)"
        )
        assert {frame["topic"] for frame in frames if frame["event"] == "system"} == {
            stage.topic("notes", "n=gt.2"),
            "realtime:room",
        }
        assert "the table has changed; join again to hear why" in str(frames)
        assert "salary" not in str(frames)
        # So it is with a stream that does not have a new column yet.
        stage.execute(
            "alter table notes add column m int", f'grant select (m) on notes to "{stage.narrow}"'
        )
        await client.sit(stage.topic("notes", "m=gt.2"))
        binding = {**binding, "filter": "m=gt.1"}
        reply = await client.try_join("realtime:lounge", bindings(client, binding))
        assert reply["status"] == "ok"
        frames = await stage.frames(client, "insert into notes values (3, 1, 3)")
        assert {frame["topic"] for frame in frames if frame["event"] != "system"} == {
            stage.topic("notes", "m=gt.2"),
            "realtime:lounge",
        }
        assert "salary" not in str(frames)


# Errors.

RAISED = ["Error 500: Internal Server Error, row level security raised an error"]
TOO_LONG = ["Error 500: Internal Server Error, row level security took too long"]
CLAIM = "current_setting('request.jwt.claims')::jsonb"


async def told(client: RlsClient) -> dict[str, list[Any]]:
    """Return by topic what a client was told of: errors, and keys without one."""
    found: dict[str, list[Any]] = {}
    for frame in await client.drain():
        if frame["event"] != "system":
            data = frame["payload"].get("data", frame["payload"])
            key = (data.get("record") or data.get("old_record") or {}).get("id")
            found.setdefault(frame["topic"], []).append(data["errors"] or key)
    return found


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        # A claim that is no UUID.
        (f"owner = (select ({CLAIM} ->> 'sub')::uuid)", RAISED),
        (f"case {CLAIM} ->> 'sub' when 'nobody' then pg_sleep(9) is not null end", TOO_LONG),
    ],
)
async def test_an_error_does_not_tell_which_filter_a_hidden_row_passes(
    stage: RlsStage, policy: str, error: list[str]
) -> None:
    stage.make("staff", "id int primary key, salary int, owner uuid", policy)
    for n, threshold in enumerate((10, 499, 500, 501, 90_000)):
        filter = f"salary=gte.{threshold}"
        binding = {"event": "*", "schema": stage.schema, "table": "staff", "filter": filter}
        # Each is somebody else to the server.
        async with stage.client("nobody", attempt=n) as client:
            topic = stage.topic("staff", filter)
            await client.sit(topic)
            reply = await client.try_join("realtime:room", bindings(client, binding))
            assert reply["status"] == "ok"
            stage.execute(
                f"insert into staff values ({n}, 500, gen_random_uuid())",
                f"update staff set owner = gen_random_uuid() where id = {n}",
            )
            await stage.settle()
            received: dict[str, list[Any]] = {}
            while sum(map(len, received.values())) < 4:
                frame = await client.receive()
                if frame["event"] != "system":
                    data = frame["payload"].get("data", frame["payload"])
                    received.setdefault(frame["topic"], []).append(data["errors"])
            assert received == {topic: [error] * 2, "realtime:room": [error] * 2}
            assert await told(client) == {}


async def test_an_error_of_one_row_does_not_tell_which_filter_it_passes(stage: RlsStage) -> None:
    stage.make("staff", "id int primary key, salary int", "salary < 100 and 1 / (salary - 7) < 9")
    filters = ("salary=eq.7", "salary=eq.8", "salary=gte.7", "salary=lt.7")
    async with contextlib.AsyncExitStack() as stack:
        clients = {}
        for filter in filters:
            clients[filter] = await stack.enter_async_context(stage.client(filter))
            await clients[filter].sit(stage.topic("staff", filter))
        whole = await stack.enter_async_context(stage.client("whole"))
        await whole.sit(stage.topic("staff"), *(stage.topic("staff", each) for each in filters))
        # Nothing is wrong with the first one, which is looked at for everybody.
        stage.execute("insert into staff values (1, 9000)", "insert into staff values (2, 7)")
        await stage.settle()
        assert [await told(clients[filter]) for filter in filters] == [{}] * 4
        # Who asks for all rows is told, whatever else is asked for.
        topics = (stage.topic("staff"), *(stage.topic("staff", each) for each in filters))
        assert await told(whole) == {topic: [RAISED] for topic in topics}
        # They go on.
        stage.execute("insert into staff values (3, 8)")
        await stage.settle()
        for filter, keys in zip(filters, ([], [3], [3], []), strict=True):
            assert await told(clients[filter]) == (
                {stage.topic("staff", filter): keys} if keys else {}
            )


# DELETE.

OWN = f"owner = {CLAIM} ->> 'sub'"
STAFF = "id int primary key, salary int not null, owner text, note text"
PASSING = ("id=eq.1", "or(id.eq.1,salary.gt.9000)", "not.and(id.eq.2,salary.eq.500)", "id=neq.3")
UNKNOWN = (
    "salary=eq.500",
    "salary=neq.501",
    "salary=not.eq.501",
    "salary=gte.500",
    "salary=gte.501",
    "and(id.eq.1,salary.eq.500)",
    "or(id.eq.2,salary.eq.500)",
    "salary=not.is.null",
    "note=is.null",
    "owner=eq.ann",
)
IDENTITIES = {
    "full": ("alter table staff replica identity full",),
    "index": (
        "create unique index by_salary on staff (salary)",
        "alter table staff replica identity using index by_salary",
    ),
}


@pytest.mark.parametrize("identity", IDENTITIES)
async def test_a_filter_on_a_delete_sees_the_primary_key_alone(
    stage: RlsStage, identity: str
) -> None:
    stage.make("staff", STAFF, OWN)
    stage.execute(*IDENTITIES[identity])
    # The index is all that is known of the old row then.
    passing = PASSING if identity == "full" else ()
    async with stage.client("bob") as bob, stage.client("ann") as ann:
        for filter in (*PASSING, *UNKNOWN):
            binding = {"schema": stage.schema, "table": "staff", "filter": filter}
            for client in (bob, ann):
                await client.sit(stage.topic("staff", filter))
                for event in ("*", "DELETE"):
                    sent = bindings(client, {**binding, "event": event})
                    reply = await client.try_join(f"realtime:{event} {filter}", sent)
                    assert reply["status"] == "ok"
                    await stage.settle()
                    await client.drain()
        stage.execute("insert into staff values (1, 500, 'ann')", "delete from staff")
        await stage.settle()
        topics = {
            topic
            for filter in passing
            for topic in (
                stage.topic("staff", filter),
                f"realtime:* {filter}",
                f"realtime:DELETE {filter}",
            )
        }
        assert await told(bob) == {topic: [1] for topic in topics}
        # Whose row it was knows no more of it: nobody can say that it was.
        deletes = {
            topic: keys[-1] for topic, keys in (await told(ann)).items() if "DELETE" in topic
        }
        assert deletes == {topic: 1 for topic in topics if "DELETE" in topic}


async def test_it_sees_no_more_beside_a_binding_without_a_filter(stage: RlsStage) -> None:
    """Both get the same columns, so one message names all the bindings that the row passes."""
    stage.make("staff", STAFF, OWN)
    stage.execute(*IDENTITIES["full"])
    wanted = [{"filter": filter} for filter in (*PASSING, *UNKNOWN)]
    sent = [{"event": "DELETE", "schema": stage.schema, "table": "staff"}]
    sent += [sent[0] | one for one in wanted]
    async with stage.client("bob") as bob:
        reply = await bob.try_join("realtime:room", bindings(bob, *sent))
        ids = [one["id"] for one in reply["response"]["postgres_changes"]]
        await stage.settle()
        await bob.drain()
        [payload] = await stage.payloads(
            bob, "insert into staff values (1, 500, 'ann')", "delete from staff"
        )
    assert sorted(payload["ids"]) == sorted(ids[: 1 + len(PASSING)])


async def test_without_row_level_security_a_filter_sees_the_whole_old_row(stage: RlsStage) -> None:
    stage.make("staff", STAFF, None)
    stage.execute(*IDENTITIES["full"], "insert into staff values (1, 500, 'ann')")
    async with stage.client("bob") as bob:
        await bob.sit(stage.topic("staff", "salary=eq.500"), stage.topic("staff", "salary=eq.501"))
        await stage.payloads(bob, "update staff set note = ''")
        payloads = await stage.payloads(bob, "delete from staff")
    assert [payload["old_record"]["salary"] for payload in payloads] == [500]


async def test_a_delete_does_not_tell_how_large_the_row_was(stage: RlsStage) -> None:
    stage.make("staff", STAFF, OWN)
    stage.execute(*IDENTITIES["full"])
    async with stage.client("bob") as bob:
        await bob.sit(stage.topic("staff"))
        payloads = []
        for statement in (
            "insert into staff values (1, 500, 'ann', repeat('x', 2000000)), (2, 2, 'ann', '')",
            "delete from staff where id = 1",
            "update staff set owner = 'bob', note = repeat('x', 800000)",
            "update staff set owner = 'ann', note = repeat('x', 2000000)",
            "update staff set owner = 'bob', note = 'small'",
            "delete from staff",
        ):
            payloads += await stage.payloads(bob, statement)
    assert [(one["type"], one["errors"]) for one in payloads] == [
        ("DELETE", None),
        ("UPDATE", None),
        ("UPDATE", None),
        ("DELETE", None),
    ]


async def test_a_join_is_told_that_no_delete_passes(stage: RlsStage) -> None:
    stage.make("staff", STAFF, OWN)
    stage.make("free", STAFF, None)

    async def notes(client: RlsClient, **binding: str) -> list[str]:
        sent = {"event": "DELETE", "schema": stage.schema, "table": "staff", **binding}
        await client.try_join("realtime:room", bindings(client, sent))
        await stage.settle()
        system = [f["payload"] for f in await client.drain() if f["event"] == "system"]
        assert [one["status"] for one in system] == ["ok"] * len(system)
        assert system[0]["message"] == "Subscribed to PostgreSQL"
        return [one["message"] for one in system[1:]]

    async with stage.client() as client:
        assert await notes(client, filter="salary=gt.1") == [
            f"no DELETE of {stage.schema}.staff passes the filter 'salary=gt.1': where row level "
            "security is on, it goes by the primary key (id) alone"
        ]
        for filter in UNKNOWN[:-4]:
            assert len(await notes(client, filter=filter)) == (filter[:2] != "or"), filter
        for filter in PASSING:
            assert await notes(client, filter=filter) == []
        assert await notes(client, filter="salary=gt.1", event="*") == []
        assert await notes(client, filter="salary=gt.1", table="free") == []
