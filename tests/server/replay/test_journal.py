"""The journal: what a process notes of its channels is what others find, and nothing forged is."""

from __future__ import annotations

import hmac

import attrs
import pytest

from realtime_core import SourceStats, StreamIdentity
from realtime_server.replay import record_parts, records, shared_keys, unwritten
from realtime_server.replay.empty_stretches import EmptyStretches
from realtime_server.replay.journal import Journal
from realtime_server.replay.process import OtherChannel
from realtime_server.replay.records import (
    MOST_BYTES,
    Asked,
    Boot,
    Ended,
    Entry,
    Joined,
    Low,
    PlaceTaken,
    ProcessState,
    Seal,
    Shared,
    Taken,
    digest,
    journal_secret,
    read_part,
    write_record,
)
from realtime_server.replay.stream_origin import StreamOrigin
from tests.journals import read_message

SECRET = journal_secret("password", "jwt")
STREAM = digest("database", "shop")
KEY = b"k" * 16


NO_STRETCHES = EmptyStretches()


class Clock:
    """Seconds since 1970 that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def seal_of(server: int, slot: str = "slot") -> Seal:
    return Seal(SECRET, STREAM, digest(slot), server.to_bytes(8))


def journal_of(server: int, slot: str = "slot", clock: Clock | None = None) -> Journal:
    return Journal(seal_of(server, slot), clock=clock or Clock())


def tell(writer: Journal, *readers: Journal, **what: bool) -> list[bytes]:
    """Write what is due; have everybody read it, as the stream shows it."""
    data = list(writer.write(**what))
    for part in data:
        for reader in (writer, *readers):
            read_message(reader, part)
    return data


# Records


ENTRIES: list[Entry] = [
    Joined(1, KEY, None, (2**40, 3)),
    Joined(2, KEY, 0, (0, -1), 12.5),
    Joined(1, KEY, 7, (2**40, 2**32 - 1), 1.25),
    Joined(2, KEY, None, (2**63, 0), 0.0),
    Ended(2**63),
    Taken(b"12345678", 9, 3.5),
    Asked(b"12345678", 2**63),
    PlaceTaken(KEY, 3, (2**40, -1), 12.5, lacks_ref=True),
    PlaceTaken(KEY, 0, (0, 7), 0.5, is_missed=True),
    Shared(KEY),
    Low((5, 6)),
    Boot(),
    ProcessState(b"87654321", b"abcdefgh", 4, 5.5, (6, 7)),
]


def expire(journal: Journal) -> list[OtherChannel]:
    """Let channels expire that were away for more than five minutes; return them."""
    expired: list[OtherChannel] = []
    while (some := journal.expire(300.0)) is not None:
        expired += some
    return expired


def test_what_was_written_is_read() -> None:
    (data,) = write_record(seal_of(1), 5, 12.5, ENTRIES, NO_STRETCHES)
    part = read_part(seal_of(2, "other"), data)
    assert part is not None
    assert list(part.entries) == ENTRIES
    assert (part.server, part.slot, part.number) == (bytes([*[0] * 7, 1]), digest("slot"), 5)
    assert (part.time, part.part, part.parts) == (12.5, 0, 1)


def test_a_long_record_has_parts_that_fit_into_messages() -> None:
    entries = [Joined(number, KEY, 2**63 - 1, (2**63, 2**32), 1e9) for number in range(2500)]
    data = list(write_record(seal_of(1), 0, 0.0, entries, NO_STRETCHES))
    assert len(data) == 3
    assert max(map(len, data)) <= MOST_BYTES
    parts = [read_part(seal_of(1), each) for each in data]
    assert [entry for part in parts if part is not None for entry in part.entries] == entries


@pytest.mark.parametrize("ref", [-1, -(2**70), 2**63])
def test_a_ref_that_no_client_counts_to_is_none(ref: int) -> None:
    (data,) = write_record(seal_of(1), 0, 0.0, [Joined(1, KEY, ref, (1, 0))], NO_STRETCHES)
    part = read_part(seal_of(1), data)
    assert part is not None
    assert part.entries == (Joined(1, KEY, None, (1, 0)),)


def test_messages_of_others_are_counted_and_nothing_else() -> None:
    reader = journal_of(9)
    (data,) = write_record(seal_of(1), 0, 0.0, [Joined(1, KEY, 1, (1, 0))], NO_STRETCHES)
    other_secret = journal_secret("password", None)
    assert other_secret != SECRET
    others = [
        b"",
        b"x" * (MOST_BYTES + 1),
        b"\x01" + data[1:],
        data[:-1],
        data[:-1] + bytes([data[-1] ^ 1]),
        data[:60] + bytes([data[60] ^ 1]) + data[61:],
        *write_record(attrs.evolve(seal_of(1), secret=other_secret), 0, 0.0, ENTRIES, NO_STRETCHES),
        *write_record(attrs.evolve(seal_of(1), stream=digest("x")), 0, 0.0, ENTRIES, NO_STRETCHES),
    ]
    for each in others:
        read_message(reader, each)
    assert reader.find(KEY) == []
    assert reader.refused == len(others)
    read_message(reader, data)
    assert len(reader.find(KEY)) == 1


def test_the_secret_depends_on_both_secrets_and_their_ends() -> None:
    secrets = {
        journal_secret(*pair) for pair in [("a", "bc"), ("ab", "c"), ("abc", None), ("", "abc")]
    }
    assert len(secrets) == 4
    # One for this alone stands for both.
    assert journal_secret("a", "b", "own") == journal_secret("c", None, "own")
    assert journal_secret("own", None) != journal_secret("c", None, "own") not in secrets


@pytest.mark.parametrize("unknown", [b"A" + bytes(40), b"J" + bytes(3)])
def test_a_record_of_another_version_leaves_nobody_whose_place_may_be_too_high(
    unknown: bytes,
) -> None:
    here, there = journal_of(1, "a"), journal_of(2, "b")
    here.joined(1, KEY, 5, (10, 0))
    tell(here, there)
    [known] = there.find(KEY)
    lost: list[OtherChannel] = []
    there.on_lost = lost.append
    here.ended(7)
    here.joined(2, KEY, 5, (20, 0))
    (data,) = here.write()
    body = data[:-32] + unknown
    read_message(there, body + hmac.digest(SECRET, body, "sha256"))
    # What cannot be read may have said that the first channel has less.
    assert lost[0] == known
    assert there.find(KEY) == []
    assert (there.unknown, there.lowest()) == (1, None)
    # The next snapshot says everything.
    tell(here, there, snapshot=True)
    assert [one.number for one in there.find(KEY)] == [1, 2]


# What others find


def test_a_channel_is_found_where_it_is() -> None:
    here, there = journal_of(1, "a"), journal_of(2, "b")
    here.joined(1, KEY, 5, (10, 0))
    assert here.is_due
    tell(here, there)
    assert not here.is_due
    joined = OtherChannel(bytes([*[0] * 7, 1]), 1, KEY, 5, (10, 0), None)
    assert there.find(KEY) == [joined]
    assert here.find(KEY) == []
    here.low((20, 1))
    tell(here, there)
    assert there.find(KEY) == [attrs.evolve(joined, place=(20, 1))]
    assert there.lowest() == (20, 1)
    here.joined(1, KEY, 8, (15, 0), since=77.0)
    here.low((30, 0))
    tell(here, there)
    assert there.find(KEY) == [attrs.evolve(joined, place=(15, 0), ref=8, since=77.0)]
    assert there.lowest() == (15, 0)
    here.ended(1)
    tell(here, there)
    assert there.find(KEY) == []
    assert there.lowest() is None


def test_who_joins_later_needs_nothing_from_before() -> None:
    here, there = journal_of(1, "a"), journal_of(2, "b")
    here.joined(1, KEY, 5, (10, 0))
    here.low((12, 0))
    here.joined(2, KEY, 6, (40, 0))
    tell(here, there)
    assert [member.place for member in there.find(KEY)] == [(12, 0), (40, 0)]


def test_nothing_is_due_for_a_place_that_concerns_nobody() -> None:
    here = journal_of(1)
    here.low((10, 0))
    assert not here.is_due
    here.joined(1, KEY, 1, (10, 0))
    tell(here)
    here.low((10, 0))
    assert not here.is_due
    here.ended(1)
    tell(here)
    here.low((20, 0))
    assert not here.is_due


def test_records_that_are_read_again_change_nothing() -> None:
    here, there = journal_of(1, "a"), journal_of(2, "b")
    here.joined(1, KEY, 5, (10, 0))
    data = tell(here, there)
    here.ended(1)
    tell(here, there)
    for each in data:
        read_message(there, each)
    assert there.find(KEY) == []


def test_a_successor_finds_the_channels_of_the_killed_process_as_away() -> None:
    clock = Clock()
    killed, other = journal_of(1, clock=clock), journal_of(3, "b", clock)
    booted: list[bool] = []
    other.on_boot = booted.append
    killed.joined(1, KEY, 5, (10, 0))
    data = tell(killed, other)
    clock.now = 1010.0
    killed.low((12, 0))
    data += tell(killed, other)
    clock.now = 1020.0
    successor = journal_of(2, clock=clock)
    successor.on_boot = killed.on_boot = booted.append
    for part in data:
        read_message(successor, part)
    assert successor.heard < successor.booted_at or successor.booted_at == -1
    tell(successor, other, boot=True)
    assert successor.heard == successor.booted_at == 0
    away = OtherChannel(bytes([*[0] * 7, 1]), 1, KEY, 5, (12, 0), 1020.0)
    assert successor.find(KEY) == other.find(KEY) == [away]
    assert booted == [False]
    # Had it not been killed, it would have to get the slot again.
    for part in successor.write(boot=True):
        read_message(killed, part)
    assert booted == [False, True]


def test_who_was_idle_for_long_before_the_kill_is_away_from_then_on() -> None:
    """On an idle database a process writes nothing, and its clients are there all the same."""
    clock = Clock()
    killed = journal_of(1, clock=clock)
    killed.joined(1, KEY, 5, (10, 0))
    data = tell(killed)
    clock.now += 3600.0
    successor = journal_of(2, clock=clock)
    for part in data:
        read_message(successor, part)
    tell(successor, boot=True)
    assert expire(successor) == []
    assert len(successor.find(KEY)) == 1
    clock.now += 301.0
    assert len(expire(successor)) == 1


def test_who_got_what_it_had_missed_is_away_when_its_process_was_killed() -> None:
    clock = Clock()
    killed, other = journal_of(1, clock=clock), journal_of(3, "b", clock)
    killed.joined(1, KEY, 5, (10, 0), since=1000.0, is_open=True)
    tell(killed, other)
    killed.low((50, 0))
    (there,) = other.find(KEY)
    assert (there.place, there.may_be_there) == ((10, 0), True)
    clock.now = 2000.0
    assert expire(other) == []
    tell(journal_of(2, clock=clock), other, boot=True)
    (away,) = other.find(KEY)
    assert (away.place, away.since, away.may_be_there) == ((10, 0), 2000.0, False)
    clock.now = 2301.0
    assert expire(other) == [away]


def test_the_channels_of_another_slot_stay_joined_when_a_process_begins() -> None:
    here, there, successor = journal_of(1, "a"), journal_of(2, "b"), journal_of(3, "b")
    here.joined(1, KEY, 5, (10, 0))
    tell(here, there, successor)
    tell(successor, here, there, boot=True)
    assert successor.find(KEY)[0].since is None


def test_the_processes_of_slots_that_nobody_gets_any_more_have_ended() -> None:
    clock = Clock()
    first, third, elsewhere = (
        journal_of(number, slot, clock) for number, slot in ((1, "s"), (3, "s/3"), (4, "other"))
    )
    boots: list[bool] = []
    for writer in (third, elsewhere):
        writer.joined(1, KEY, 5, (10, 0))
        tell(writer, first)
    elsewhere.on_boot = boots.append
    clock.now += 100
    records = list(first.boots_for([digest(f"s/{number}") for number in range(2, 257)]))
    # The others are not told of slots that nobody has had.
    assert len(records) == 1
    for reader in (first, elsewhere):
        read_message(reader, records[0])
    found = {member.server: member.since for member in first.find(KEY)}
    assert found == {(3).to_bytes(8): 1100.0, (4).to_bytes(8): None}
    assert boots == [False]


def test_slots_are_those_whose_processes_have_not_ended_as_far_as_is_known() -> None:
    here, there, other = journal_of(1, "a"), journal_of(2, "b"), journal_of(3, "c")
    assert not here.has_channels
    there.joined(1, KEY, 5, (10, 0))
    other.joined(1, KEY, 5, (10, 0), since=999.0, is_open=True)
    tell(there, here)
    tell(other, here)
    assert here.has_channels
    assert here.slots == {digest("b"), digest("c")}
    for record in here.boots_for({digest("b")}):
        read_message(here, record)
    assert here.slots == {digest("c")}
    assert list(here.boots_for({digest("b")})) == []
    # It had only stood still.
    there.joined(2, KEY, 6, (20, 0))
    tell(there, here)
    assert here.slots == {digest("b"), digest("c")}
    other.joined(1, KEY, 5, (10, 0), since=999.0)
    tell(other, here)
    assert here.slots == {digest("b")}


def test_a_process_that_had_only_stood_still_ends_when_it_is_gone_again() -> None:
    clock = Clock()
    here, there, third = (
        journal_of(number, slot, clock) for number, slot in ((1, "a"), (2, "b"), (3, "c"))
    )
    there.joined(1, KEY, 5, (10, 0))
    for number in range(3):
        tell(there, here, third, snapshot=True)
        assert third.find(KEY)[0].may_be_there
        clock.now += 20
        for record in here.boots_for({digest("b")}):
            for reader in (here, there, third):
                read_message(reader, record)
        assert here.slots == third.slots == set(), number
        assert third.find(KEY)[0].since == clock.now


@pytest.mark.parametrize("whole", [False, True], ids=["records", "snapshot"])
def test_a_channel_that_has_another_key_now_is_found_by_that_alone(whole: bool) -> None:
    here, there = journal_of(1, "a"), journal_of(2, "b")
    other = b"j" * 16
    here.joined(1, KEY, 5, (10, 0))
    tell(here, there)
    # Its token was renewed.
    here.joined(1, other, 6, (20, 0))
    tell(here, there, snapshot=whole)
    assert there.find(KEY) == []
    assert [member.number for member in there.find(other)] == [1]
    here.ended(1)
    tell(here, there)
    assert there.find(KEY) == there.find(other) == []


def test_a_channel_that_was_taken_over_is_not_put_back_by_one_who_has_not_heard_of_it() -> None:
    here, there = journal_of(1, "a"), journal_of(2, "b")
    here.joined(1, KEY, 5, (10, 0))
    tell(here, there)
    there.taken(there.find(KEY)[0])
    # It was written before that was read.
    here.joined(1, KEY, 6, (8, 0))
    tell(here, there)
    assert there.find(KEY) == []


def test_a_channel_that_was_taken_over_is_found_by_nobody() -> None:
    here, there, third = journal_of(1, "a"), journal_of(2, "b"), journal_of(3, "c")
    taken: list[int] = []
    here.on_taken = taken.append
    here.joined(1, KEY, 5, (10, 0))
    tell(here, there, third)
    there.taken(there.find(KEY)[0])
    assert there.find(KEY) == []
    # What was written by one who has not heard of it changes nothing.
    late = list(third.write(snapshot=True))
    tell(there, here, third)
    for part in late:
        read_message(there, part)
    assert (there.find(KEY), third.find(KEY)) == ([], [])
    assert taken == [1]
    # Here its end is known: nothing of it is written any more.
    here.ended(1)
    assert not here.is_due


def test_a_snapshot_tells_of_everybody_and_what_is_newer_counts() -> None:
    here, there, reader = journal_of(1, "a"), journal_of(2, "b"), journal_of(3, "c")
    here.joined(1, KEY, 5, (10, 0))
    tell(here, there)
    tell(there, reader, snapshot=True)
    assert [member.place for member in reader.find(KEY)] == [(10, 0)]
    here.joined(1, KEY, 5, (20, 0), since=1000.0)
    tell(here, reader)
    # There it is not known yet.
    tell(there, reader, snapshot=True)
    assert [member.place for member in reader.find(KEY)] == [(20, 0)]


def test_sessions_that_several_clients_have_are_known_after_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_keys, "_MOST", 3)
    writer, reader, later = journal_of(1), journal_of(2, "other"), journal_of(3, "later")
    known: dict[Journal, list[int]] = {writer: [], reader: [], later: []}
    for one, numbers in known.items():
        one.on_shared = lambda key, numbers=numbers: numbers.append(key[0])  # type: ignore[misc]
    for number in (1, 2, 2, 3, 4):
        writer.shared(bytes([number]) * 16)
    tell(writer, reader)
    assert known[reader] == [1, 2, 3, 4]
    # The reader is killed after it has told everything that it knew.
    tell(reader, later, snapshot=True)
    assert known[later] == [2, 3, 4]
    assert known[writer] == []


def test_a_record_counts_when_its_last_part_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_ENTRIES", 2)
    here, there = journal_of(1, "a"), journal_of(2, "b")
    here.joined(1, KEY, 5, (10, 0))
    tell(here, there)
    first, *rest = here.write(snapshot=True)
    assert len(rest) == 0
    for number in range(2, 5):
        here.joined(number, KEY, 5, (10, 0))
    first, second = here.write()
    read_message(there, first)
    assert len(there.find(KEY)) == 1
    read_message(there, second)
    assert len(there.find(KEY)) == 4
    # Of a record whose beginning is not there nothing is taken.
    reader = journal_of(3, "c")
    read_message(reader, second)
    assert reader.find(KEY) == []
    assert reader.refused == 0


def test_what_cannot_be_written_is_bounded_and_a_snapshot_tells_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unwritten, "MOST_ENTRIES", 10)
    here, there = journal_of(1, "a"), journal_of(2, "b")
    here.joined(0, b"0" * 16, 5, (10, 0))
    tell(here, there)
    for number in range(1, 100):
        here.ended(number - 1)
        here.joined(number, str(number).encode().ljust(16), 5, (10, 0))
    assert here.is_due
    assert here.needs_snapshot
    assert len(tell(here, there)[0]) < 300
    assert not here.is_due
    assert there.find(b"0" * 16) == []
    assert len(there.find(b"99".ljust(16))) == 1
    assert there.lowest() == (10, 0)
    # From then on what changes is written alone.
    here.ended(99)
    assert len(tell(here, there)[0]) < 200
    assert there.lowest() is None


def test_records_that_never_end_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_ENTRIES", 1)
    monkeypatch.setattr(record_parts, "_MOST_PARTS", 5)
    monkeypatch.setattr(record_parts, "_MOST_BEGUN", 3)
    reader = journal_of(99)
    lasts: list[bytes] = []
    for server in range(10):
        writer = journal_of(server)
        for number in range(3):
            writer.joined(number, KEY, 5, (10, 0))
        # They are killed while they write.
        *begun, last = writer.write()
        for part in begun:
            read_message(reader, part)
        lasts.append(last)
    # Those that began first are not held any more, so their records have no beginning.
    for last in lasts[:-3]:
        read_message(reader, last)
        assert reader.find(KEY) == []
    read_message(reader, lasts[-1])
    assert len(reader.find(KEY)) == 3
    long = journal_of(20)
    for number in range(6):
        long.joined(number, KEY, 5, (10, 0))
    for part in long.write():
        read_message(reader, part)
    assert len(reader.find(KEY)) == 3


def test_channels_beyond_the_bound_are_not_known() -> None:
    clock = Clock()
    here = Journal(seal_of(1, "a"), clock=clock, most=6)
    there = Journal(seal_of(2, "b"), clock=clock, most=4)
    for number in range(5):
        here.joined(number, KEY, number, (10 + number, 0))
    assert here.is_full
    # What is said of those that are left out changes nothing.
    here.joined(4, KEY, 4, (5, 0), since=1000.0)
    here.ended(3)
    tell(here, there)
    assert [member.number for member in there.find(KEY)] == [0, 1]
    here.ended(0)
    here.joined(5, KEY, 5, (3, 0))
    tell(here, there)
    assert [member.number for member in there.find(KEY)] == [1, 5]
    assert there.lowest() == (3, 0)
    assert len(here.writers) == 1
    assert len(there.writers) == 2


def test_a_snapshot_is_taken_in_steps_of_which_none_is_above_what_is_so() -> None:
    here, there = journal_of(1, "a"), journal_of(2, "b")
    count = 1000
    for number in range(count):
        here.joined(number, KEY, 5, (10, 0))
    tell(here, there)
    for number in range(0, count, 2):
        # It proves nothing more.
        here.joined(number, KEY, 6, (12, 0), since=1000.0)
    here.low((50, 0))
    steps = 0
    for part in map(there.verify, here.write(snapshot=True)):
        assert part is not None
        for _ in there.steps(part):
            steps += 1
            found = there.find(KEY)
            assert len(found) == count
            assert all(member.place <= (12, 0) for member in found if member.number % 2 == 0)
    assert steps > 4
    places = {member.number: member.place for member in there.find(KEY)}
    assert places == {number: ((50, 0) if number % 2 else (12, 0)) for number in range(count)}


def test_whoever_has_all_that_was_handed_out_is_lifted_over_what_holds_nothing() -> None:
    here, there, reader = journal_of(1, "a"), journal_of(2, "b"), journal_of(3, "c")
    here.joined(1, KEY, 5, (10, 0))
    here.joined(2, KEY, 5, (11, 0), since=1000.0)
    here.joined(3, KEY, 5, (9, 5), since=1000.0)
    tell(here, there)
    there.joined(1, KEY, 5, (12, 0))
    there.joined(2, KEY, 5, (50, 0))
    there.lift((10, 0), (20, -1))
    tell(there, reader, snapshot=True)
    places = sorted(member.place for member in reader.find(KEY))
    assert places == [(9, 5), *[(20, -1)] * 3, (50, 0)]
    # What is told later, too.
    for number, place in enumerate([(10, 0), (9, 9), (21, 0)], 5):
        there.joined(number, b"j" * 16, 5, place, since=1000.0)
    tell(there, reader)
    places = sorted(member.place for member in reader.find(b"j" * 16))
    assert places == [(9, 9), (20, -1), (21, 0)]


def test_stretches_that_hold_nothing_follow_each_other() -> None:
    empty = EmptyStretches()
    assert empty.lifted((5, 0)) == (5, 0)
    empty.note((10, 0), (20, -1))
    # Still nothing has come, and then something, and nothing again.
    empty.note((10, 0), (30, -1))
    empty.note((30, -1), (35, -1))
    empty.note((40, 5), (50, -1))
    found = {place: empty.lifted((place, 0)) for place in (9, 10, 15, 29, 35, 40, 41, 50, 60)}
    ends = {10: (35, -1), 15: (35, -1), 29: (35, -1), 41: (50, -1)}
    assert found == {place: ends.get(place, (place, 0)) for place in found}
    assert empty.lifted((40, 4)) == (40, 4)


def test_only_so_many_stretches_are_remembered() -> None:
    """The first ones go: whoever is there needs a little more than nothing."""
    empty = EmptyStretches()
    for number in range(2000):
        empty.note((10 * number, 0), (10 * number + 5, -1))
    assert empty.lifted((2, 0)) == (2, 0)
    assert empty.lifted((19_992, 0)) == (19_995, -1)


def test_whoever_is_lifted_twice_is_where_the_last_stretch_ends() -> None:
    here, there, reader = journal_of(1, "a"), journal_of(2, "b"), journal_of(3, "c")
    here.joined(1, KEY, 5, (10, 0), since=1000.0)
    tell(here, there)
    for end in (20, 30):
        there.lift((10, 0), (end, -1))
    assert there.lowest() == (30, -1)
    assert [member.place for member in there.find(KEY)] == [(30, -1)]
    there.lift((40, 0), (50, -1))
    tell(there, reader, snapshot=True)
    assert [member.place for member in reader.find(KEY)] == [(30, -1)]


def test_a_process_that_is_behind_keeps_its_low_when_others_are_lifted() -> None:
    """It has been silent for long, so that nothing is kept for its channels."""
    here, there, reader = journal_of(1, "a"), journal_of(2, "b"), journal_of(3, "c")
    here.joined(1, KEY, 5, (10, 0))
    here.low((11, 0))
    tell(here, there)
    there.lift((15, 0), (20, -1))
    tell(there, reader, snapshot=True)
    assert [member.place for member in reader.find(KEY)] == [(11, 0)]


def test_who_is_away_for_too_long_is_forgotten() -> None:
    clock = Clock()
    here, there = journal_of(1, "a", clock), journal_of(2, "b", clock)
    here.joined(1, KEY, 5, (10, 0))
    here.joined(2, b"j" * 16, 5, (10, 0))
    here.joined(1, KEY, 5, (20, 0), since=1000.0)
    tell(here, there)
    clock.now = 1300.0
    assert expire(there) == []
    clock.now = 1300.1
    assert [member.key for member in expire(there)] == [KEY]
    assert there.find(KEY) == []
    # The process has been silent: nothing is kept for its channel, which is known all the same.
    assert there.lowest() is None
    assert len(there.find(b"j" * 16)) == 1
    clock.now = 1000.0 + 25 * 3600
    list(there.tidying())
    assert [member.key for member in expire(there)] == [b"j" * 16]


def test_what_is_kept_of_many_channels_that_have_gone_is_given_up_in_steps() -> None:
    clock = Clock()
    here, there = journal_of(1, "a", clock), journal_of(2, "b", clock)
    for number in range(3000):
        here.joined(number, KEY, 5, (10 + number, 0), since=1000.0 + number / 3000)
    tell(here, there)
    assert there.lowest() == (10, 0)
    for number in range(2999):
        here.ended(number)
    tell(here, there)
    # It may be too low for a while, and does not become lower than it was.
    low = there.lowest()
    assert low is not None
    assert (10, 0) < low < (3009, 0)
    steps = there.tidying()
    for _ in range(100):
        next(steps)
    # Meanwhile somebody goes away.
    here.joined(3000, KEY, 5, (3000, 0), since=1002.0)
    tell(here, there)
    assert sum(1 for _ in steps) > 1000
    assert there.lowest() == (3000, 0)
    assert sum(1 for _ in there.tidying()) == 0
    clock.now = 1301.5
    assert [one.place for one in expire(there)] == [(3009, 0)]
    assert there.lowest() == (3000, 0)
    clock.now = 1302.5
    assert [one.place for one in expire(there)] == [(3000, 0)]


def test_so_many_channels_are_looked_at_at_once_when_they_expire() -> None:
    clock = Clock()
    here, there = journal_of(1, "a", clock), journal_of(2, "b", clock)
    for number in range(2500):
        here.joined(number, KEY, 5, (10, 0), since=1000.0)
    tell(here, there)
    # Nothing has to be done for those that have gone but to find that out.
    for number in range(1500):
        here.ended(number)
    tell(here, there)
    clock.now = 1301.0
    found = [there.expire(300.0) for _ in range(4)]
    assert [None if one is None else len(one) for one in found] == [0, 500, 500, None]


def test_a_process_that_has_long_been_silent_ends_once_and_in_steps() -> None:
    clock = Clock()
    here, there = journal_of(1, "a", clock), journal_of(2, "b", clock)
    for number in range(1000):
        here.joined(number, KEY, 5, (10, 0))
    tell(here, there)
    clock.now = 1000.0 + 25 * 3600
    # It is not noted at a stretch when others are forgotten.
    assert expire(there) == []
    steps = there.tidying()
    next(steps)
    assert {member.since for member in there.find(KEY)} == {None, 1000.0}
    assert len(list(steps)) == 4
    assert list(there.tidying()) == []
    assert len(expire(there)) == 1000


def test_a_process_that_writes_after_a_long_time_has_not_ended() -> None:
    clock = Clock()
    here, there = journal_of(1, "a", clock), journal_of(2, "b", clock)
    for number in range(1000):
        here.joined(number, KEY, 5, (10, 0))
    tell(here, there)
    clock.now = 1000.0 + 25 * 3600
    steps = there.tidying()
    next(steps)
    tell(here, there, snapshot=True)
    assert list(steps) == []
    assert {member.since for member in there.find(KEY)} == {None}


# Other streams


def test_records_of_another_cluster_do_not_count_and_those_before_a_promotion_do() -> None:
    def origin(system: int, timeline: int, name: str = "shop") -> bytes:
        stream = StreamIdentity(system, timeline, ("shop",))
        return StreamOrigin(lambda: SourceStats(stream=stream), name).digest()

    assert StreamOrigin(SourceStats, "shop").digest() == b""
    here, there = journal_of(1, "a"), journal_of(2, "b")
    # A clone has the same names; it has other changes at the same places.
    here.of_stream(origin(1, 1))
    there.of_stream(origin(2, 1))
    here.joined(1, KEY, 5, (10, 0))
    tell(here, there)
    assert (there.find(KEY), there.refused) == ([], 1)
    there = journal_of(2, "b")
    there.of_stream(origin(1, 1))
    # The standby that is promoted has the WAL up to there.
    assert origin(1, 1) == origin(1, 2) != origin(1, 1, "other")
    tell(here, there, snapshot=True)
    assert [member.place for member in there.find(KEY)] == [(10, 0)]


def test_what_was_known_of_another_stream_is_forgotten() -> None:
    here, there = journal_of(1, "a"), journal_of(2, "b")
    here.joined(1, KEY, 5, (90, 0))
    there.joined(1, KEY, 6, (80, 0))
    here.low((100, 0))
    tell(here, there)
    tell(there, here)
    here.of_stream(digest("another"))
    assert here.find(KEY) == []
    # There everything comes at lower places; who is joined has not more than it says.
    here.joined(1, KEY, 7, (3, 0))
    here.low((5, 0))
    reader = Journal(attrs.evolve(seal_of(3), stream=digest("another")), clock=Clock())
    tell(here, reader, there)
    assert [member.place for member in reader.find(KEY)] == [(5, 0)]
    assert [member.place for member in there.find(KEY)] == [(100, 0)]


def test_low_is_told_with_the_first_channel_that_has_it() -> None:
    here, there = journal_of(1), journal_of(2)
    here.low((5, 0))
    tell(here, there)
    here.joined(1, KEY, 1, (3, 0))
    tell(here, there)
    [channel] = there.find(KEY)
    assert channel.place == here.told_low() == (5, 0)


def test_what_others_are_told_is_known_here() -> None:
    here = journal_of(1)
    assert (here.told_low(), [*here.told_open()]) == (None, [])
    here.joined(1, KEY, 1, (3, 0), since=1.0, is_open=True)
    here.joined(2, KEY, 1, (4, 0), since=1.0)
    here.low((5, 0))
    assert (here.told_low(), [*here.told_open()]) == (None, [(3, 0)])
    here.joined(1, KEY, 1, (3, 0))
    assert (here.told_low(), [*here.told_open()]) == ((5, 0), [])
    here.joined(1, KEY, 1, (3, 0), since=1.0, is_open=True)
    here.ended(1)
    assert (here.told_low(), [*here.told_open()]) == (None, [])


@pytest.mark.parametrize("is_told_anew", [False, True])
def test_a_snapshot_has_what_is_asked_and_missed_also_if_it_has_to_be_written_again(
    is_told_anew: bool,
) -> None:
    """Nothing else would ever say that again."""
    one, other = journal_of(1), journal_of(2)
    asked: list[int] = []
    missed: list[bytes] = []
    other.on_asked = asked.append
    other.on_place_taken = lambda places: missed.append(places.key)
    one.add(Asked((2).to_bytes(8), 5))
    one.add(PlaceTaken(KEY, 3, (9, 0), 1100.0, is_missed=True))
    assert one.is_due
    if is_told_anew:
        # These records are lost.
        for is_snapshot in (False, True):
            list(one.write(snapshot=is_snapshot))
    tell(one, other, snapshot=True)
    assert (asked, missed) == ([5], [KEY])
    tell(one, other)
    assert (asked, missed) == ([5], [KEY])


def test_what_is_asked_is_written_though_a_snapshot_takes_the_place_of_all_entries() -> None:
    one, other = journal_of(1), journal_of(2)
    asked: list[int] = []
    other.on_asked = asked.append
    for number in range(20_001):
        one.add(Taken(b"12345678", number, 1.0))
    one.add(Asked((2).to_bytes(8), 5))
    assert one.needs_snapshot
    tell(one, other)
    assert asked == [5]
