"""InFlight: nothing is acknowledged that a worker has not handed out, or lost with a worker."""

from __future__ import annotations

from random import Random
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import LSN, Position
from realtime_server.workers.in_flight import MOST_ENDS, Behind, InFlight, ToSend

BEHIND = Behind(0, -1, 0)
Envelopes: TypeAlias = InFlight[Position]


def place(number: int) -> Position:
    return Position(LSN(number), 0)


def append(
    in_flight: Envelopes,
    data: bytes,
    upto: Position | None,
    *,
    behind: Behind = BEHIND,
    now: int = 0,
) -> int:
    return in_flight.append(ToSend(data, behind, upto), now)


def join(in_flight: Envelopes, worker: int, now: int = 0) -> list[tuple[int, bytes]]:
    """Return the envelopes that the worker has to be sent."""
    return [(sequence, envelope.data) for sequence, envelope in in_flight.join(worker, now)]


def test_what_all_workers_have_handed_out_may_be_acknowledged() -> None:
    in_flight = Envelopes()
    assert in_flight.is_full
    assert join(in_flight, 1) == []
    assert join(in_flight, 2) == []
    assert not in_flight.is_full
    numbers = [append(in_flight, b"abc", place(number)) for number in (10, 20, 30)]
    assert numbers == [1, 2, 3]
    assert in_flight.size == 9
    assert in_flight.handed_out(1, 3, 1) is None
    assert in_flight.handed_out(2, 2, 1) == place(20)
    assert in_flight.size == 3
    assert in_flight.handed_out(2, 3, 1) == place(30)
    assert in_flight.handed_out(2, 3, 1) is None


def test_an_envelope_without_a_place_is_acknowledged_with_the_next() -> None:
    in_flight = Envelopes()
    in_flight.join(1, 0)
    append(in_flight, b"part", None)
    assert in_flight.handed_out(1, 1, 0) is None
    append(in_flight, b"part", place(10))
    assert in_flight.handed_out(1, 2, 0) == place(10)


def test_who_comes_in_place_of_another_gets_what_that_one_had_not_handed_out() -> None:
    in_flight = Envelopes()
    in_flight.join(1, 0)
    in_flight.join(2, 0)
    for number in (10, 20, 30):
        append(in_flight, b"%d" % number, place(number))
    in_flight.handed_out(1, 3, 0)
    in_flight.handed_out(2, 1, 0)
    in_flight.leave(2, 0)
    # Nobody acknowledges it meanwhile.
    assert in_flight.handed_out(1, 3, 0) is None
    assert join(in_flight, 2) == [(2, b"20"), (3, b"30")]
    assert in_flight.handed_out(2, 3, 0) == place(30)
    # One more than before begins behind what was sent.
    append(in_flight, b"40", place(40))
    assert join(in_flight, 3) == []
    append(in_flight, b"50", place(50))
    in_flight.handed_out(1, 5, 0)
    in_flight.handed_out(2, 5, 0)
    assert in_flight.handed_out(3, 5, 0) == place(50)
    assert in_flight.size == 0


def test_a_worker_that_makes_no_progress_is_given_up_only_if_it_holds_the_others_back() -> None:
    in_flight = Envelopes(max_bytes=10, patience=30)
    in_flight.join(1, 0)
    in_flight.join(2, 0)
    append(in_flight, b"x" * 8, place(10), now=5)
    in_flight.handed_out(1, 1, 5)
    assert in_flight.stalled(100) == []
    append(in_flight, b"x" * 8, place(20), now=100)
    assert in_flight.is_full
    # The first has had nothing to do until now.
    assert in_flight.stalled(101) == [2]
    in_flight.handed_out(2, 1, 101)
    assert not in_flight.is_full
    append(in_flight, b"x" * 8, place(30), now=102)
    assert in_flight.stalled(131) == [1]
    assert in_flight.stalled(132) == [1, 2]


def test_a_worker_cannot_have_handed_out_what_it_was_not_sent() -> None:
    in_flight = Envelopes()
    in_flight.join(1, 0)
    append(in_flight, b"", place(1))
    in_flight.handed_out(1, 1, 0)
    for wrong in (0, 2):
        with pytest.raises(
            ValueError, match=f"worker 1 says that it has handed out envelope {wrong}"
        ):
            in_flight.handed_out(1, wrong, 0)


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1))
def test_each_worker_gets_everything_whoever_dies(seed: int) -> None:
    """A crash repeats what was not handed out; nothing is skipped, nor acknowledged too early."""
    random = Random(seed)
    in_flight = Envelopes()
    sent: dict[int, list[int]] = {}
    done: dict[int, int] = {}
    acknowledged = 0
    for _ in range(150):
        alive = [worker for worker in sent if worker in done]
        choice = random.random()
        if choice < 0.4 and alive:
            number = append(in_flight, b"x", place(in_flight.sequence + 1))
            for worker in alive:
                sent[worker].append(number)
        elif choice < 0.75 and alive:
            worker = random.choice(alive)
            if sent[worker]:
                done[worker] = random.choice(sent[worker])
                sent[worker] = [number for number in sent[worker] if number > done[worker]]
                upto = in_flight.handed_out(worker, done[worker], 0)
                if upto is not None:
                    assert upto.lsn > acknowledged
                    acknowledged = upto.lsn
        elif choice < 0.85 and alive:
            worker = random.choice(alive)
            in_flight.leave(worker, 0)
            del done[worker]
        else:
            worker = random.randrange(3)
            if worker in done:
                continue
            is_new = worker not in sent
            missed = [number for number, _ in in_flight.join(worker, 0)]
            if is_new:
                assert missed == []
                sent[worker] = []
            # Those that died before it had come were not sent to it, but are there.
            expected = (
                []
                if is_new
                else list(range(in_flight.sequence + 1 - len(missed), in_flight.sequence + 1))
            )
            assert missed == expected
            assert missed[: len(sent[worker])] == sent[worker]
            sent[worker] = missed
            done[worker] = missed[0] - 1 if missed else in_flight.sequence
        # Nothing is acknowledged that is still to be handed out by somebody.
        assert all(acknowledged < number for numbers in sent.values() for number in numbers)


def behind(number: int) -> Behind:
    return Behind(number, 0, number)


def test_a_worker_begins_behind_what_the_one_before_it_had_handed_out() -> None:
    in_flight = Envelopes()
    in_flight.join(1, 0)
    in_flight.join(2, 0)
    assert in_flight.begin_of(1) is None
    for number in (10, 20, 30):
        append(in_flight, b"abc", place(number), behind=behind(number))
    assert in_flight.handed_out(1, 3, 0) is None
    assert in_flight.handed_out(2, 2, 0) == place(20)
    in_flight.leave(2, 0)
    assert join(in_flight, 2) == [(3, b"abc")]
    assert in_flight.begin_of(2) == behind(20)
    # One that comes in nobody's place begins behind everything.
    assert join(in_flight, 3) == []
    assert in_flight.begin_of(3) == behind(30)


def test_a_worker_that_does_not_come_back_is_not_waited_for_any_more() -> None:
    in_flight = Envelopes(patience=30)
    in_flight.join(1, 0)
    in_flight.join(2, 0)
    append(in_flight, b"abc", place(10), behind=behind(10))
    assert in_flight.handed_out(1, 1, 0) is None
    in_flight.leave(2, 100)
    assert in_flight.forget_left(129) == []
    assert in_flight.let_go() is None
    assert in_flight.forget_left(130) == [2]
    assert in_flight.let_go() == place(10)
    assert in_flight.size == 0
    assert join(in_flight, 2, 131) == []
    assert in_flight.begin_of(2) == behind(10)


def test_a_worker_is_stuck_whose_processes_end_at_the_same_envelope() -> None:
    in_flight = Envelopes()
    in_flight.join(1, 0)
    in_flight.join(2, 0)

    def end(times: int) -> None:
        for _ in range(times):
            in_flight.leave(1, 0)
            in_flight.join(1, 0)

    # Nothing waits for it: whatever it ends of, it is no change.
    end(MOST_ENDS)
    append(in_flight, b"10", place(10))
    append(in_flight, b"20", place(20))
    end(MOST_ENDS - 1)
    in_flight.handed_out(1, 1, 0)
    # It has made progress.
    end(MOST_ENDS - 1)
    in_flight.leave(1, 0)
    assert in_flight.is_stuck(1)
    assert not in_flight.is_stuck(2)


def test_a_worker_that_ends_now_and_then_is_not_stuck() -> None:
    in_flight = Envelopes()
    in_flight.join(1, 0)
    for number in range(1, 4 * MOST_ENDS):
        append(in_flight, b"%d" % number, place(number))
        if number > 2:
            in_flight.handed_out(1, number - 2, 0)
        in_flight.leave(1, 0)
        assert not in_flight.is_stuck(1)
        in_flight.join(1, 0)
