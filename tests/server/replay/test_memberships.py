from __future__ import annotations

import tracemalloc

import attrs
import pytest

from realtime_server.replay import absences, taken_places
from realtime_server.replay.absences import MOST_OF_A_KEY, Absence
from realtime_server.replay.identity import Key
from realtime_server.replay.lost_reasons import LostReason
from realtime_server.replay.membership import Choice, Membership
from realtime_server.replay.memberships import MOST_HERE, Memberships
from realtime_server.replay.places import Place

SESSION = Key(b"session", is_exact=True)
CLAIMS = Key(b"claims", is_exact=False)
WINDOW = 300.0


@attrs.define(eq=False)
class Client:
    last_ref: int
    place: Place = (0, 0)
    heard: int = 0
    has_answered: bool = False
    began: int = 0
    seen: int = 0


class World:
    def __init__(self, *, most_away: int = 1000) -> None:
        self.now = 0.0
        self.lost: dict[Membership, LostReason] = {}
        """Why nobody can go on from the place of an open membership."""
        self.memberships = Memberships(
            lambda one: one.client.place,  # type: ignore[attr-defined]
            window=WINDOW,
            most_away=most_away,
            clock=lambda: self.now,
            why_lost=self.lost.get,
        )

    def enter(self, key: Key, ref: int | None, *, at: int = 0) -> Membership:
        member = Membership(key, ref, Client(ref or 0, (at, 0)))
        self.memberships.enter(member)
        return member

    def join(
        self, key: Key, ref: int | None, *, silent: tuple[Membership, ...] = (), at: int = 0
    ) -> tuple[Membership, Choice]:
        member = self.enter(key, ref, at=at)
        return member, self.memberships.choose(member, silent)

    def leave_behind(
        self, key: Key, ref: int, place: int, *, lost: LostReason | None = None
    ) -> None:
        member = self.enter(key, 1000)
        member.is_chosen = True
        member.client.last_ref = ref  # type: ignore[misc]
        self.memberships.depart(member, (place, 0), began=(0, 0), lost=lost)

    def expire(self) -> None:
        for _ in self.memberships.absences.tidying():
            pass


def place(choice: Choice) -> int | None:
    return None if choice.place is None else choice.place[0]


def test_who_comes_for_the_first_time_begins_now() -> None:
    assert World().join(SESSION, 1)[1] == Choice(None)


@pytest.mark.parametrize("key", [SESSION, CLAIMS])
def test_who_comes_back_goes_on_where_it_was_and_only_once(key: Key) -> None:
    world = World()
    world.leave_behind(key, 5, 7)
    assert len(world.memberships.absences) == 1
    member, choice = world.join(key, 6)
    assert place(choice) == 7
    assert len(world.memberships.absences) == 0
    again = Membership(key, 7, member.client)
    world.memberships.enter(again)
    assert place(world.memberships.choose(again, ())) is None


@pytest.mark.parametrize("key", [SESSION, CLAIMS])
def test_a_page_that_is_loaded_anew_gets_nothing_old(key: Key) -> None:
    world = World()
    world.leave_behind(key, 5, 7)
    assert place(world.join(key, 1)[1]) is None
    assert place(world.join(key, 5)[1]) is None
    assert len(world.memberships.absences) == 1


@pytest.mark.parametrize("key", [SESSION, CLAIMS])
def test_an_empty_ref_excludes_nobody(key: Key) -> None:
    world = World()
    world.leave_behind(key, 5, 7)
    assert place(world.join(key, None)[1]) == 7


def test_of_a_session_the_highest_place_counts_and_all_end() -> None:
    world = World()
    for ref, at in ((2, 5), (4, 9), (3, 7)):
        world.leave_behind(SESSION, ref, at)
    assert place(world.join(SESSION, 6)[1]) == 9
    assert len(world.memberships.absences) == 0


@pytest.mark.parametrize("others", [2, 1])
def test_a_session_that_several_clients_have_is_shared_also_after_a_restart(others: int) -> None:
    world = World()
    digest = SESSION.digest
    left = [
        Absence(Key(digest, is_exact=False), *one, 0.0) for one in ((500, (5, 0)), (50, (9, 0)))
    ]
    if others == 1:
        # The other client has left its absence here.
        world.leave_behind(SESSION, 50, 9)
    elsewhere = left[:others]
    absences = world.memberships.absences
    absences.elsewhere = lambda key: list(elsewhere)

    def on_change(absence: Absence) -> None:
        if absence in elsewhere:
            elsewhere.remove(absence)

    absences.on_change = on_change
    # The highest place is that of the other client.
    assert place(world.join(SESSION, 501)[1]) == 5
    assert place(world.join(SESSION, 51)[1]) == 5
    assert (elsewhere, len(absences)) == ([], 0)


def test_of_claims_the_lowest_place_counts_and_the_nearest_is_taken_away() -> None:
    world = World()
    for ref, at in ((2, 5), (4, 9)):
        world.leave_behind(CLAIMS, ref, at)
    assert place(world.join(CLAIMS, 5)[1]) == 5
    assert len(world.memberships.absences) == 1
    assert place(world.join(CLAIMS, 3)[1]) == 5


def test_whoever_is_left_over_finds_what_the_one_taken_away_would_have_needed() -> None:
    world = World()
    for ref, at in ((2, 9), (4, 5)):
        world.leave_behind(CLAIMS, ref, at)
    assert place(world.join(CLAIMS, 5)[1]) == 5
    # If this was the one with ref 4, then the first was the one with ref 2.
    assert place(world.join(CLAIMS, 5)[1]) == 5
    assert len(world.memberships.absences) == 0


def test_with_an_empty_ref_none_of_several_is_taken_away() -> None:
    world = World()
    for ref, at in ((2, 9), (4, 5)):
        world.leave_behind(CLAIMS, ref, at)
    assert place(world.join(CLAIMS, None)[1]) == 5
    assert len(world.memberships.absences) == 2


def test_an_open_membership_that_does_not_answer_is_claimed_and_leaves_nothing() -> None:
    world = World()
    former, _ = world.join(CLAIMS, 1, at=7)
    later = world.enter(CLAIMS, 3)
    assert world.memberships.others(later) == [former]
    assert place(world.memberships.choose(later, {former})) == 7
    assert world.memberships.depart(former, (7, 0), began=(0, 0)) is None
    assert len(world.memberships.absences) == 0


def test_one_that_was_claimed_and_answers_after_all_is_somebody_else() -> None:
    world = World()
    former, _ = world.join(CLAIMS, 1, at=7)
    later = world.enter(CLAIMS, 3)
    world.memberships.choose(later, {former})
    former.client.heard += 1  # type: ignore[misc]
    assert world.memberships.depart(former, (8, 0), began=(0, 0)) is not None
    assert place(world.join(CLAIMS, 2)[1]) == 8


def test_who_answers_is_no_candidate() -> None:
    world = World()
    world.join(CLAIMS, 1, at=7)
    assert place(world.join(CLAIMS, 3)[1]) is None


def test_a_session_that_several_clients_have_is_treated_like_claims() -> None:
    world = World()
    found: list[None] = []
    shared = world.memberships.shared_sessions
    shared.on_first = lambda: found.append(None)
    for key in (SESSION, SESSION, CLAIMS):
        shared.find(key)
    assert found == [None]
    for ref, at in ((2, 5), (4, 9)):
        world.leave_behind(SESSION, ref, at)
    assert place(world.join(SESSION, 5)[1]) == 5
    assert len(world.memberships.absences) == 1


def test_other_servers_are_told_of_no_session_that_only_seems_to_be_shared() -> None:
    world = World()
    told: list[bytes] = []
    shared = world.memberships.shared_sessions
    shared.on_tell = told.append
    world.leave_behind(SESSION, 5, 7)
    # Some clients send an empty ref now and then.
    world.join(SESSION, None)
    assert not shared.is_exact(SESSION)
    assert told == []
    world.join(SESSION, 3)
    world.leave_behind(SESSION, 5, 7)
    world.join(SESSION, 4)
    assert told == [SESSION.digest]


def test_a_join_below_the_refs_of_others_shows_that_a_session_is_shared() -> None:
    world = World()
    world.join(SESSION, 50)
    world.join(SESSION, 3)
    assert not world.memberships.shared_sessions.is_exact(SESSION)


def test_who_takes_a_session_without_a_ref_hides_nothing_from_its_client() -> None:
    world = World()
    world.leave_behind(SESSION, 60, 7)
    other, choice = world.join(SESSION, None)
    assert place(choice) == 7
    # It has sent no numbers, got everything, and goes away.
    world.memberships.depart(other, (20, 0), began=(7, 0))
    assert world.join(SESSION, 61)[1] == Choice((7, 0), LostReason.LOST)


def test_who_takes_a_session_with_a_high_ref_hides_nothing_from_its_client() -> None:
    world = World()
    world.leave_behind(SESSION, 60, 7)
    other, choice = world.join(SESSION, 1000)
    assert place(choice) == 7
    world.memberships.depart(other, (20, 0), began=(7, 0))
    assert world.join(SESSION, 61)[1] == Choice((7, 0), LostReason.LOST)


def test_a_client_that_comes_back_time_and_again_is_told_of_no_gap() -> None:
    for key in (SESSION, CLAIMS):
        world = World()
        world.leave_behind(key, 60, 7)
        for ref, at in ((61, 7), (63, 8), (70, 9)):
            member, choice = world.join(key, ref)
            assert (place(choice), choice.lost) == (at, None)
            world.memberships.depart(member, (at + 1, 0), began=(at, 0))


def test_the_same_connection_is_never_its_own_predecessor() -> None:
    world = World()
    one, _ = world.join(CLAIMS, 1)
    again = Membership(CLAIMS, 5, one.client)
    world.memberships.enter(again)
    assert world.memberships.others(again) == []


def test_one_that_waits_leaves_no_higher_place_than_what_it_would_have_gone_on_from() -> None:
    world = World()
    world.leave_behind(SESSION, 2, 5)
    waiting = world.enter(SESSION, 3)
    world.memberships.depart(waiting, (9, 0), began=(9, 0))
    assert place(world.join(SESSION, 4)[1]) == 5


def test_one_that_waits_and_does_not_answer_takes_nothing_any_more() -> None:
    world = World()
    world.leave_behind(CLAIMS, 2, 5)
    waiting = world.enter(CLAIMS, 3)
    later = world.enter(CLAIMS, 4)
    assert place(world.memberships.choose(later, {waiting})) == 5
    assert place(world.memberships.choose(waiting, ())) is None
    assert world.memberships.depart(waiting, (9, 0), began=(9, 0)) is None


@pytest.mark.parametrize("key", [SESSION, CLAIMS])
def test_who_was_away_for_too_long_is_told_so(key: Key) -> None:
    world = World()
    world.leave_behind(key, 2, 5)
    world.now = WINDOW + 1
    world.expire()
    assert (len(world.memberships.absences), world.memberships.absences.lowest()) == (0, None)
    choice = world.join(key, 3)[1]
    assert (place(choice), choice.lost) == (5, LostReason.WINDOW)
    # If several may have the key, it may have been another's.
    taken = Choice(None) if key.is_exact else Choice((5, 0), LostReason.LOST)
    assert world.join(key, 4)[1] == taken


def test_who_was_away_for_a_day_is_forgotten() -> None:
    world = World()
    world.leave_behind(SESSION, 2, 5)
    world.now = 90_000.0
    world.expire()
    world.expire()
    assert place(world.join(SESSION, 3)[1]) is None


def test_the_oldest_goes_when_too_many_are_away() -> None:
    world = World(most_away=2)
    for number in range(3):
        world.leave_behind(Key(bytes([number]), is_exact=True), 2, number)
    assert (len(world.memberships.absences), world.memberships.absences.lowest()) == (2, (1, 0))
    choice = world.join(Key(b"\0", is_exact=True), 3)[1]
    assert (place(choice), choice.lost) == (0, LostReason.LIMIT)


def whose(*names: bytes) -> bytes:
    """Return the names of a site, a network and a subject as a key has them."""
    return b"".join(name.ljust(8)[:8] for name in names).ljust(24)


@pytest.mark.slow
@pytest.mark.parametrize("level", [0, 1, 2])
def test_who_leaves_many_away_drives_nobody_elses_out(level: int) -> None:
    """The site or the network tells the many from the others; or the subject, where a proxy has one
    address."""
    world = World(most_away=1000)

    def key(number: int, name: bytes) -> Key:
        owners = whose(*[b"proxy"] * level, name)
        return Key(number.to_bytes(4), is_exact=True, whose=owners)

    honest = [key(number, b"honest%d" % number) for number in range(100)]
    for one in honest:
        world.leave_behind(one, 2, 5)
    for number in range(5000):
        world.leave_behind(key(1000 + number, b"attacker"), 2, 5)
    assert len(world.memberships.absences) == 1000
    for one in honest:
        assert world.join(one, 3)[1] == Choice((5, 0))


@pytest.mark.slow
def test_who_was_lost_is_remembered_however_many_others_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(absences, "_MOST_LOST", 1000)
    world = World(most_away=10)
    one = Key(b"one", is_exact=True, whose=whose(b"honest"))
    world.leave_behind(one, 2, 5)
    world.now = WINDOW + 1
    world.expire()
    for number in range(5000):
        key = Key(number.to_bytes(4), is_exact=True, whose=whose(b"attacker"))
        world.leave_behind(key, 2, 5)
    assert world.join(one, 3)[1] == Choice((5, 0), LostReason.WINDOW)


def test_an_absence_that_is_taken_in_from_another_process_takes_its_own_clients_room() -> None:
    world = World(most_away=20)
    mine = Key(b"claims", is_exact=False, whose=b"m" * 24)
    theirs = Absence(mine, 3, (9, 0), 0.0)
    absences = world.memberships.absences
    absences.elsewhere = lambda key: [theirs] if key == mine else []
    world.leave_behind(mine, 5, 7)
    # It is nearest, and theirs may be of the client that has left it.
    assert place(world.join(mine, 6)[1]) == 7
    [lowered] = [one for one in absences.of(mine) if one is not theirs]
    assert lowered.place == (7, 0)
    for number in range(19):
        # As many as take their own room: without a name they would be one client's.
        world.leave_behind(Key(bytes([number]), is_exact=False, whose=bytes(24)), 5, 7)
    world.leave_behind(Key(b"another", is_exact=False, whose=bytes(24)), 5, 7)
    assert lowered.lost is None


def test_nobody_is_lost_for_others_of_the_same_key_who_are_not() -> None:
    world = World()
    world.leave_behind(SESSION, 2, 5)
    world.now = WINDOW + 1
    world.expire()
    world.leave_behind(SESSION, 3, 9)
    assert world.join(SESSION, 4)[1] == Choice((9, 0))


def test_who_proves_nothing_is_never_guessed_at() -> None:
    world = World()
    world.leave_behind(SESSION, 2, 5)
    world.leave_behind(SESSION, 3, 4, lost=LostReason.UNPROVEN)
    choice = world.join(SESSION, 4)[1]
    assert (place(choice), choice.lost) == (5, LostReason.UNPROVEN)


def test_what_was_lost_keeps_no_changes() -> None:
    """Somebody inherits a place that is long gone; the log must not wait for it."""
    world = World()
    world.leave_behind(CLAIMS, 4, 5)
    world.now = WINDOW + 1
    world.expire()
    world.leave_behind(CLAIMS, 2, 900)
    assert place(world.join(CLAIMS, 5)[1]) == 5
    assert world.memberships.absences.lowest() == (900, 0)
    choice = world.join(CLAIMS, 5)[1]
    assert (place(choice), choice.lost) == (5, LostReason.WINDOW)


@pytest.mark.parametrize(("has_answered", "each"), [(False, 10), (True, 1)])
def test_repeats_count_until_something_is_proven(has_answered: bool, each: int) -> None:
    world = World()
    world.leave_behind(CLAIMS, 2, 5)
    for number in range(3):
        member, choice = world.join(CLAIMS, 3 + number)
        assert choice.repeats == number * each
        member.repeats, member.has_missed = choice.repeats, True
        member.client.has_answered = has_answered  # type: ignore[misc]
        world.memberships.depart(member, (5, 0), began=(5, 0))
    member, choice = world.join(CLAIMS, 9)
    world.memberships.depart(member, (6, 0), began=(5, 0))
    assert world.join(CLAIMS, 10)[1].repeats == 0


def test_a_join_that_is_cut_while_it_waits_leaves_no_second_absence() -> None:
    world = World()
    world.leave_behind(CLAIMS, 5, 7)
    world.memberships.depart(world.enter(CLAIMS, 6), (9, 0), began=(9, 0))
    places = []
    for number in range(3):
        member, choice = world.join(CLAIMS, 8 + number)
        places.append(place(choice))
        world.memberships.depart(member, (50 + number, 0), began=(7, 0))
    assert places == [7, 50, 51]


@pytest.mark.slow
def test_a_key_has_a_bounded_number_of_absences_and_none_is_skipped() -> None:
    world = World(most_away=10 * MOST_OF_A_KEY)
    for number in range(MOST_OF_A_KEY + 5):
        world.leave_behind(CLAIMS, 1000 - number % 7, 2000 - number)
    assert len(world.memberships.absences) == MOST_OF_A_KEY
    lowest = 2000 - MOST_OF_A_KEY - 4
    assert world.memberships.absences.lowest() == (lowest, 0)
    for number in range(MOST_OF_A_KEY + 5):
        assert place(world.join(CLAIMS, 2000 + number)[1]) == lowest


@pytest.mark.slow
def test_the_lowest_place_is_found_among_many_that_come_and_go() -> None:
    world = World(most_away=100_000)
    for number in range(5000):
        world.leave_behind(Key(number.to_bytes(4), is_exact=True), 1, 5000 - number)
    for number in range(4999, 100, -1):
        assert world.memberships.absences.lowest() == (5000 - number, 0)
        world.join(Key(number.to_bytes(4), is_exact=True), 2)


def test_an_absence_that_serves_another_one_is_as_young_as_that() -> None:
    world = World(most_away=10 * MOST_OF_A_KEY)
    for number in range(MOST_OF_A_KEY):
        world.leave_behind(CLAIMS, 5, number)
    world.now = WINDOW / 2
    world.leave_behind(SESSION, 5, 5)
    world.now = WINDOW - 1
    world.leave_behind(CLAIMS, 5, 5)
    world.now = WINDOW + 1
    world.expire()
    assert len(world.memberships.absences) == 2
    world.now = WINDOW * 3 / 2 + 1
    world.expire()
    assert len(world.memberships.absences) == 1
    world.now = 2 * WINDOW
    world.expire()
    assert len(world.memberships.absences) == 0


@pytest.mark.parametrize(("first", "second"), [(3, 5), (5, 3), (None, 3), (3, None)])
def test_an_absence_that_serves_another_one_may_lack_what_either_may(
    first: int | None, second: int | None
) -> None:
    absences = World(most_away=10 * MOST_OF_A_KEY).memberships.absences

    def add(may_lack: int | None) -> Absence | None:
        lacking = None if may_lack is None else (may_lack, 0)
        return absences.add(Absence(SESSION, 5, (9, 0), 0.0, may_lack=lacking))

    for _ in range(MOST_OF_A_KEY - 1):
        add(None)
    last = add(first)
    assert last is not None
    assert add(second) is None
    assert last.may_lack == (3, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("are_apart", "most"), [(True, 650), (False, 950)])
def test_many_that_are_away_take_little_memory_each(are_apart: bool, most: int) -> None:
    many = 25_000
    world = World(most_away=many)
    tracemalloc.start()
    try:
        for number in range(many):
            owners = whose(number.to_bytes(8) if are_apart else b"")
            world.leave_behind(Key(number.to_bytes(16), is_exact=True, whose=owners), 5, number)
        assert tracemalloc.get_traced_memory()[0] < most * many
    finally:
        tracemalloc.stop()


def test_another_key_takes_the_membership_along() -> None:
    world = World()
    member, _ = world.join(SESSION, 1)
    world.memberships.change_key(member, CLAIMS)
    member.client.last_ref = 2  # type: ignore[misc]
    world.memberships.depart(member, (3, 0), began=(0, 0))
    assert place(world.join(SESSION, 3)[1]) is None
    assert place(world.join(CLAIMS, 3)[1]) == 3


def test_all_are_lost_with_the_stream() -> None:
    world = World()
    world.leave_behind(SESSION, 1, 5)
    world.memberships.absences.lose_all(LostReason.LOST)
    assert world.memberships.absences.lowest() is None
    assert world.join(SESSION, 3)[1] == Choice((5, 0), LostReason.LOST)


def test_a_key_that_too_many_open_channels_have_is_crowded() -> None:
    world = World()
    members = []
    for number in range(MOST_HERE):
        assert not world.memberships.is_crowded(CLAIMS)
        members.append(world.enter(CLAIMS, number))
    assert world.memberships.is_crowded(CLAIMS)
    assert not world.memberships.is_crowded(SESSION)
    world.memberships.end(members[0])
    assert not world.memberships.is_crowded(CLAIMS)


def test_whose_place_was_taken_is_told_of_a_gap() -> None:
    world = World()
    world.leave_behind(CLAIMS, 5, 7)
    # A neighbour, who comes for the first time.
    neighbour, choice = world.join(CLAIMS, 6)
    assert place(choice) == 7
    assert world.join(CLAIMS, 8)[1] == Choice((7, 0), LostReason.LOST)
    # On the same connection nobody has missed anything.
    again = Membership(CLAIMS, 9, neighbour.client)
    world.memberships.enter(again)
    assert world.memberships.choose(again, ()) == Choice(None)
    # A page that is loaded anew has missed nothing; nor has anybody when the window has passed.
    assert world.join(CLAIMS, 5)[1] == Choice(None)
    world.now = WINDOW + 1
    assert world.join(CLAIMS, 10)[1] == Choice(None)


def test_whose_open_membership_was_claimed_is_told_of_a_gap() -> None:
    world = World()
    former, _ = world.join(CLAIMS, 1, at=7)
    assert place(world.join(CLAIMS, 3, silent=(former,))[1]) == 7
    world.memberships.depart(former, (7, 0), began=(0, 0))
    assert world.join(CLAIMS, 4)[1] == Choice((7, 0), LostReason.LOST)


def test_who_takes_a_session_and_leaves_hides_nothing_from_its_client() -> None:
    world = World()
    world.leave_behind(SESSION, 5, 7)
    other, choice = world.join(SESSION, 20)
    assert place(choice) == 7
    # It leaves on purpose.
    world.memberships.end(other)
    assert world.join(SESSION, 8)[1] == Choice((7, 0), LostReason.LOST)


def test_who_leaves_a_channel_of_a_session_and_joins_it_again_is_told_of_no_gap() -> None:
    world = World()
    world.leave_behind(SESSION, 5, 7)
    member, choice = world.join(SESSION, 6)
    assert place(choice) == 7
    # On the same connection, whose highest ref is that of the new join by now.
    member.client.last_ref = 10  # type: ignore[misc]
    again = Membership(SESSION, 10, member.client)
    world.memberships.end(member)
    world.memberships.enter(again)
    assert world.memberships.choose(again, ()) == Choice(None)
    is_exact = world.memberships.shared_sessions.is_exact(SESSION)
    assert is_exact, "the session is taken to be shared"


def test_who_takes_its_own_session_again_on_another_connection_is_told_of_no_gap() -> None:
    world = World()
    world.leave_behind(SESSION, 5, 7)
    member, _ = world.join(SESSION, 6)
    member.client.last_ref = 9  # type: ignore[misc]
    world.memberships.end(member)
    assert world.join(SESSION, 10)[1] == Choice(None)


def test_of_a_session_nothing_is_taken_by_others() -> None:
    world = World()
    world.leave_behind(SESSION, 5, 7)
    assert place(world.join(SESSION, 6)[1]) == 7
    assert world.join(SESSION, 8)[1] == Choice(None)


@pytest.mark.parametrize("key", [SESSION, CLAIMS])
def test_who_was_connected_while_another_answered_is_not_taken_for_it(key: Key) -> None:
    world = World()
    member = world.enter(key, 5)
    member.is_chosen = True
    member.client.seen = 4  # type: ignore[misc]
    world.memberships.depart(member, (7, 0), began=(0, 0))
    other = world.enter(key, 50)
    other.client.began = 3  # type: ignore[misc]
    assert world.memberships.choose(other, ()) == Choice(None)
    assert not world.memberships.shared_sessions.is_exact(key)
    again = world.enter(key, 6)
    again.client.began = 4  # type: ignore[misc]
    assert world.memberships.choose(again, ()) == Choice((7, 0))
    # Nor can it be the one whose place was taken over.
    later = world.enter(key, 60)
    later.client.began = 3  # type: ignore[misc]
    assert world.memberships.choose(later, ()) == Choice(None)


def test_who_went_on_behind_its_place_is_told_when_another_finds_nothing() -> None:
    world = World()
    told: list[tuple[Membership, Place]] = []
    world.memberships.on_lacking = lambda member, place: told.append((member, place))
    world.leave_behind(CLAIMS, 5, 7)
    world.join(CLAIMS, 20)  # a neighbour, who comes for the first time
    world.leave_behind(CLAIMS, 6, 9)  # a third one
    member, choice = world.join(CLAIMS, 8)
    assert choice == Choice((9, 0))
    assert told == []
    assert world.join(CLAIMS, 7)[1] == Choice((7, 0), LostReason.LOST)
    assert told == [(member, (7, 0))]
    assert world.join(CLAIMS, 11)[1] == Choice((7, 0), LostReason.LOST)
    assert len(told) == 1, "it is told twice"


def test_who_went_on_behind_its_place_and_is_away_is_told_when_it_comes_back() -> None:
    world = World()
    world.leave_behind(CLAIMS, 5, 7)
    world.join(CLAIMS, 20)
    world.leave_behind(CLAIMS, 6, 9)
    member, _ = world.join(CLAIMS, 8)
    # It goes away, comes back, and goes away again.
    world.memberships.depart(member, (10, 0), began=(9, 0))
    member, choice = world.join(CLAIMS, 9)
    assert choice == Choice((10, 0))
    world.memberships.depart(member, (11, 0), began=(10, 0))
    assert world.join(CLAIMS, 7)[1] == Choice((7, 0), LostReason.LOST)
    assert world.join(CLAIMS, 12)[1] == Choice((11, 0), LostReason.LOST)


def test_who_went_on_from_anothers_place_of_a_session_is_told_when_that_turns_out() -> None:
    world = World()
    told: list[tuple[Membership, Place]] = []
    world.memberships.on_lacking = lambda member, place: told.append((member, place))
    world.leave_behind(SESSION, 5, 7)
    world.leave_behind(SESSION, 3, 9)
    member, choice = world.join(SESSION, 6)
    assert choice == Choice((9, 0))
    # Another process has found it.
    world.memberships.shared_sessions.add(SESSION.digest)
    assert told == [(member, (7, 0))]


def test_whose_place_is_taken_while_it_waits_is_told_of_a_gap_though_it_is_cut() -> None:
    world = World()
    world.leave_behind(CLAIMS, 5, 7)
    waiting = world.enter(CLAIMS, 6, at=9)
    assert place(world.join(CLAIMS, 20)[1]) == 7
    assert world.memberships.depart(waiting, (9, 0), began=(9, 0)) is None
    assert world.join(CLAIMS, 8)[1] == Choice((7, 0), LostReason.LOST)


@pytest.mark.parametrize("key", [SESSION, CLAIMS])
@pytest.mark.parametrize("why", [LostReason.LOST, LostReason.UNPROVEN])
def test_an_open_membership_that_is_claimed_hides_no_gap(key: Key, why: LostReason) -> None:
    world = World()
    former, _ = world.join(key, 1, at=7)
    world.lost[former] = why
    assert world.join(key, 3, silent=(former,))[1] == Choice((7, 0), why)


def test_a_bounded_number_of_what_was_taken_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taken_places, "_MOST", 10)
    world = World()
    for number in range(20):
        key = Key(bytes([number]), is_exact=False)
        world.leave_behind(key, 5, 7)
        world.join(key, 6)
    lost = [world.join(Key(bytes([number]), is_exact=False), 8)[1].lost for number in range(20)]
    assert lost == [None] * 10 + [LostReason.LOST] * 10


@pytest.mark.parametrize("key", [SESSION, CLAIMS])
def test_whoever_is_owed_a_gap_is_told_although_an_older_channel_has_the_same_place(
    key: Key,
) -> None:
    world = World()
    world.leave_behind(key, 5, 7)
    world.leave_behind(key, 6, 7, lost=LostReason.LOST)
    assert world.join(key, 7)[1].lost is LostReason.LOST


@pytest.mark.parametrize("is_open", [False, True])
def test_a_gap_that_is_owed_goes_to_whoever_comes_for_it_by_claims(is_open: bool) -> None:
    """The one whose place is left finds the channel of the one that was taken for it."""
    world = World()
    open_one = world.enter(CLAIMS, 3, at=4)
    open_one.is_chosen = True
    if not is_open:
        world.memberships.depart(open_one, (4, 0), began=(0, 0))
    world.leave_behind(CLAIMS, 5, 7, lost=LostReason.LOST)
    silent = (open_one,) if is_open else ()
    assert world.join(CLAIMS, 6, silent=silent)[1].lost is LostReason.LOST
    if is_open:
        world.memberships.depart(open_one, (4, 0), began=(0, 0))
    _, choice = world.join(CLAIMS, 8)
    assert (place(choice), choice.lost) == (4, LostReason.LOST)


@pytest.mark.parametrize("ref", [8, None])
def test_whoever_may_be_owed_a_gap_by_claims_is_told(ref: int | None) -> None:
    """Although another channel is taken for its former one."""
    world = World()
    world.leave_behind(CLAIMS, 6, 4)
    world.leave_behind(CLAIMS, 5, 7, lost=LostReason.LOST)
    assert world.join(CLAIMS, ref)[1].lost is LostReason.LOST
