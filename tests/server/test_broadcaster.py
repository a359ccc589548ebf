"""The broadcaster: publish first, acknowledge then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
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
from realtime_core.errors import DecodeError
from realtime_server.broadcaster import broadcast
from realtime_server.hub import Hub
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

    def publishing(self, events: list[Event]) -> Iterator[float]:
        self.entries.append(("publish", events))
        yield 0
        self.entries.append(("published", events))


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


async def test_a_small_transaction_that_comes_in_pieces_is_published_whole() -> None:
    begin, one, two = Begin(TRANSACTION), *(insert(TODOS, str(n), "x") for n in range(2))
    whole = [begin, one, two, COMMIT]
    assert await diary([begin], [one], [two], [COMMIT], [GAP]) == [
        ("publish", whole),
        ("published", whole),
        ("ack", COMMIT),
        ("publish", [GAP]),
        ("published", [GAP]),
    ]


async def test_what_is_much_is_published_without_its_transactions_rest() -> None:
    rows: list[Event] = [insert(TODOS, str(number), "x") for number in range(64)]
    entries = await diary(rows[:63], [rows[63]], [COMMIT])
    assert [entry for entry in entries if entry[0] == "publish"] == [
        ("publish", rows),
        ("publish", [COMMIT]),
    ]


class Stepping(Diary):
    """Its batches are read as a source's are: a cancelled step loses nothing."""

    def batches(self) -> AsyncIterator[list[Event]]:
        return self

    def __aiter__(self) -> AsyncIterator[list[Event]]:
        return self

    def __init__(self, *batches: list[Event] | Exception) -> None:
        super().__init__(())
        self._left = list(batches)
        self._published = asyncio.Event()

    async def __anext__(self) -> list[Event]:
        if not self._left:
            raise StopAsyncIteration
        if isinstance(self._left[0], Exception):
            raise self._left[0]
        if self._left[0] == [COMMIT]:
            await self._published.wait()
        return self._left.pop(0)

    def publishing(self, events: list[Event]) -> Iterator[float]:
        self._published.set()
        return super().publishing(events)


async def test_a_transactions_rest_is_not_waited_for_long() -> None:
    change = insert(TODOS, "1", "x")
    # The commit comes when the change has been published.
    diary = Stepping([change], [COMMIT])
    async with asyncio.timeout(30):
        await broadcast(cast(ChangeSource, diary), cast(Hub, diary), make_metrics())
    assert [entry[1] for entry in diary.entries if entry[0] == "ack"] == [change, COMMIT]


async def test_what_came_before_an_error_is_published_first() -> None:
    change = insert(TODOS, "1", "x")
    diary = Stepping([change], DecodeError("no message"))
    with pytest.raises(DecodeError, match="no message"):
        await broadcast(cast(ChangeSource, diary), cast(Hub, diary), make_metrics())
    assert [entry[0] for entry in diary.entries] == ["publish", "published", "ack"]


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


async def test_what_could_not_be_published_is_not_acknowledged() -> None:
    class Broken(Diary):
        def publishing(self, events: list[Event]) -> Iterator[float]:
            yield 0
            raise RuntimeError("out of paper")

    broken = Broken([[insert(TODOS, "1", "x")]])
    with pytest.raises(RuntimeError, match="out of paper"):
        await broadcast(cast(ChangeSource, broken), cast(Hub, broken), make_metrics())
    assert broken.entries == []


async def test_a_cancellation_waits_until_what_was_begun_is_published_and_acknowledged() -> None:
    change = insert(TODOS, "1", "x")
    diary = Diary([[change, COMMIT], [change]])
    broadcasting = asyncio.create_task(
        broadcast(cast(ChangeSource, diary), cast(Hub, diary), make_metrics())
    )
    await asyncio.sleep(0)
    broadcasting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await broadcasting
    batch = [change, COMMIT]
    assert diary.entries == [("publish", batch), ("published", batch), ("ack", COMMIT)]


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
