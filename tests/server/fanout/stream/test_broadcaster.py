"""The broadcaster: publish first, acknowledge then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import timedelta
from typing import Any, cast

import attrs
import pytest

from realtime_core import (
    LSN,
    Begin,
    ChangeSource,
    Commit,
    Event,
    Gap,
    GapReason,
    LogicalMessage,
    Position,
)
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.stream.broadcaster import WithoutMessages, broadcast
from realtime_server.fanout.turns import Steps
from tests.server_helpers import COMMIT_TIME, TRANSACTION, insert, make_metrics, make_relation

TODOS = make_relation()
COMMIT = Commit(TRANSACTION, LSN(9), 0)
GAP = Gap(None, Position(LSN(5)), GapReason.SLOT_MISSING)


class Diary:
    """A source and a hub that write down what happens to them, in order."""

    def __init__(self, batches: Iterable[list[Event]]) -> None:
        self._batches = batches
        self.entries: list[tuple[str, Any]] = []

    async def batches(self) -> AsyncIterator[list[Event]]:
        for batch in self._batches:
            yield batch

    def ack(self, upto: Event) -> None:
        self.entries.append(("ack", upto))

    def publishing(self, events: list[Event]) -> Steps:
        self.entries.append(("publish", events))
        yield 0
        self.entries.append(("published", events))

    # What replay is told.

    def before(self, batch: Sequence[Event]) -> None:
        self.entries.append(("before", batch))

    def after(self) -> None:
        self.entries.append(("after", None))


async def diary(*batches: list[Event]) -> list[tuple[str, Any]]:
    diary = Diary(batches)
    await broadcast(cast(ChangeSource, diary), cast(Hub, diary), make_metrics())
    return diary.entries


async def test_a_batch_is_acknowledged_by_its_last_event_when_it_was_published() -> None:
    one, two, three = (insert(TODOS, str(number), "x") for number in range(3))
    assert await diary([one, two, COMMIT], [three]) == [
        ("publish", [one, two, COMMIT]),
        ("published", [one, two, COMMIT]),
        ("ack", COMMIT),
        ("publish", [three]),
        ("published", [three]),
        ("ack", three),
    ]


async def test_what_has_no_position_of_its_own_is_not_acknowledged() -> None:
    change = insert(TODOS, "1", "x")
    begin = Begin(TRANSACTION)
    assert await diary([change, begin, GAP]) == [
        ("publish", [change, begin, GAP]),
        ("published", [change, begin, GAP]),
        ("ack", change),
    ]
    assert await diary([GAP]) == [("publish", [GAP]), ("published", [GAP])]


async def test_commits_and_messages_are_acknowledged() -> None:
    commit = COMMIT
    message = LogicalMessage(LSN(1), "prefix", b"", None, 0)
    assert await diary([commit], [message]) == [
        ("publish", [commit]),
        ("published", [commit]),
        ("ack", commit),
        ("publish", [message]),
        ("published", [message]),
        ("ack", message),
    ]


async def test_replay_is_told_before_a_batch_is_published_and_when_it_is_with_every_outbox() -> (
    None
):
    one, two = [insert(TODOS, "1", "x"), COMMIT], [insert(TODOS, "2", "x")]
    told = Diary([one, two])
    await broadcast(cast(ChangeSource, told), cast(Hub, told), make_metrics(), replay=told)
    assert told.entries == [
        *(("before", one), ("publish", one), ("published", one), ("after", None), ("ack", COMMIT)),
        *(("before", two), ("publish", two), ("published", two), ("after", None), ("ack", two[0])),
    ]


async def test_what_could_not_be_published_is_not_acknowledged() -> None:
    class Broken(Diary):
        def publishing(self, events: list[Event]) -> Steps:
            yield 0
            raise RuntimeError("out of paper")

    batch: list[Event] = [insert(TODOS, "1", "x")]
    broken = Broken([batch])
    with pytest.raises(RuntimeError, match="out of paper"):
        await broadcast(
            cast(ChangeSource, broken), cast(Hub, broken), make_metrics(), replay=broken
        )
    assert broken.entries == [("before", batch)]


async def test_a_cancellation_waits_until_what_was_begun_is_published_and_acknowledged() -> None:
    change = insert(TODOS, "1", "x")
    diary = Diary([[change, COMMIT], [change]])
    broadcasting = asyncio.create_task(
        broadcast(cast(ChangeSource, diary), cast(Hub, diary), make_metrics(), replay=diary)
    )
    await asyncio.sleep(0)
    broadcasting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await broadcasting
    batch = [change, COMMIT]
    assert diary.entries == [
        ("before", batch),
        ("publish", batch),
        ("published", batch),
        ("after", None),
        ("ack", COMMIT),
    ]


async def test_others_have_their_turn_while_a_batch_is_published() -> None:
    diary = Diary([[insert(TODOS, "1", "x"), COMMIT]])
    loop = asyncio.get_running_loop()
    broadcasting = asyncio.create_task(
        broadcast(cast(ChangeSource, diary), cast(Hub, diary), make_metrics())
    )
    loop.call_soon(diary.entries.append, ("turn", None))
    await broadcasting
    assert [entry[0] for entry in diary.entries] == ["publish", "turn", "published", "ack"]


@pytest.mark.parametrize(
    ("late", "seconds"),
    # A clock that is behind the database's shows no negative times.
    [(1.5, "1.5"), (0.0, "0.0"), (-3.0, "0.0")],
)
async def test_the_time_from_commit_to_socket_is_taken_once_a_batch(
    late: float, seconds: str
) -> None:
    later = attrs.evolve(TRANSACTION, commit_time=COMMIT_TIME + timedelta(days=1))
    batch: list[Event] = [
        GAP,
        Begin(TRANSACTION),
        insert(TODOS, "1", "x"),
        insert(TODOS, "2", "x"),
        Begin(later),
    ]
    batch.append(COMMIT)
    nothing: list[Event] = [GAP, LogicalMessage(LSN(1), "prefix", b"", None, 0)]
    diary, metrics = Diary([batch, nothing]), make_metrics()
    await broadcast(
        cast(ChangeSource, diary),
        cast(Hub, diary),
        metrics,
        clock=lambda: COMMIT_TIME.timestamp() + late,
    )
    lines = metrics.render().decode().splitlines()
    assert "realtime_commit_to_socket_seconds_count 1.0" in lines
    assert f"realtime_commit_to_socket_seconds_sum {seconds}" in lines


async def test_replay_is_told_nothing_of_rows_that_are_broadcast() -> None:
    message = insert(make_relation("realtime", "messages_2026_11_29"), "1", "x")
    row = insert(TODOS, "1", "x")
    whole: list[Event] = [Begin(TRANSACTION), row, message, COMMIT]
    diary = Diary([whole, [message]])
    await broadcast(
        cast(ChangeSource, diary), cast(Hub, diary), make_metrics(), replay=WithoutMessages(diary)
    )
    assert diary.entries == [
        ("before", [whole[0], row, COMMIT]),
        *(("publish", whole), ("published", whole), ("after", None), ("ack", COMMIT)),
        ("before", []),
        *(("publish", [message]), ("published", [message]), ("after", None), ("ack", message)),
    ]
