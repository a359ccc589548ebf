"""Records of the journal that were lost: nobody's place is above what its client has, and whoever
is known to anybody is found."""

from __future__ import annotations

import pytest

from realtime_server.replay.journal import Journal
from realtime_server.replay.records import Joined, Seal, digest, journal_secret
from tests.journals import read_message

SEAL = Seal(journal_secret("password", "jwt"), digest("database", "shop"), b"", b"")
KEY, OTHER_KEY = b"k" * 16, b"o" * 16


def journal_of(server: int) -> Journal:
    seal = Seal(SEAL.secret, SEAL.stream, digest(str(server)), server.to_bytes(8))
    return Journal(seal, clock=lambda: 1000.0)


def tell(writer: Journal, *readers: Journal, **what: bool) -> None:
    for part in writer.write(**what):
        for reader in (writer, *readers):
            read_message(reader, part)


def place_at(reader: Journal, key: bytes = KEY) -> object:
    (found,) = reader.find(key)
    return found.place


@pytest.fixture
def journals() -> tuple[Journal, Journal, Journal]:
    """Of three processes; the first one has two channels that have everything up to (20, 0)."""
    one, two, three = map(journal_of, (1, 2, 3))
    tell(one, two, three, boot=True)
    one.joined(1, KEY, 1, (10, 0))
    one.joined(2, OTHER_KEY, 1, (10, 0))
    one.low((20, 0))
    tell(one, two, three)
    return one, two, three


def test_no_low_counts_for_whoever_may_have_gone_in_a_record_that_is_lost(
    journals: tuple[Journal, Journal, Journal],
) -> None:
    one, two, three = journals
    one.joined(1, KEY, 1, (25, 0), since=1000.0)
    one.low((30, 0))
    tell(one, two)
    one.low((40, 0))
    tell(one, two, three)
    assert place_at(two) == (25, 0)
    assert place_at(three) == (20, 0)
    assert three.lowest() == (20, 0)
    # Who is told of anew has everything up to the Low again.
    one.joined(2, OTHER_KEY, 1, (35, 0))
    tell(one, two, three)
    assert place_at(three, OTHER_KEY) == place_at(two, OTHER_KEY) == (40, 0)
    tell(one, two, three, snapshot=True)
    assert three.find(KEY) == two.find(KEY)


def test_what_another_process_knows_counts_where_records_are_missing(
    journals: tuple[Journal, Journal, Journal],
) -> None:
    """A process that begins reads in the middle of what another one has written, which is killed
    before it can tell everything again."""
    one, two, _ = journals
    began = journal_of(4)
    one.low((30, 0))
    tell(one, two, began)
    assert began.find(KEY) == []
    tell(two, began, snapshot=True)
    assert began.find(KEY) == two.find(KEY)
    assert place_at(began) == (30, 0)
    one.low((40, 0))
    tell(one, two, began)
    assert place_at(began) == (40, 0)


def test_what_another_process_has_known_counts_as_far_as_it_goes(
    journals: tuple[Journal, Journal, Journal],
) -> None:
    one, two, _ = journals
    began = journal_of(4)
    older = list(two.write(snapshot=True))
    one.joined(1, KEY, 1, (25, 0), since=1000.0)
    one.low((30, 0))
    tell(one, two, began)
    for part in older:
        read_message(began, part)
    # Of the one its process has told later, and of the other it is known what that had then.
    assert place_at(began) == (25, 0)
    assert place_at(began, OTHER_KEY) == (20, 0)
    one.low((40, 0))
    tell(one, two, began)
    assert place_at(began, OTHER_KEY) == (20, 0)
    tell(two, began, snapshot=True)
    assert began.find(OTHER_KEY) == two.find(OTHER_KEY)


def test_who_misses_records_takes_nobody_from_those_who_have_them(
    journals: tuple[Journal, Journal, Journal],
) -> None:
    one, two, three = journals
    one.joined(3, b"n" * 16, 1, (25, 0))
    tell(one, two)
    one.low((40, 0))
    tell(one, three)
    # The second process is behind the third one, and knows of more.
    tell(three, two, snapshot=True)
    assert len(two.find(b"n" * 16)) == 1
    assert three.find(b"n" * 16) == []
    tell(two, three, snapshot=True)
    assert [one.key for one in three.find(b"n" * 16)] == [b"n" * 16]


def test_records_that_follow_each_other_change_nothing_but_what_they_say(
    journals: tuple[Journal, Journal, Journal],
) -> None:
    one, two, three = journals
    for number in range(30, 40):
        one.low((number, 0))
        tell(one, two, three)
    assert place_at(three) == (39, 0)
    assert [entry.is_open for entry in three.find(KEY)] == [False]
    entries = [entry for part in three.write(snapshot=True) for entry in _entries(three, part)]
    assert sum(isinstance(entry, Joined) for entry in entries) == 2


def _entries(journal: Journal, data: bytes) -> list[object]:
    part = journal.verify(data)
    assert part is not None
    return list(part.entries)
