"""What waits for the journal is bounded by what there is, however long it cannot be written."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any, cast

import attrs
import pytest

from realtime_server.replay import ledger
from realtime_server.replay.absences import Absence, Absences
from realtime_server.replay.identity import Key
from realtime_server.replay.journal import Journal
from realtime_server.replay.ledger import Ledger
from realtime_server.replay.lost_reasons import LostReason
from realtime_server.replay.membership import Membership
from realtime_server.replay.records import Asked, Seal, digest, journal_secret
from realtime_server.replay.shared_sessions import SharedSessions
from realtime_server.replay.standing import LASTS, Standing
from realtime_server.replay.standings import STEP, Standings
from realtime_server.replay.taken_places import TakenPlaces
from tests.journals import read_message, tell

KEY = Key(b"k" * 16, is_exact=False)


@attrs.define(eq=False)
class Connection:
    """A client's connection, which has got nothing, and its proof."""

    last_ref: int = 1
    has_answered: bool = True
    began: int = 0
    seen: int = 0
    heard: int = 1
    written: int = 0
    proven: int = 0
    sure: int = 0
    is_unprovable: bool = False
    is_overdue: bool = False
    questions: list[Callable[[bool], None]] = attrs.field(factory=list)

    def count_write(self) -> int:
        self.written += 1
        return self.written

    def when_answered(self, ordinal: int, on_answer: Callable[[bool], None]) -> None:
        pass

    def forget(self, ordinal: int) -> None:
        pass

    def ask(self, on_answer: Callable[[bool], None]) -> None:
        self.questions.append(on_answer)


@attrs.define(eq=False)
class Subscription:
    viewer: None = None


def journal_of(server: int, slot: int | None = None) -> Journal:
    secret = journal_secret("password", "secret")
    seal = Seal(secret, digest("shop"), digest(str(slot or server)), server.to_bytes(8))
    return Journal(seal, clock=time.time)


class World:
    """The channels of a process of which nothing has been written yet."""

    handed = (1, 0)

    def __init__(self, journal: Journal | None = None) -> None:
        self.journal = journal or journal_of(1)
        self.standings = Standings(cast(Any, self), time.monotonic)
        self.absences = Absences(window=300, most=1000, clock=time.monotonic)
        self.shared = SharedSessions()
        self.ledger = Ledger(
            self.journal,
            cast(Any, self),
            self.standings,
            self.absences,
            shared=self.shared,
            taken_places=TakenPlaces(window=300, clock=time.monotonic),
            clock=time.monotonic,
            wall_clock=time.time,
        )

    def handed_to(self, viewer: None) -> tuple[int, int]:
        return self.handed

    def join(self, key: Key = KEY) -> Standing:
        connection = cast(Any, Connection())
        member = Membership(key, 1, connection)
        standing = Standing(cast(Any, Subscription()), member, connection, self.handed, 0, 0.0)
        self.standings.add(standing)
        member.is_chosen = True
        self.standings.note(member)
        return standing

    def leave(self, standing: Standing, absence: Absence | None = None) -> None:
        self.standings.end(standing)
        if absence is not None:
            self.absences.add(absence)
            self.standings.on_absence(standing, absence)
        self.standings.remove(standing)


def test_who_came_and_went_while_nothing_could_be_written_does_not_pile_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger, "_FEW", 100)
    world = World()
    stays = [world.join() for _ in range(50)]
    gone = []
    for _ in range(2000):
        standing = world.join()
        world.leave(standing)
        absence = Absence(KEY, 1, (1, 0), time.monotonic())
        world.absences.add(absence)
        world.absences.remove(absence)
        gone.append(weakref.ref(standing))
        del standing
    assert sum(one() is not None for one in gone) <= 200
    tell(world.ledger)
    there = journal_of(2)
    for part in world.journal.write():
        read_message(there, part)
    assert len(there.find(KEY.digest)) == len(stays)


def test_a_channel_that_the_journal_knows_is_ended_however_many_come_and_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger, "_FEW", 10)
    world = World()
    known, there = world.join(), journal_of(2)
    tell(world.ledger)
    for part in world.journal.write():
        read_message(there, part)
    assert len(there.find(KEY.digest)) == 1
    world.leave(known)
    for _ in range(100):
        world.leave(world.join())
    tell(world.ledger)
    for part in world.journal.write():
        read_message(there, part)
    assert there.find(KEY.digest) == []


@pytest.mark.parametrize("is_written", [True, False])
def test_the_places_of_those_who_are_away_are_not_written_after_another_stream_has_begun(
    is_written: bool,
) -> None:
    world, there = World(), journal_of(2)
    absence = Absence(KEY, 1, (500, 0), time.monotonic())
    world.absences.add(absence)
    if is_written:
        tell(world.ledger)
        for part in world.journal.write():
            read_message(there, part)
        assert len(there.find(KEY.digest)) == 1
    world.absences.lose_all(LostReason.LOST)
    world.journal.begin_anew()
    # The record is made before it is noted for each of the absences that it is lost.
    tell(world.ledger)
    for part in world.journal.write():
        read_message(there, part)
    assert there.find(KEY.digest) == []
    assert absence.lost is None


def test_who_comes_from_a_process_that_is_not_understood_is_told_of_a_gap() -> None:
    world, other = World(), journal_of(2)
    other.joined(1, KEY.digest, 5, (1, 0))
    for data in other.write():
        read_message(world.journal, data)
    [member] = world.journal.find(KEY.digest)
    world.journal.on_lost(member)
    [*_, absence] = [one for one in world.absences.of(KEY) if one.lost is not None]
    assert (absence.ref, absence.place, absence.lost) == (5, (1, 0), LostReason.LOST)


@pytest.mark.parametrize("answers", [True, False])
def test_who_answers_though_its_session_has_come_to_another_process_shares_it(
    answers: bool,
) -> None:
    session = Key(b"s" * 16, is_exact=True)
    world, other = World(), journal_of(2)
    standing = world.join(session)
    tell(world.ledger)
    for part in world.journal.write():
        read_message(other, part)
    [member] = other.find(session.digest)
    other.add(Asked(member.server, member.number))
    for part in other.write():
        read_message(world.journal, part)
    shared: list[bytes] = []
    other.on_shared = shared.append
    [answer] = cast(Any, standing.proof).questions
    answer(answers)
    assert world.shared.is_exact(session) is not answers
    for _ in range(2):
        for part in world.journal.write():
            read_message(other, part)
    assert shared == [session.digest] * answers


@pytest.mark.parametrize("when", ["asked first", "left first", "told first", "answered"])
def test_a_channel_whose_client_goes_on_at_another_process_leaves_no_absence(when: str) -> None:
    """Otherwise the client would find its old place again, and look like two clients."""
    session = Key(b"s" * 16, is_exact=True)
    world, other = World(), journal_of(2)
    standing = world.join(session)

    def write() -> None:
        tell(world.ledger)
        for part in world.journal.write():
            read_message(other, part)

    write()
    [member] = other.find(session.digest)
    other.add(Asked(member.server, member.number))
    absence = Absence(session, 1, (1, 0), time.monotonic())
    if when.endswith("first") and when != "asked first":
        world.leave(standing, absence)
        if when == "told first":
            write()
            [away] = other.find(session.digest)
            assert (away.number, away.may_be_there) == (member.number, False)
    for part in other.write():
        read_message(world.journal, part)
    if when == "answered":
        # So this is another client.
        cast(Any, standing.proof).heard += 1
    if not when.endswith("first") or when == "asked first":
        world.leave(standing, absence)
    write()
    stays = when == "answered"
    assert world.absences.has(absence) is stays
    assert len(other.find(session.digest)) == stays


def test_the_journal_is_told_in_steps_and_a_record_has_everything_all_the_same() -> None:
    world, there = World(), journal_of(2)
    standings = [world.join() for _ in range(10 * STEP)]
    telling = world.ledger.telling()
    next(telling)
    # Others run in between: some leave, and a record is made.
    for standing in standings[::2]:
        world.leave(standing)
    tell(world.ledger)
    for part in world.journal.write():
        read_message(there, part)
    assert len(there.find(KEY.digest)) == 5 * STEP
    assert sum(1 for _ in telling) == 0
    for standing in standings[1::2]:
        world.leave(standing)
    assert sum(1 for _ in world.ledger.telling()) == 5
    for part in world.journal.write():
        read_message(there, part)
    assert there.find(KEY.digest) == []


def pass_on(world: World, there: Journal, *, whole: bool = False) -> None:
    """Have another process read what a world's process tells the journal."""
    tell(world.ledger)
    for part in world.journal.write(snapshot=whole):
        read_message(there, part)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("is_killed", [False, True])
def test_who_is_owed_a_gap_is_told_of_it_by_the_next_process(whole: bool, is_killed: bool) -> None:
    world, there = World(), journal_of(2)
    standing = world.join()
    standing.go_live()
    world.standings.lose(standing)
    pass_on(world, there, whole=whole)
    if is_killed:
        successor = journal_of(3, slot=1)
        for part in [*there.write(snapshot=True), *successor.write(boot=True)]:
            read_message(successor, part)
        there = successor
    [member] = there.find(KEY.digest)
    assert (member.lost, member.may_be_there) == (LostReason.LOST, not is_killed)
    assert there.lowest() is None, "nothing is kept for it"
    [absence] = World(there).absences.of(KEY)
    assert absence.lost is LostReason.LOST


def test_who_has_proven_to_know_of_a_gap_is_not_told_again() -> None:
    world, there = World(), journal_of(2)
    standing = world.join()
    standing.go_live()
    world.standings.lose(standing)
    pass_on(world, there)
    connection = cast(Any, standing.proof)
    connection.proven = connection.sure = connection.written
    for now in (0.0, 0.0, LASTS):
        for _ in world.standings.settling(now):
            pass
    pass_on(world, there)
    [member] = there.find(KEY.digest)
    assert (member.lost, member.since) == (None, None)


def test_others_learn_soon_how_far_a_client_has_caught_up() -> None:
    world, there = World(), journal_of(2)
    standing = world.join()
    connection = cast(Any, standing.proof)
    found = []
    for now, written, proven in ((0.0, 3, 0), (1.0, 5, 1), (LASTS, 7, 2), (2 * LASTS, 9, 3)):
        connection.written, connection.proven = proven + 1, proven
        world.standings.note_written(standing.subscription, (written, 0))
        for _ in world.standings.settling(now):
            pass
        pass_on(world, there)
        [member] = there.find(KEY.digest)
        assert member.is_open
        found.append(member.place)
    # A page may be a little behind its browser, which has answered.
    assert found == [(1, 0), (1, 0), (1, 0), (5, 0)]
    # It has given up the join, so it has ignored all of that.
    standing.give_up()
    world.standings.note(standing.member)
    pass_on(world, there)
    [member] = there.find(KEY.digest)
    assert member.place == (1, 0)


def test_what_others_learn_of_a_client_that_catches_up_is_as_old_as_it_has_to_be() -> None:
    world, there = World(), journal_of(2)
    standing = world.join()
    connection = cast(Any, standing.proof)
    steps = 8
    for step in range(1, 3 * steps):
        now = step * LASTS / steps
        connection.written, connection.proven = step, step - 1
        world.standings.note_written(standing.subscription, (step, 0))
        for _ in world.standings.settling(now):
            pass
        pass_on(world, there)
        [member] = there.find(KEY.digest)
        # What a look has found is proven at the next one.
        assert member.place == (max(step - steps - 1, 1), 0)


def test_where_a_channel_stood_while_it_waited_says_nothing_of_where_it_goes_on() -> None:
    world, there = World(), journal_of(2)
    standing = world.join()
    for now in (0.0, LASTS, 2 * LASTS, 3 * LASTS):
        for _ in world.standings.settling(now):
            pass
        if now == LASTS:
            # A process that begins has found its former channel in the journal.
            standing.go_on((0, 5))
    pass_on(world, there)
    [member] = there.find(KEY.digest)
    assert member.place == (0, 5)


def test_others_learn_soon_that_a_client_which_catches_up_has_read_that_it_begins_anew() -> None:
    world, there = World(), journal_of(2)
    standing = world.join()
    standing.member.is_anew = True
    standing.note_told()
    connection = cast(Any, standing.proof)
    for now, proven, is_anew in ((0.0, 0, True), (1.0, 1, True), (1.0 + LASTS, 1, False)):
        # A page may be a little behind its browser, which has answered.
        connection.proven = proven
        for _ in world.standings.settling(now):
            pass
        pass_on(world, there)
        [member] = there.find(KEY.digest)
        assert (member.is_open, member.is_anew) == (True, is_anew)


def test_who_is_away_and_owed_a_gap_is_told_of_it_for_the_window_and_once() -> None:
    world, there = World(), journal_of(2)
    now = time.monotonic()
    recent = Absence(KEY, 3, (1, 0), now - 200, lost=LostReason.LIMIT)
    world.absences.add(recent)
    world.absences.add(Absence(KEY, 2, (1, 0), now - 301, lost=LostReason.WINDOW))
    pass_on(world, there)
    [member] = there.find(KEY.digest)
    assert (member.ref, member.lost) == (3, LostReason.LIMIT)
    # The other process remembers it on its own when the window is over, and writes nothing of that.
    other = World(there)
    other.ledger.expired([member])
    assert [one.lost for one in other.absences.of(KEY)] == [LostReason.LIMIT] * 2
    tell(other.ledger)
    assert not there.is_due
    # And this process tells nobody of it any more.
    world.journal.expire(window=100)
    pass_on(world, there, whole=True)
    assert there.find(KEY.digest) == []
    world.absences.remove(recent)
    pass_on(world, there)


@pytest.mark.parametrize("is_taken", [True, False])
def test_a_gap_that_is_owed_stays_owed_when_the_place_is_lowered(is_taken: bool) -> None:
    world, other = World(), journal_of(2)
    other.joined(1, KEY.digest, 5, (9, 0), since=time.time(), lost=LostReason.LOST)
    for data in other.write():
        read_message(world.journal, data)
    [absence] = world.absences.of(KEY)
    world.absences.lower(absence, (3, 0), LostReason.LIMIT if is_taken else None)
    tell(world.ledger)
    [absence] = world.absences.of(KEY)
    assert (absence.place, absence.lost) == ((3, 0), LostReason.LOST)
