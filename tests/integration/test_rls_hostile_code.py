"""What a row's values, and the code of a table's owner, do to others in RLS mode: nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.fix_postgres import Server
from tests.integration.rls_stage import RlsStage, open_rls_stage

pytestmark = [
    pytest.mark.integration,
    pytest.mark.pg17,
    pytest.mark.asyncio(loop_scope="module"),
]

FORGETS = (
    "create function forgets(text) returns bool language plpgsql as"
    " $$ begin execute 'deallocate all'; return true; end $$"
)
MORE_THAN_ARE_NEEDED_TO_PREPARE = 12


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stage(pg17: Server) -> AsyncIterator[RlsStage]:
    async with open_rls_stage(pg17, MAX_RECORD_BYTES="100000") as stage:
        yield stage


@pytest.fixture
def stage(module_stage: RlsStage) -> Iterator[RlsStage]:
    with module_stage.scene():
        yield module_stage


async def test_a_policy_that_deallocates_statements_keeps_nothing_back(
    stage: RlsStage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.execute(FORGETS)
    stage.make("bad", "id int primary key", f"{stage.schema}.forgets('')")
    stage.make("good", "id int primary key", "true")
    numbers = range(MORE_THAN_ARE_NEEDED_TO_PREPARE)
    async with stage.client() as ann, stage.client("bob") as bob:
        await ann.sit(stage.topic("bad"))
        await bob.sit(stage.topic("good"))
        for number in numbers:
            stage.execute(f"insert into bad values ({number})")
            stage.execute(f"insert into good values ({number})")
            await stage.settle()
        for client in (ann, bob):
            rows = [frame["payload"]["record"] for frame in await client.drain()]
            assert rows == [{"id": number} for number in numbers]
    assert "changes wait" not in caplog.text


async def test_a_type_that_deallocates_statements_lets_others_join(stage: RlsStage) -> None:
    stage.execute(FORGETS, "create domain odd as text check (forgets(value))")
    stage.execute(f"alter function forgets set search_path to {stage.schema}")
    stage.make("bad", "id int primary key, value odd", "true")
    stage.make("good", "id int primary key", "true")
    async with stage.client(vsn="2.0.0") as ann, stage.client("bob", vsn="2.0.0") as bob:
        for number in range(MORE_THAN_ARE_NEEDED_TO_PREPARE):
            await ann.sit(stage.topic("bad", f"value=eq.{number}"))
            await bob.sit(stage.topic("good", f"id=eq.{number}"))


@pytest.mark.parametrize(
    "document",
    [
        "('[' || repeat('1', 5000) || ']')::json",
        "('[' || repeat('1', 4350) || ']')::json",
        "(repeat('[', 2000) || repeat(']', 2000))::json",
        """'["\\ud800"]'::json""",
        """('["' || repeat('x', 5000) || '"]')::json""",
    ],
    ids=["long digits", "digits", "levels", "half a pair", "long"],
)
async def test_a_large_change_with_json_that_python_cannot_read_is_told(
    stage: RlsStage, document: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage.make("notes", "id int primary key, document json, body text, tags int[]", "true")
    async with stage.client() as client:
        await client.sit(stage.topic("notes"))
        [told] = await stage.payloads(
            client,
            f"insert into notes values (1, {document}, repeat('x', 200000), '{{1,2}}')",
        )
    assert told["errors"] == ["Error 413: Payload Too Large"]
    shown = dict(told["record"])
    shown.pop("document", None)
    assert shown == {"id": 1, "tags": [1, 2]}
    assert "Traceback" not in caplog.text
