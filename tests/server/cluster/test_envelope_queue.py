"""EnvelopeQueue: events of envelopes, and gaps where some are missing."""

from __future__ import annotations

import asyncio

import pytest

from realtime_core import Gap, GapReason, Idle, Position, StreamIdentity
from realtime_core.errors import ServerError
from realtime_core.lsn import LSN
from realtime_core.positions import LAST_INDEX
from realtime_server.cluster.chain import HoleError
from realtime_server.cluster.envelope import (
    Envelope,
    EnvelopeError,
    Kind,
    begin_of_log,
    decode,
    encode,
)
from realtime_server.cluster.envelope_queue import MAX_BYTES, EnvelopeQueue
from realtime_server.cluster.packer import Packer
from realtime_server.cluster.unpacker import Unpacker
from realtime_server.fanout.turns import SLICE
from tests.stopped_clock import stop_the_clock

STREAM = StreamIdentity(7, 1, ("shop",))


def mark(lsn: int, prev: int, generation: int = 0) -> Envelope:
    place = (generation, lsn, 0)
    # Each that was read has a stream of its own.
    return decode(encode(Envelope(Kind.MARK, place, place, (generation, prev, 0), STREAM, b"")))


def idle(lsn: int) -> Idle:
    return Idle(Position(LSN(lsn), 0, STREAM))


async def next_of(queue: EnvelopeQueue) -> list[object]:
    async with asyncio.timeout(10):
        return list(await queue.next_batch())


async def test_a_hole_is_a_gap_up_to_what_is_there() -> None:
    queue = EnvelopeQueue(Unpacker((0, 1, 0), STREAM), tells_holes=True)
    for number, envelope in enumerate([mark(2, 1), mark(9, 8), mark(10, 9)], 1):
        queue.put(number, envelope)
    assert await next_of(queue) == [idle(2)]
    after, until = Position(LSN(2), 0, STREAM), Position(LSN(8), 1, STREAM)
    assert await next_of(queue) == [Gap(after, until, GapReason.LOG_BEHIND), idle(9)]
    assert await next_of(queue) == [idle(10)]
    assert (queue.gaps, queue.holes) == (1, 1)


async def test_a_gap_behind_a_transaction_ends_where_the_next_may_begin() -> None:
    queue = EnvelopeQueue(Unpacker((0, 1, 0), STREAM), tells_holes=True)
    place = (0, 9, 0)
    queue.put(1, Envelope(Kind.MARK, place, place, (0, 7, LAST_INDEX), STREAM, b""))
    (gap, _) = await next_of(queue)
    assert isinstance(gap, Gap)
    assert gap.until == Position(LSN(8), 0, STREAM)


async def test_a_hole_is_an_error_where_nothing_can_be_missing() -> None:
    queue = EnvelopeQueue(Unpacker((0, 1, 0), STREAM))
    queue.put(1, mark(9, 8))
    for _ in range(2):
        with pytest.raises(HoleError):
            await next_of(queue)


async def test_changes_that_cannot_be_read_are_a_gap_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = EnvelopeQueue(Unpacker((0, 1, 0), STREAM), tells_holes=True)
    place, prev = (0, 5, 0), (0, 2, 0)
    queue.put(6, mark(2, 1))
    queue.put(7, Envelope(Kind.CHANGES, place, place, prev, STREAM, b"\0\0\0\0\1x"))
    queue.put(8, mark(6, 5))
    assert await next_of(queue) == [idle(2)]
    after, until = Position(LSN(2), 0, STREAM), Position(LSN(5), 1, STREAM)
    assert await next_of(queue) == [Gap(after, until, GapReason.LOG_BEHIND)]
    (event,) = await next_of(queue)
    assert event == idle(6)
    assert (queue.gaps, queue.holes) == (1, 1)
    assert "envelope 7 cannot be read" in caplog.text
    assert isinstance(event, Idle)
    assert queue.acknowledged(event) == 8


async def test_changes_that_cannot_be_read_are_an_error_where_nothing_can_be_missing() -> None:
    queue = EnvelopeQueue(Unpacker((0, 1, 0), STREAM))
    place = (0, 5, 0)
    queue.put(7, Envelope(Kind.CHANGES, place, place, (0, 1, 0), STREAM, b"x"))
    for _ in range(2):
        with pytest.raises(EnvelopeError, match="envelope 7"):
            await next_of(queue)


async def test_a_piece_without_its_first_part_is_part_of_the_hole() -> None:
    queue = EnvelopeQueue(Unpacker((0, 1, 0), STREAM), tells_holes=True)
    prev, place = (0, 4, 0), (0, 5, 0)
    queue.put(7, Envelope(Kind.CHANGES, prev, prev, prev, STREAM, b"x", 2, 3))
    queue.put(8, Envelope(Kind.CHANGES, place, place, prev, STREAM, b"x", 3, 3))
    queue.put(9, mark(6, 5))
    after, until = Position(LSN(1), 0, STREAM), Position(LSN(5), 1, STREAM)
    assert await next_of(queue) == [Gap(after, until, GapReason.LOG_BEHIND), idle(6)]


async def test_a_mark_ends_the_hole_that_lost_parts_have_left() -> None:
    queue = EnvelopeQueue(Unpacker((0, 1, 0), STREAM), tells_holes=True)
    prev, place = (0, 4, 0), (0, 5, 0)
    queue.put(8, Envelope(Kind.CHANGES, place, place, prev, STREAM, b"x", 3, 3))
    queue.put(9, decode(Packer(place, STREAM).repeat().data))
    after, until = Position(LSN(1), 0, STREAM), Position(LSN(5), 1, STREAM)
    gap, event = await next_of(queue)
    assert (gap, event) == (Gap(after, until, GapReason.LOG_BEHIND), idle(5))
    assert isinstance(event, Idle)
    assert queue.acknowledged(event) == 9


@pytest.mark.parametrize("lost", [{2}, {3}, {2, 3}, {2, 3, 4}, {3, 4}])
async def test_a_piece_that_has_lost_parts_in_its_middle_is_part_of_the_hole(
    lost: set[int],
) -> None:
    queue = EnvelopeQueue(Unpacker((0, 4, 0), STREAM), tells_holes=True)
    prev, place = (0, 4, 0), (0, 5, 0)
    for part in range(1, 5):
        first = place if part == 4 else prev
        if part not in lost:
            envelope = Envelope(Kind.CHANGES, first, first, prev, STREAM, b"x", part, 4)
            queue.put(part, envelope)
    queue.put(5, mark(6, 5))
    after, until = Position(LSN(4), 0, STREAM), Position(LSN(5), 1, STREAM)
    assert await next_of(queue) == [Gap(after, until, GapReason.LOG_BEHIND), idle(6)]


async def test_another_chain_begins_behind_a_gap() -> None:
    queue = EnvelopeQueue(Unpacker((3, 100, 0), STREAM), tells_holes=True)
    queue.put(1, mark(9, 8), is_anew=True)
    gap, event = await next_of(queue)
    assert isinstance(gap, Gap)
    assert event == idle(9)


@pytest.mark.parametrize(("lsn", "has_gap"), [(100, False), (101, False), (102, True)])
async def test_a_log_that_was_empty_begins_where_the_slot_is(lsn: int, has_gap: bool) -> None:
    """A reader that has everything up to there is told of no gap, whatever the generation."""
    queue = EnvelopeQueue(Unpacker((3, 100, LAST_INDEX), STREAM), tells_holes=True)
    queue.put(1, begin_of_log(lsn, STREAM))
    queue.put(2, mark(200, lsn - 1))
    found = await next_of(queue)
    assert any(isinstance(event, Gap) for event in found) is has_gap
    assert queue.holes == has_gap


async def test_what_is_acknowledged_goes_on_in_a_log_that_was_made_anew() -> None:
    """Its generations begin at 0 again, and what the former one repeated is not acknowledged."""
    queue = EnvelopeQueue(Unpacker((3, 100, LAST_INDEX), STREAM), tells_holes=True)
    queue.put(499, decode(Packer((3, 100, LAST_INDEX), STREAM).repeat().data))
    begin = begin_of_log(101, STREAM)
    packer = Packer(begin.last, STREAM)
    queue.put(1, begin)
    for number in (2, 3):
        (packed,) = packer.feed(idle(100 * number))
        queue.put(number, decode(packed.data))
    events = [*await next_of(queue), *await next_of(queue)]
    assert events == [idle(200), idle(300)]
    assert [queue.acknowledged(event) for event in events if isinstance(event, Idle)] == [2, 3]


async def test_positions_behind_a_hole_are_not_those_before_it() -> None:
    """Another log may have lower ones, of which those before the hole acknowledge nothing."""
    queue = EnvelopeQueue(Unpacker((3, 100, 0), STREAM), tells_holes=True)
    queue.put(500, mark(101, 100, generation=3))
    queue.put(1, mark(9, 8), is_anew=True)
    (before,) = await next_of(queue)
    _, behind = await next_of(queue)
    assert isinstance(before, Idle)
    assert isinstance(behind, Idle)
    assert queue.acknowledged(before) == 500
    assert queue.acknowledged(behind) == 1
    assert queue.done == (0, 9, 0)


async def test_a_place_that_is_said_once_more_changes_nothing() -> None:
    packer = Packer((0, 5, 0), STREAM)
    again = packer.repeat()
    assert decode(again.data).prev == again.last == (0, 5, 0)
    queue = EnvelopeQueue(Unpacker((0, 5, 0), STREAM), tells_holes=True)
    queue.put(1, decode(again.data))
    queue.put(2, mark(6, 5))
    assert await next_of(queue) == [idle(6)]


async def test_it_is_full_until_something_was_taken() -> None:
    queue = EnvelopeQueue(Unpacker())
    body = b"x" * (MAX_BYTES + 1)
    place = (0, 5, 0)
    queue.put(1, Envelope(Kind.CHANGES, place, place, (0, 4, 0), STREAM, body))
    waiting = asyncio.create_task(queue.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    with pytest.raises(EnvelopeError):
        await next_of(queue)
    async with asyncio.timeout(10):
        await waiting


async def test_it_is_full_of_envelopes_without_changes_as_well() -> None:
    queue = EnvelopeQueue(Unpacker())
    envelope = mark(2, 1)
    for number in range(MAX_BYTES // 50):
        queue.put(number, envelope)
    waiting = asyncio.create_task(queue.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_what_has_come_is_handed_over_before_the_end_is_told() -> None:
    queue = EnvelopeQueue(Unpacker())
    queue.put(1, mark(2, 1))
    queue.end(ServerError("the end"))
    assert await next_of(queue) == [idle(2)]
    with pytest.raises(ServerError, match="the end"):
        await next_of(queue)


async def test_other_work_runs_although_there_always_is_an_envelope(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, loop = stop_the_clock(monkeypatch), asyncio.get_running_loop()
    queue = EnvelopeQueue(Unpacker((0, 1, 0), STREAM))
    for number in range(2, 10):
        queue.put(number, mark(number, number - 1))
    rounds = 0

    def count() -> None:
        nonlocal rounds
        rounds += 1
        loop.call_soon(count)

    loop.call_soon(count)
    found = []
    for _ in range(8):
        await queue.next_batch()
        found.append(rounds)
        # What is done with the events.
        clock.now += SLICE * 0.4
    # The first three begin within one slice of time, and so on.
    assert found == [0, 0, 0, 1, 1, 1, 2, 2]
