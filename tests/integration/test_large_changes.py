"""Changes that are too large (MAX_RECORD_BYTES), in STREAM mode, from each PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.fix_postgres import Server
from tests.integration.conftest import Stage, open_stage
from tests.server_helpers import PhoenixClient

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

MIB = 1024 * 1024
TOO_LARGE = ["Error 413: Payload Too Large"]
DOCS = "create table docs (id int primary key, title text, body text)"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_strict_stage(pg: Server) -> AsyncIterator[Stage]:
    async with open_stage(pg, MAX_RECORD_BYTES="1000") as stage:
        yield stage


@pytest.fixture
def strict_stage(module_strict_stage: Stage) -> Iterator[Stage]:
    """A stage whose changes are soon too large."""
    with module_strict_stage.scene():
        yield module_strict_stage


async def join(stage: Stage, client: PhoenixClient, *selects: list[str] | None) -> None:
    """Join the table's topic, and bindings on it."""
    await client.join(stage.topic("docs"))
    bindings = [
        {"event": "*", "schema": stage.schema, "table": "docs"}
        | ({} if select is None else {"select": select})
        for select in selects
    ]
    await client.send("realtime:room", "phx_join", {"config": {"postgres_changes": bindings}})
    assert (await client.receive())["payload"]["status"] == "ok"
    await client.receive()


def shown(frames: list[Any]) -> list[Any]:
    """Return of each change the kind of its client, what is wrong with it, and its rows."""
    found = []
    for frame in frames:
        payload = frame["payload"]
        data = payload.get("data", payload)
        rows = {name: data[name] for name in ("record", "old_record") if name in data}
        found.append(("new" if "data" in payload else "old", data["errors"], rows))
    return found


async def test_by_default_what_stock_clients_take_is_whole_and_the_rest_is_short(
    stage: Stage,
) -> None:
    await stage.prepare(DOCS)
    async with stage.client() as client:
        await join(stage, client, None)
        # The client is one that closes the connection at one byte more than a MiB.
        frames = await stage.frames(
            client,
            f"insert into docs values (1, 'fits', repeat('x', {MIB - 2048}))",
            f"insert into docs values (2, 'does not', repeat('x', {MIB}))",
            f"insert into docs values (3, 'quoted', repeat('\"', {MIB // 2}))",
            f"insert into docs values (4, 'much', repeat('x', 20 * {MIB}))",
            "insert into docs values (5, 'small', '')",
        )
    assert len(frames) == 10
    for index, generation in enumerate(("old", "new")):
        mine = shown(frames)[index::2]
        assert [one[0] for one in mine] == [generation] * 5
        assert [one[1] for one in mine] == [None, TOO_LARGE, TOO_LARGE, TOO_LARGE, None]
        records = [one[2]["record"] for one in mine]
        assert [str(record["id"]) for record in records] == ["1", "2", "3", "4", "5"]
        assert [len(record.get("body", "-")) for record in records] == [MIB - 2048, 1, 1, 1, 0]
        assert records[1]["title"] == "does not"


async def test_the_limit_counts_the_bytes_of_both_rows(strict_stage: Stage) -> None:
    stage = strict_stage
    await stage.prepare(DOCS, "alter table docs replica identity full")
    async with stage.client() as client:
        await join(stage, client, None)
        frames = await stage.frames(
            client,
            "insert into docs values (1, 'a', repeat('ä', 400))",
            "insert into docs values (2, 'b', repeat('ä', 600))",
            "update docs set title = 'c' where id = 1",
            "delete from docs where id = 2",
        )
    whole = "ä" * 400
    assert shown(frames) == [
        ("old", None, {"record": {"id": "1", "title": "a", "body": whole}}),
        ("new", None, {"record": {"id": 1, "title": "a", "body": whole}}),
        ("old", TOO_LARGE, {"record": {"id": "2", "title": "b"}}),
        ("new", TOO_LARGE, {"record": {"id": 2, "title": "b"}}),
        (
            "old",
            TOO_LARGE,
            {"record": {"id": "1", "title": "c"}, "old_record": {"id": "1", "title": "a"}},
        ),
        (
            "new",
            TOO_LARGE,
            {"record": {"id": 1, "title": "c"}, "old_record": {"id": 1, "title": "a"}},
        ),
        ("old", TOO_LARGE, {"old_record": {"id": "2", "title": "b"}}),
        ("new", TOO_LARGE, {"old_record": {"id": 2, "title": "b"}}),
    ]


async def test_a_selection_of_short_columns_is_whole(strict_stage: Stage) -> None:
    stage = strict_stage
    await stage.prepare(DOCS)
    async with stage.client() as client:
        await join(stage, client, ["title"], ["body"])
        _, title, body = await stage.frames(
            client, "insert into docs values (1, 'a title', repeat('x', 2000))"
        )
    assert shown([title, body]) == [
        ("new", None, {"record": {"id": 1, "title": "a title"}}),
        ("new", TOO_LARGE, {"record": {"id": 1}}),
    ]


async def test_large_changes_are_counted(strict_stage: Stage) -> None:
    stage = strict_stage
    await stage.prepare(DOCS)
    before = stage.server.hub.stats().too_large
    async with stage.client() as client:
        await join(stage, client, None)
        await stage.frames(
            client, "insert into docs select n, '', repeat('x', 2000) from generate_series(1, 3) n"
        )
    counted = f"realtime_too_large_changes_total {before + 3:.1f}"
    assert counted in stage.server.metrics.render().decode().splitlines()
