"""Dispatch: who gets what in one write, and when it gives way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

import attrs
import pytest

from realtime_server.fanout.dispatch import Dispatch, Members
from realtime_server.fanout.frames import Frames, TextFrame
from realtime_server.fanout.output_rate import OutputRate
from realtime_server.fanout.turns import SLICE, run_steps
from tests.server_helpers import RecordingOutbox, texts

LARGE = b"x" * 40_000


class Clock:
    """Goes on when it is told to; with a step, also each time that it is read."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def dispatching(clock: Clock) -> Dispatch:
    return Dispatch(clock, OutputRate(clock))


@attrs.define(eq=False)
class Someone:
    is_open: bool = True


def members(*outboxes: RecordingOutbox) -> Members:
    return Members({outbox: Someone() for outbox in outboxes}, is_current=True)


def leave(group: Members, *leavers: RecordingOutbox) -> None:
    group.is_current = False
    for leaver in leavers:
        cast(Someone, group[leaver]).is_open = False


def written(outbox: RecordingOutbox) -> list[list[str]]:
    """Return the messages of each write."""
    return [texts(data) for data in outbox.writes]


@pytest.fixture
def dispatch() -> Dispatch:
    return dispatching(Clock())


def test_each_outbox_is_written_to_once_whatever_there_is(dispatch: Dispatch) -> None:
    outboxes = [RecordingOutbox() for _ in range(3)]
    group = members(*outboxes)
    for number in range(10):
        dispatch.add(group, TextFrame(b"%d" % number))
    assert list(dispatch.hand_out()) == []
    for outbox in outboxes:
        assert written(outbox) == [[str(number) for number in range(10)]]


def test_all_who_get_the_same_are_written_the_same_object() -> None:
    outboxes = RecordingOutbox(), RecordingOutbox()
    group = members(*outboxes)
    dispatch = dispatching(Clock())
    dispatch.add(group, TextFrame(b"one"))
    dispatch.add(group, TextFrame(b"two"))
    list(dispatch.hand_out())
    first, second = (outbox.writes for outbox in outboxes)
    assert first[0] is second[0]


def test_an_outbox_gets_what_came_for_any_of_its_groups_in_the_order_in_which_it_came(
    dispatch: Dispatch,
) -> None:
    both, one = RecordingOutbox(), RecordingOutbox()
    odd, even = members(both, one), members(both)
    for number in range(1, 6):
        dispatch.add(odd if number % 2 else even, TextFrame(b"%d" % number))
    list(dispatch.hand_out())
    assert written(both) == [["1", "2", "3", "4", "5"]]
    assert written(one) == [["1", "3", "5"]]


def test_nothing_is_handed_out_twice(dispatch: Dispatch) -> None:
    outbox = RecordingOutbox()
    dispatch.add(members(outbox), TextFrame(b"x"))
    list(dispatch.hand_out())
    list(dispatch.hand_out())
    assert written(outbox) == [["x"]]


def test_it_gives_way_when_its_slice_is_over_and_goes_on_where_it_stood() -> None:
    clock = Clock(SLICE / 3.5)
    dispatch = dispatching(clock)
    outboxes = [RecordingOutbox() for _ in range(10)]
    # So large that it looks at the clock after each.
    dispatch.add(members(*outboxes), TextFrame(LARGE))
    served = [sum(map(bool, (outbox.writes for outbox in outboxes)))]
    for _ in dispatch.hand_out():
        served.append(sum(map(bool, (outbox.writes for outbox in outboxes))))
    assert served == [0, 4, 8]
    assert all(written(outbox) == [[LARGE.decode()]] for outbox in outboxes)


def test_it_looks_at_the_clock_after_so_many_bytes() -> None:
    clock = Clock(SLICE)
    dispatch = dispatching(clock)
    outboxes = [RecordingOutbox() for _ in range(100)]
    dispatch.add(members(*outboxes), TextFrame(b"x" * 1000))
    handing_out = dispatch.hand_out()
    next(handing_out)
    served = sum(map(bool, (outbox.writes for outbox in outboxes)))
    assert 20 <= served <= 40


@pytest.mark.parametrize("others", [True, False])
def test_who_leaves_while_it_gives_way_gets_nothing_more(others: bool) -> None:
    dispatch = dispatching(Clock(SLICE))
    first, leaver, last = (RecordingOutbox() for _ in range(3))
    group, other = members(first, leaver, last), members(last)
    dispatch.add(group, TextFrame(LARGE))
    if others:
        dispatch.add(other, TextFrame(b"y"))
    handing_out = dispatch.hand_out()
    next(handing_out)
    leave(group, leaver, last)
    list(handing_out)
    assert written(first) == [[LARGE.decode()]]
    assert written(leaver) == []
    assert written(last) == ([["y"]] if others else [])


def test_who_left_before_it_was_handed_out_gets_nothing() -> None:
    dispatch = dispatching(Clock())
    stays, leaver = RecordingOutbox(), RecordingOutbox()
    group = members(stays, leaver)
    dispatch.add(group, TextFrame(b"x"))
    leave(group, leaver)
    list(dispatch.hand_out())
    assert (written(stays), written(leaver)) == ([["x"]], [])


# Those who are behind.


def pauses(dispatch: Dispatch) -> int:
    return sum(seconds > 0 for seconds in dispatch.hand_out())


MUCH = b"x" * 300_000
"""More than what may be written however fast it comes."""


def test_the_next_waits_while_most_are_behind_but_not_for_ever(dispatch: Dispatch) -> None:
    outboxes = [RecordingOutbox() for _ in range(4)]
    group = members(*outboxes)
    for outbox in outboxes[:3]:
        outbox.is_behind = True
    dispatch.add(group, TextFrame(MUCH))
    assert pauses(dispatch) == 20
    dispatch.add(group, TextFrame(MUCH))
    waiting = dispatch.hand_out()
    assert next(waiting) == 0
    assert next(waiting) > 0
    outboxes[0].is_behind = False
    assert list(waiting) == []


def test_the_few_who_are_behind_are_not_waited_for(dispatch: Dispatch) -> None:
    outboxes = [RecordingOutbox() for _ in range(4)]
    for outbox in outboxes[:2]:
        outbox.is_behind = True
    dispatch.add(members(*outboxes), TextFrame(MUCH))
    assert pauses(dispatch) == 0


def test_the_few_who_are_behind_have_a_round_of_the_event_loop_behind_each_write(
    dispatch: Dispatch,
) -> None:
    outboxes = [RecordingOutbox() for _ in range(4)]
    group = members(*outboxes)
    for is_behind, steps in ((False, []), (True, [0.0]), (True, [0.0]), (False, [])):
        outboxes[2].is_behind = is_behind
        dispatch.add(group, TextFrame(MUCH))
        assert list(dispatch.hand_out()) == steps


def test_the_few_who_alone_get_much_are_not_waited_for_while_others_get_something() -> None:
    clock = Clock()
    rate = OutputRate(clock)
    few = [RecordingOutbox() for _ in range(5)]
    for outbox in few:
        outbox.is_behind = True
    others = members(*(RecordingOutbox() for _ in range(20)))
    found = []
    for _ in range(4):
        dispatch = Dispatch(clock, rate)
        dispatch.add(others, TextFrame(b"x"))
        assert pauses(dispatch) == 0
        dispatch.add(members(*few), TextFrame(MUCH))
        found.append(pauses(dispatch))
        clock.now += 0.8
    assert found == [0, 0, 0, 0]
    # When the others get nothing any more, they do not wait with them.
    for _ in range(4):
        clock.now += 0.8
        dispatch = Dispatch(clock, rate)
        dispatch.add(members(*few), TextFrame(MUCH + MUCH))
        found.append(pauses(dispatch))
    assert found[-1] == 20


def test_nobody_is_waited_for_after_a_little(dispatch: Dispatch) -> None:
    outbox = RecordingOutbox()
    outbox.is_behind = True
    dispatch.add(members(outbox), TextFrame(b"x" * 10_000))
    assert pauses(dispatch) == 0


def test_nobody_is_waited_for_where_changes_come_no_faster_than_they_would_then() -> None:
    clock = Clock()
    dispatch = dispatching(clock)
    outbox = RecordingOutbox()
    outbox.is_behind = True
    group = members(outbox)
    # 500 kB a second, for ever.
    for _ in range(100):
        clock.now += 0.1
        dispatch.add(group, TextFrame(b"x" * 50_000))
        assert pauses(dispatch) == 0
    # And then as much at once.
    found = []
    for _ in range(10):
        dispatch.add(group, TextFrame(b"x" * 50_000))
        found.append(pauses(dispatch) > 0)
    assert found == [False] * 4 + [True] * 6


async def test_a_cancellation_waits_for_the_end_of_the_steps() -> None:
    steps = []

    def stepping() -> Iterator[float]:
        for number in range(3):
            steps.append(number)
            yield 0.0

    going = asyncio.create_task(run_steps(stepping()))
    await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert steps == [0, 1, 2]


def test_it_is_due_when_there_is_enough_or_its_slice_is_over() -> None:
    clock = Clock()
    dispatch = dispatching(clock)
    group = members(RecordingOutbox())
    assert not dispatch.is_due()
    dispatch.add(group, TextFrame(b"x" * 40_000))
    assert not dispatch.is_due()
    dispatch.add(group, TextFrame(b"x" * 40_000))
    assert dispatch.is_due()
    list(dispatch.hand_out())
    assert not dispatch.is_due()
    clock.now = SLICE
    assert dispatch.is_due()


# Ordinals.


class Numbered:
    """Counts what dispatches mark, and has them ping each time."""

    def __init__(self) -> None:
        self.ordinal = 0
        self.recipients: list[int] = []

    def mark(self, recipients: int) -> tuple[int, bytes]:
        self.ordinal += 1
        self.recipients.append(recipients)
        return self.ordinal, b"\x89\x01%d" % self.ordinal


class NotingOutbox:
    """Remembers each write's ordinal and bytes."""

    is_behind = False

    def __init__(self) -> None:
        self.ordinals: list[int] = []
        self.data = b""

    def write(self, frames: Frames) -> None:
        self.ordinals.append(frames.ordinal)
        self.data += frames.plain


def test_all_writes_of_one_hand_out_have_one_ordinal_and_its_ping() -> None:
    clock, ordinals = Clock(), Numbered()
    dispatch = Dispatch(clock, OutputRate(clock), ordinals)
    one, two, three = NotingOutbox(), NotingOutbox(), NotingOutbox()
    for payload in (b"a", b"b"):
        dispatch.add(Members({one: Someone(), two: Someone()}, is_current=True), TextFrame(payload))
        dispatch.add(
            Members({two: Someone(), three: Someone()}, is_current=True), TextFrame(payload)
        )
        asyncio.run(run_steps(dispatch.hand_out()))
    assert [outbox.ordinals for outbox in (one, two, three)] == [[1, 2]] * 3
    assert ordinals.recipients == [3, 3]
    assert one.data == b"\x81\x01a\x89\x011\x81\x01b\x89\x012"


def test_nothing_is_marked_if_there_is_nothing_to_write() -> None:
    clock, ordinals = Clock(), Numbered()
    asyncio.run(run_steps(Dispatch(clock, OutputRate(clock), ordinals).hand_out()))
    assert ordinals.ordinal == 0


def test_what_is_written_after_others_were_written_to_has_a_higher_ordinal() -> None:
    """On each connection ordinals go up in the order of the bytes, whoever writes in between."""
    clock, ordinals = Clock(step=SLICE), Numbered()
    dispatch = Dispatch(clock, OutputRate(clock), ordinals)
    outboxes = [NotingOutbox() for _ in range(4)]
    dispatch.add(Members(dict.fromkeys(outboxes, Someone()), is_current=True), TextFrame(LARGE))
    steps = dispatch.hand_out()
    next(steps)
    next(steps)
    # Another dispatch, that of clients which come back, say.
    ordinals.mark(1)
    for _ in steps:
        pass
    assert [outbox.ordinals for outbox in outboxes] == [[1], [1], [3], [3]]
    assert outboxes[3].data.endswith(b"\x89\x013")


def test_a_message_may_leave_an_outbox_out(dispatch: Dispatch) -> None:
    sender, other, elsewhere = RecordingOutbox(), RecordingOutbox(), RecordingOutbox()
    group, more = members(sender, other), members(sender, elsewhere)
    dispatch.add(group, TextFrame(b"1"), sender)
    dispatch.add(more, TextFrame(b"2"))
    dispatch.add(group, TextFrame(b"3"))
    dispatch.add(more, TextFrame(b"4"), other)
    list(dispatch.hand_out())
    assert [written(one) for one in (sender, other, elsewhere)] == [
        [["2", "3", "4"]],
        [["1", "3"]],
        [["2", "4"]],
    ]
    # The next write leaves nobody out.
    dispatch.add(group, TextFrame(b"5"))
    list(dispatch.hand_out())
    assert written(sender)[1:] == written(other)[1:] == [["5"]]


def test_an_outbox_that_is_left_out_of_all_is_not_written_to(dispatch: Dispatch) -> None:
    sender, other = RecordingOutbox(), RecordingOutbox()
    dispatch.add(members(sender, other), TextFrame(b"1"), sender)
    list(dispatch.hand_out())
    assert (written(sender), written(other)) == ([], [["1"]])
