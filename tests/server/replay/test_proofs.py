"""Proofs: what pongs prove, and who is asked when."""

from __future__ import annotations

import gc
import weakref

import pytest

from realtime_server.fanout.frames import Frames
from realtime_server.replay.connection_proof import ConnectionProof, ping_payload
from realtime_server.replay.places import BEFORE
from realtime_server.replay.proofs import Proofs


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Connection:
    """An outbox whose client answers when the test says so."""

    written = 0

    def __init__(self, proofs: Proofs) -> None:
        self.pings: list[int] = []
        self.proof: ConnectionProof = proofs.connect(self)

    def write(self, frames: Frames) -> None:
        self.written = frames.ordinal
        if frames.ping:
            assert frames.ping == b"\x89\x08" + ping_payload(frames.ordinal)
            self.pings.append(frames.ordinal)
            self.proof.asked(frames.ordinal)

    def answer(self, *ordinals: int) -> None:
        for ordinal in ordinals:
            assert self.proof.pong(ping_payload(ordinal))

    def echo(self, payload: bytes) -> None:
        assert not self.proof.pong(payload)


class Server:
    """Writes to connections, one second after the other."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.proofs = Proofs(interval=1.0, clock=self.clock)

    def connect(self) -> Connection:
        return Connection(self.proofs)

    def write(self, *connections: Connection) -> int:
        ordinal, ping = self.proofs.mark(len(connections))
        for connection in connections:
            connection.write(Frames((), ordinal, ping))
        return ordinal

    def pass_by(self, seconds: float) -> None:
        """Let time go on, and the proofs tick as often as they want to."""
        until = self.clock.now + seconds
        while self.clock.now + self.proofs.tick_interval <= until:
            self.clock.now += self.proofs.tick_interval
            self.proofs.tick()
        self.clock.now = until


@pytest.fixture
def server() -> Server:
    return Server()


def test_a_connection_to_which_nothing_was_written_has_everything(server: Server) -> None:
    server.write(server.connect())
    late = server.connect()
    assert late.proof.written == late.proof.proven == server.proofs.ordinal


def test_a_pong_proves_each_write_up_to_its_ping(server: Server) -> None:
    one = server.connect()
    first = server.write(one)
    second = server.write(one)
    assert one.pings == [first]
    assert (one.proof.written, one.proof.proven) == (second, 0)
    one.answer(first)
    assert (one.proof.written, one.proof.proven) == (second, first)
    assert server.proofs.count == 1


def test_a_busy_connection_is_asked_once_in_an_interval_behind_what_it_gets(
    server: Server,
) -> None:
    one = server.connect()
    for _ in range(80):
        server.write(one)
        server.pass_by(0.125)
    assert one.pings == list(range(1, 80, 8))


def test_who_got_something_that_was_not_asked_is_asked_later_and_then_left_alone(
    server: Server,
) -> None:
    busy, quiet = server.connect(), server.connect()
    first = server.write(busy)
    last = server.write(quiet)
    assert (busy.pings, quiet.pings) == ([first], [])
    server.pass_by(2.0)
    assert (busy.pings, quiet.pings) == ([first], [last])
    server.pass_by(10.0)
    assert (busy.pings, quiet.pings) == ([first], [last])


def test_a_connection_is_asked_with_its_own_ordinal_though_others_are_ahead(
    server: Server,
) -> None:
    one, other = server.connect(), server.connect()
    server.write(other)
    its_own = server.write(one)
    for _ in range(5):
        server.write(other)
    server.pass_by(2.0)
    assert one.pings == [its_own]


def test_a_pong_proves_nothing_that_another_connection_was_asked(server: Server) -> None:
    one, other = server.connect(), server.connect()
    server.write(one)
    of_another = server.write(other)
    server.pass_by(2.0)
    assert other.pings == [of_another]
    one.echo(ping_payload(of_another))
    assert one.proof.proven == 0
    assert one.proof.is_unprovable
    assert server.proofs.unprovable == 1


@pytest.mark.slow
def test_no_more_than_a_thousand_are_asked_in_a_second(server: Server) -> None:
    everybody = [server.connect() for _ in range(5000)]
    assert server.proofs.interval == 5.0
    asked = []
    for _ in range(20):
        server.write(*everybody)
        before = sum(len(one.pings) for one in everybody)
        server.pass_by(1.0)
        asked.append(sum(len(one.pings) for one in everybody) - before)
    assert max(asked) <= 1000
    # In 20 seconds each four times, but for the first interval, in which all are new.
    assert {len(one.pings) for one in everybody} <= {3, 4}


def test_ticks_spread_the_pings_over_the_interval(server: Server) -> None:
    everybody = [server.connect() for _ in range(80)]
    for one in everybody:
        server.write(one)
    server.clock.now = 1.0
    for _ in range(8):
        before = sum(len(one.pings) for one in everybody)
        server.pass_by(server.proofs.tick_interval)
        assert sum(len(one.pings) for one in everybody) - before <= 20
    server.pass_by(1.0)
    assert {len(one.pings) for one in everybody} == {1}


def test_who_left_is_not_asked(server: Server) -> None:
    one, other = server.connect(), server.connect()
    server.write(one)
    server.write(one, other)
    one.proof.close()
    other.proof.close()
    server.pass_by(5.0)
    assert (one.pings, other.pings) == ([1], [])


def test_who_left_is_not_kept_until_its_turn_to_be_asked_would_have_come(server: Server) -> None:
    several = [server.connect() for _ in range(10)]
    server.pass_by(0.5)
    left = [weakref.ref(one) for one in several]
    for one in several:
        one.proof.close()
    del several, one
    gc.collect()
    assert not any(one() for one in left)


# Pongs that are no echo.


@pytest.mark.parametrize("payload", [b"", b"\0", b"1234", b"\0" * 7, b"\0" * 9, b"x" * 125])
def test_pongs_of_another_length_mean_nothing(server: Server, payload: bytes) -> None:
    one = server.connect()
    server.write(one)
    one.echo(payload)
    assert not one.proof.is_unprovable
    one.answer(1)
    assert one.proof.proven == 1


@pytest.mark.parametrize("ordinal", [0, 2, 3, 4, 1 << 63])
def test_eight_bytes_that_the_client_was_not_sent_make_it_unprovable_for_good(
    server: Server, ordinal: int
) -> None:
    one = server.connect()
    for _ in range(3):
        server.write(one)
    one.answer(1)
    one.echo(ping_payload(ordinal))
    assert one.proof.is_unprovable
    server.clock.now = 1.0
    server.write(one)
    one.answer(4)
    assert one.proof.proven == 1
    one.proof.close_answered()
    assert one.proof.proven == 1
    assert server.proofs.unprovable == 1


def test_who_is_unprovable_is_not_asked_by_a_tick(server: Server) -> None:
    one = server.connect()
    one.echo(b"constant")
    server.write(one)
    server.write(one)
    server.pass_by(5.0)
    assert one.pings == [1]


def test_the_last_of_several_pings_may_be_answered_for_all(server: Server) -> None:
    one = server.connect()
    for _ in range(3):
        server.write(one)
        server.pass_by(1.0)
    one.answer(3)
    assert one.proof.proven == 3
    # Late ones, and repeated ones, do no harm.
    for ordinal in (1, 2, 3):
        one.echo(ping_payload(ordinal))
    assert (one.proof.proven, one.proof.is_unprovable) == (3, False)


def test_a_client_that_never_answers_is_remembered_in_bounded_memory(server: Server) -> None:
    one = server.connect()
    for _ in range(10_000):
        server.write(one)
        server.clock.now += 1.0
    assert one.pings == list(range(1, 10_001))
    # Whatever it answers in the end is no invention of its own.
    for ordinal in range(1, 9_990):
        one.proof.pong(ping_payload(ordinal))
    assert not one.proof.is_unprovable
    assert one.proof.proven <= 9_990
    one.answer(9_999)
    assert one.proof.proven == 9_999
    one.echo(ping_payload(10_001))
    assert one.proof.is_unprovable


# Questions.


def test_a_question_is_answered_by_a_pong_to_it_or_to_a_later_ping(server: Server) -> None:
    one = server.connect()
    answers: list[str] = []
    server.write(one)
    first = one.proof.ask(lambda is_there: answers.append(f"first {is_there}"))
    one.proof.ask(lambda is_there: answers.append(f"second {is_there}"))
    one.answer(1)
    assert answers == []
    assert one.proof.proven < first
    one.answer(first)
    assert answers == ["first True"]
    assert one.proof.proven == first
    server.clock.now += 1.0
    one.answer(server.write(one))
    assert answers == ["first True", "second True"]


def test_a_question_is_denied_when_the_connection_ends(server: Server) -> None:
    one = server.connect()
    answers: list[bool] = []
    one.proof.ask(answers.append)
    one.proof.close()
    assert answers == [False]
    one.proof.ask(answers.append)
    assert answers == [False, False]


@pytest.mark.parametrize("by_client", [True, False])
def test_a_question_is_not_denied_while_the_connection_only_closes(
    server: Server, by_client: bool
) -> None:
    one = server.connect()
    server.write(one)
    one.answer(1)
    if by_client:
        one.proof.closed_by_client()
    else:
        one.proof.close_answered()
    known = one.proof.written, one.proof.proven
    answers: list[bool] = []
    one.proof.ask(answers.append)
    # Nothing can be written any more.
    assert one.pings == [1]
    assert (one.proof.written, one.proof.proven) == known
    assert answers == []
    one.proof.close()
    assert answers == [False]


def test_questions_that_a_client_never_answers_are_kept_up_to_a_bound(server: Server) -> None:
    one = server.connect()
    answers: list[int] = []
    for number in range(3000):
        one.proof.ask(lambda is_there, number=number: answers.append(number))
    one.proof.close()
    assert answers == list(range(2000, 3000))


def test_whoever_waits_for_a_write_is_called_however_many_more_there_are(server: Server) -> None:
    one = server.connect()
    proven: list[int] = []
    ordinals = [one.proof.count_write() for _ in range(3000)]
    for ordinal in ordinals:
        one.proof.when_answered(ordinal, lambda is_there, ordinal=ordinal: proven.append(ordinal))
        one.proof.ask(lambda is_there: None)
    for ordinal in ordinals[::2]:
        one.proof.forget(ordinal)
    one.proof.answered(one.proof.ask())
    assert proven == ordinals[1::2]
    one.proof.close()
    assert proven == ordinals[1::2]


def test_a_question_without_a_listener_says_when_it_is_proven(server: Server) -> None:
    one = server.connect()
    ordinal = one.proof.ask()
    assert one.pings == [ordinal]
    one.answer(ordinal)
    assert one.proof.proven == ordinal


# Ends.


def test_a_client_that_closes_has_what_was_proven_at_its_last_message_but_one(
    server: Server,
) -> None:
    one = server.connect()
    for _ in range(4):
        server.clock.now += 25.0
        one.answer(server.write(one))
        one.proof.received()
    assert one.proof.proven == 4
    assert one.proof.proven_before_close == 3
    one.proof.closed_by_client()
    assert one.proof.proven == 3
    # What comes after the close frame changes nothing any more.
    one.proof.close_answered()
    assert one.proof.proven == 3


def test_messages_that_come_together_count_as_one(server: Server) -> None:
    one = server.connect()
    for _ in range(2):
        server.clock.now += 25.0
        one.answer(server.write(one))
        for _ in range(10):
            one.proof.received()
            server.clock.now += 0.1
    one.proof.closed_by_client()
    assert one.proof.proven == 1


def test_messages_that_wait_for_others_had_arrived_with_the_first_of_them(server: Server) -> None:
    one = server.connect()
    # The first has come with the handshake, before anybody took note.
    assert one.proof.arrived == 0
    one.proof.carried_out()
    for server.clock.now in (1.0, 2.0, 3.0):
        one.proof.received()
    assert one.proof.arrived == 1
    one.proof.carried_out()
    one.proof.carried_out()
    server.clock.now = 4.0
    one.proof.received()
    assert one.proof.arrived == 1
    one.proof.carried_out()
    one.proof.carried_out()
    server.clock.now = 5.0
    one.proof.received()
    assert one.proof.arrived == 5


def test_a_client_that_sent_hardly_anything_has_only_what_it_had_at_the_start(
    server: Server,
) -> None:
    server.write(server.connect())
    one = server.connect()
    server.clock.now = 1.0
    one.answer(server.write(one))
    assert one.proof.proven == 2
    one.proof.received()
    one.proof.closed_by_client()
    assert one.proof.proven == 1


def test_the_answer_to_our_close_frame_proves_everything(server: Server) -> None:
    one = server.connect()
    server.write(one)
    server.write(one)
    one.proof.close_answered()
    assert one.proof.proven == one.proof.written == 2


def test_it_does_not_prove_what_came_too_late_to_be_written(server: Server) -> None:
    one = server.connect()
    server.write(one)
    one.proof.doubt()
    server.write(one)
    one.proof.doubt()
    one.proof.close_answered()
    assert (one.proof.proven, one.proof.written) == (1, 2)


def test_the_last_ping_says_that_all_was_read_and_nothing_less_does(server: Server) -> None:
    one = server.connect()
    server.write(one)
    one.answer(1)
    assert not one.proof.has_read_all
    one.proof.ask_finally()
    assert one.pings == [1, 2]
    assert not one.proof.has_read_all
    one.answer(2)
    assert one.proof.has_read_all
    assert one.proof.proven == one.proof.written == 2


def test_the_last_ping_says_nothing_where_something_may_come_behind_it(server: Server) -> None:
    one = server.connect()
    server.write(one)
    one.proof.doubt()
    one.proof.ask_finally()
    one.answer(2)
    assert not one.proof.has_read_all


def test_a_client_that_is_unprovable_is_not_asked_finally(server: Server) -> None:
    one = server.connect()
    one.echo(b"12345678")
    one.proof.ask_finally()
    assert one.pings == []


def test_what_is_proven_stays_readable(server: Server) -> None:
    one = server.connect()
    server.write(one)
    one.answer(1)
    one.proof.close()
    assert (one.proof.written, one.proof.proven) == (1, 1)


# Places.


def test_an_ordinal_has_the_last_place_that_is_wholly_written_up_to_it(server: Server) -> None:
    proofs, one = server.proofs, server.connect()
    assert proofs.place_at(0) == BEFORE
    proofs.note((10, 0))
    server.write(one)
    server.write(one)
    proofs.note((20, 0))
    # Quiet publications: the stream goes on without anything to write.
    proofs.note((30, 0))
    server.write(one)
    assert [proofs.place_at(ordinal) for ordinal in range(4)] == [
        (10, 0),
        (10, 0),
        (30, 0),
        (30, 0),
    ]


@pytest.mark.slow
def test_places_are_remembered_in_bounded_memory_and_never_too_high(server: Server) -> None:
    """A thousand batches a second, for three minutes."""
    proofs = server.proofs
    for number in range(1, 180_001):
        server.clock.now = number / 1000
        proofs.mark(1)
        proofs.note((number, 0))
    places = [proofs.place_at(ordinal)[0] for ordinal in range(180_001)]
    assert len(set(places)) <= 8192
    behind = [ordinal - place for ordinal, place in enumerate(places)]
    assert min(behind) >= 0
    # For half a minute all are some milliseconds too low, at most; of older ones something is left.
    assert max(behind[-30_000:]) <= 10
    assert max(behind[-60_000:]) <= 1000
