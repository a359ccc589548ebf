"""Partitioned tables: changes have the name that the publication gives them, and the check asks
the table of that name. Where that has no row level security and a relative has, nobody is shown
anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.fix_postgres import Server
from tests.integration.rls_stage import OWN, RlsStage, open_rls_stage

pytestmark = [
    pytest.mark.integration,
    pytest.mark.pg17,
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stage(pg17: Server) -> AsyncIterator[RlsStage]:
    async with open_rls_stage(pg17) as stage:
        yield stage


@pytest.fixture
def stage(module_stage: RlsStage) -> Iterator[RlsStage]:
    with module_stage.scene():
        yield module_stage
        module_stage.execute(publish(via_root=False))


def publish(*, via_root: bool) -> str:
    return f"alter publication shop set (publish_via_partition_root = {via_root})"


def make(stage: RlsStage, *protected: str) -> None:
    """Make notes with partitions low and high; those that are named have a policy by owner."""
    stage.execute(
        "create table notes (id int primary key, owner text) partition by range (id)",
        "create table low partition of notes for values from (0) to (100)",
        "create table high partition of notes for values from (100) to (200)",
    )
    for table in ("notes", "low", "high"):
        stage.execute(f'grant select on {table} to "{stage.reader}", "{stage.admin}"')
    for table in protected:
        stage.execute(
            f"alter table {table} enable row level security",
            f"create policy p on {table} using ({OWN})",
        )


def seen(payloads: list[Any]) -> list[Any]:
    return [
        (one["table"], one["type"], (one.get("record") or one["old_record"])["id"])
        for one in payloads
        if one["table"] != "fence"
    ]


async def test_under_the_name_of_the_root_its_policies_decide(stage: RlsStage) -> None:
    make(stage, "notes")
    stage.execute(publish(via_root=True))
    async with stage.client("ann") as ann, stage.client("bob") as bob:
        await ann.sit("realtime:*")
        await bob.sit("realtime:*")
        payloads = []
        for statement in (
            "insert into notes values (1, 'ann'), (101, 'ann'), (2, 'bob')",
            "update notes set owner = 'ann' where id = 2",
            "delete from notes where id = 101",
        ):
            payloads += await stage.payloads(ann, statement)
        theirs = [frame["payload"] for frame in await bob.drain()]
    assert seen(payloads) == [
        ("notes", "INSERT", 1),
        ("notes", "INSERT", 101),
        ("notes", "UPDATE", 2),
        ("notes", "DELETE", 101),
    ]
    assert seen(theirs) == [("notes", "INSERT", 2), ("notes", "DELETE", 101)]


async def test_under_the_name_of_a_partition_its_policies_decide(stage: RlsStage) -> None:
    make(stage, "low", "high")
    async with stage.client("ann") as ann:
        await ann.sit("realtime:*")
        payloads = await stage.payloads(ann, "insert into notes values (1, 'ann'), (101, 'bob')")
    assert seen(payloads) == [("low", "INSERT", 1)]


async def test_without_row_level_security_all_is_shown(stage: RlsStage) -> None:
    make(stage)
    stage.execute(publish(via_root=True))
    async with stage.client("bob") as bob:
        await bob.sit("realtime:*")
        payloads = await stage.payloads(bob, "insert into notes values (1, 'ann'), (101, 'ann')")
    assert seen(payloads) == [("notes", "INSERT", 1), ("notes", "INSERT", 101)]


@pytest.mark.parametrize(
    ("via_root", "protected", "name"),
    [(False, "notes", "low"), (True, "low", "notes"), (True, "high", "notes")],
)
async def test_at_odds_nobody_is_shown_a_row(
    stage: RlsStage, via_root: bool, protected: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(stage, protected)
    stage.execute(publish(via_root=via_root))
    async with stage.client("ann") as ann, stage.client(role=stage.admin) as admin:
        await ann.sit("realtime:*")
        await admin.sit("realtime:*")
        payloads = await stage.payloads(
            ann, "insert into notes values (1, 'ann')", "update notes set owner = 'bob'"
        )
        payloads += await stage.payloads(ann, "delete from notes")
        # Who bypasses row level security sees all of it, whatever it says.
        theirs = [frame["payload"] for frame in await admin.drain()]
        assert seen(payloads) == [(name, "DELETE", 1)]
        assert payloads[0]["old_record"] == {"id": 1}
        assert seen(theirs) == [
            (name, "INSERT", 1),
            (name, "UPDATE", 1),
            (name, "DELETE", 1),
        ]
        line = f"rows of {stage.schema}.{name} are shown to nobody"
        assert caplog.text.count(line) == 1
        # What the line says to do.
        stage.execute(
            f"alter table {name} enable row level security",
            f"create policy p on {name} using ({OWN})",
        )
        payloads = await stage.payloads(ann, "insert into notes values (1, 'ann')")
        assert seen(payloads) == [(name, "INSERT", 1)]


async def test_rows_of_a_table_that_inherits_are_not_its_parents(stage: RlsStage) -> None:
    """They may have the same key."""
    stage.make("parent", "id int primary key, owner text")
    stage.execute("create table child () inherits (parent)", "insert into child values (1, 'ann')")
    async with stage.client("ann") as ann:
        await ann.sit(stage.topic("parent"))
        payloads = await stage.payloads(ann, "insert into parent values (1, 'bob')")
    assert payloads == []


async def test_another_table_of_the_same_name_has_other_readers(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text")
    async with stage.client("bob") as bob:
        await bob.sit(stage.topic("notes"))
        stage.make("late", "id int primary key, owner text", None)
        # In one transaction, so that nothing is looked at in between.
        payloads = await stage.payloads(
            bob,
            "begin; insert into notes values (1, 'ann'); drop table notes;"
            " alter table late rename to notes; insert into notes values (1, 'zoe'); commit",
        )
    assert [one["record"]["owner"] for one in payloads] == ["zoe"]
