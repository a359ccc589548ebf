"""What goes through envelopes comes out as it went in, wherever they are cut, or one begins.

tests/pgoutput_streams.py makes the streams, and says what must come out of them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from struct import pack

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import (
    LSN,
    Begin,
    Change,
    Commit,
    Delete,
    Event,
    Gap,
    GapReason,
    Idle,
    Insert,
    LogicalMessage,
    Position,
    RawEvent,
    RawRows,
    Relation,
    StreamIdentity,
    Transaction,
    Update,
)
from realtime_core.pgoutput import RawDecoder
from realtime_core.positions import LAST_INDEX
from realtime_server.cluster.chain import HoleError
from realtime_server.cluster.envelope import (
    NOWHERE,
    EnvelopeError,
    Kind,
    Place,
    decode,
    encode,
    messages_of,
    parts_of,
)
from realtime_server.cluster.packer import Packed, Packer
from realtime_server.cluster.unpacker import Unpacker
from tests.pgoutput_encoder import encode as encode_message
from tests.pgoutput_streams import Seen, Server, seen
from tests.property.examples import examples
from tests.server_helpers import make_relation

pytestmark = pytest.mark.slow

STREAM = StreamIdentity(7, 1, ("shop", "ünï"))
seeds = st.integers(0, 2**32 - 1)
steps = st.integers(1, 60)
sizes = st.sampled_from([1, 50, 300, 2000, 256 * 1024])
payloads = st.sampled_from([120, 150, 300, 1024 * 1024])


def raw_events(seed: int, steps: int) -> tuple[list[RawEvent], list[Seen]]:
    """Return a stream as a leader reads it, and what must come out of it."""
    server = Server(Random(seed))
    for _ in range(steps):
        server.step()
    decoder = RawDecoder(STREAM)
    events: list[RawEvent] = list(decoder.decode(map(encode_message, server.messages)))
    decoder.close()
    empty = {
        event.transaction for event in events if isinstance(event, Commit) and not event.changes
    }
    events = [event for event in events if getattr(event, "transaction", None) not in empty]
    return events, [_known(event) for event in server.expected if not _is_empty(event, empty)]


def _is_empty(event: Seen, empty: set[object]) -> bool:
    lsns = {transaction.commit_lsn for transaction in empty}  # type: ignore[attr-defined]
    return event[0] in ("begin", "commit") and event[1][1] in lsns  # type: ignore[index]


def _known(event: Seen) -> Seen:
    """Return an event as it is behind envelopes: its transaction is not said to be prepared."""
    kind, head, *rest = event
    rest = [
        attrs.evolve(item, stream=STREAM) if isinstance(item, Position) else item for item in rest
    ]
    return (kind, head and (*head[:-1], None), *rest)  # type: ignore[misc]


def packed(events: list[RawEvent], random: Random, packer: Packer, flush: float) -> list[Packed]:
    """Pack a stream, sent at random moments."""
    found: list[Packed] = []
    for event in events:
        found += packer.feed(event)
        if random.random() < flush:
            found += packer.flush()
    return found + packer.flush()


def reconnected(events: list[RawEvent], at: int) -> list[RawEvent]:
    """Return the same events, from one on as a source yields them that has reconnected: their
    transactions are equal to those of before, and other objects."""
    copies: dict[int, Transaction] = {}
    found = list(events[:at])
    for event in events[at:]:
        transaction = getattr(event, "transaction", None)
        if transaction is not None:
            copy = copies.setdefault(id(transaction), attrs.evolve(transaction))
            event = attrs.evolve(event, transaction=copy)  # type: ignore[type-var]
        found.append(event)
    return found


def place_of(event: Event) -> Place | None:
    """Return the place of an event in a chain's first generation."""
    match event:
        case Begin() | Gap():
            return None
        case Commit(transaction):
            return (0, transaction.commit_lsn, LAST_INDEX)
        case _:
            return (0, event.position.lsn, event.position.index)


@examples(120)
@given(seeds, steps, sizes, payloads, st.sampled_from([0.0, 0.3, 1.0]))
def test_what_is_packed_is_unpacked(
    seed: int, steps: int, max_bytes: int, max_payload: int, flush: float
) -> None:
    events, expected = raw_events(seed, steps)
    packer = Packer(NOWHERE, STREAM, max_bytes=max_bytes, max_payload=max_payload)
    chain = packed(events, Random(seed), packer, flush)
    unpacker = Unpacker(NOWHERE)
    found = [
        event
        for number, one in enumerate(chain)
        for event in unpacker.feed(decode(one.data, number), number)
    ]
    assert [seen(event) for event in found] == expected
    assert all(len(one.data) <= max_payload for one in chain)
    # Each names the place of the one before it.
    last = NOWHERE
    for one in chain:
        envelope = decode(one.data)
        assert envelope.prev == last
        last = one.last
        if envelope.kind is Kind.CHANGES and envelope.parts == 1:
            parts = parts_of(envelope.body, 0)
            messages = [part for part in parts if isinstance(part, bytes)]
            assert list(messages_of(envelope.body, 0)) == messages
    assert unpacker.last == last == packer.last
    if events:
        assert {one.upto for one in chain if one.upto is not None} <= {
            getattr(event, "position", None) for event in events
        } | {
            Position(event.transaction.commit_lsn, event.index + number, STREAM)
            for event in events
            if isinstance(event, RawRows)
            for number in range(len(event.messages))
        }


@examples(120)
@given(seeds, steps, sizes, st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from(["", "app", "now"]))
def test_of_messages_that_nobody_reads_the_places_count(
    seed: int, steps: int, max_bytes: int, flush: float, is_read: str
) -> None:
    """Of several outside of transactions there is the last one, unless something follows it."""
    events, expected = raw_events(seed, steps)
    packer = Packer(
        NOWHERE, STREAM, max_bytes=max_bytes, is_read=lambda message: message.prefix == is_read
    )
    chain = packed(events, Random(seed), packer, flush)
    unpacker = Unpacker(NOWHERE)
    found = [
        seen(event)
        for number, one in enumerate(chain)
        for event in unpacker.feed(decode(one.data, number), number)
    ]
    assert [one for one in found if not _has_no_content(one)] == [
        stripped
        for one in expected
        if not _has_no_content(stripped := one if is_read in one else _without_content(one))
    ]
    # What is there is there once, in its place.
    places = [one[2:4] for one in expected if one[0] == "message"]
    kept = [one[2:4] for one in found if one[0] == "message"]
    assert kept == [place for place in places if place in kept]
    if events:
        last = next(place for event in reversed(events) if (place := place_of(event)) is not None)
        assert unpacker.last == last


def _without_content(event: Seen) -> Seen:
    return (*event[:4], "", b"") if event[0] == "message" else event


def _has_no_content(event: Seen) -> bool:
    """Whether an event is a message outside of transactions that nobody reads."""
    return event[0] == "message" and event[1] is None and event[4] == ""


@examples(120)
@given(seeds, steps, sizes, st.integers(0, 2**16))
def test_reading_may_begin_at_any_envelope(
    seed: int, steps: int, max_bytes: int, start: int
) -> None:
    events, expected = raw_events(seed, steps)
    packer = Packer(NOWHERE, STREAM, max_bytes=max_bytes)
    chain = packed(events, Random(seed), packer, 0.3)
    if not chain:
        return
    start %= len(chain)
    before = decode(chain[start].data).prev
    unpacker = Unpacker()
    found: list[Event] = []
    for number, one in enumerate(chain[start:], start):
        found += unpacker.feed(decode(one.data, number), number)
    whole: list[Event] = []
    reference = Unpacker(NOWHERE)
    for number, one in enumerate(chain):
        whole += reference.feed(decode(one.data, number), number)
    assert [seen(event) for event in whole] == expected
    behind = [event for event in whole if (place := place_of(event)) is not None and place > before]
    assert [seen(event) for event in found if not isinstance(event, Begin)] == [
        seen(event) for event in behind
    ]
    # Each transaction that anything comes of is begun first.
    begun: set[int] = set()
    for event in found:
        if isinstance(event, Begin):
            begun.add(event.transaction.commit_lsn)
        elif getattr(event, "transaction", None) is not None:
            assert event.transaction.commit_lsn in begun  # type: ignore[union-attr]


@examples(120)
@given(seeds, steps, sizes, st.integers(0, 2**16), st.integers(0, 2**16))
def test_what_is_read_again_comes_once(
    seed: int, steps: int, max_bytes: int, back: int, other: int
) -> None:
    """A reader goes back some way, or gets envelopes that another leader has cut elsewhere."""
    events, expected = raw_events(seed, steps)
    random = Random(seed)
    chain = packed(events, random, Packer(NOWHERE, STREAM, max_bytes=max_bytes), 0.3)
    again = packed(events, random, Packer(NOWHERE, STREAM, max_bytes=97), 0.5)
    if not chain:
        return
    unpacker = Unpacker(NOWHERE)
    found: list[Event] = []
    stop = other % len(chain)
    for number, one in enumerate(chain[:stop]):
        found += unpacker.feed(decode(one.data, number), number)
    for number, one in enumerate(chain[back % (stop + 1) : stop]):
        assert unpacker.feed(decode(one.data, number), number) == []
    # From the start, cut otherwise.
    for number, one in enumerate(again):
        found += unpacker.feed(decode(one.data, number), number)
    for number, one in enumerate(chain):
        assert unpacker.feed(decode(one.data, number), number) == []
    assert [seen(event) for event in found] == expected


@examples(120)
@given(seeds, steps, st.integers(0, 2**16))
def test_a_hole_is_never_passed(seed: int, steps: int, missing: int) -> None:
    events, _ = raw_events(seed, steps)
    chain = packed(events, Random(seed), Packer(NOWHERE, STREAM, max_bytes=300), 0.3)
    if len(chain) < 2:
        return
    missing %= len(chain) - 1
    unpacker = Unpacker(NOWHERE)
    for number, one in enumerate(chain[:missing]):
        unpacker.feed(decode(one.data, number), number)
    before = unpacker.last
    with pytest.raises(HoleError, match=f"envelope {missing + 1} follows") as caught:
        unpacker.feed(decode(chain[missing + 1].data, missing + 1), missing + 1)
    assert caught.value.after == before
    assert caught.value.until == chain[missing].last
    assert unpacker.last == before
    # It is told, and what follows is read.
    unpacker.begin_anew()
    for number, one in enumerate(chain[missing + 1 :], missing + 1):
        unpacker.feed(decode(one.data, number), number)
    assert unpacker.last == chain[-1].last


@examples(120)
@given(seeds, steps, sizes, st.integers(0, 2**16), st.sampled_from([0.0, 0.3, 1.0]))
def test_a_source_may_reconnect_within_a_transaction(
    seed: int, steps: int, max_bytes: int, cut: int, flush: float
) -> None:
    events, expected = raw_events(seed, steps)
    events = reconnected(events, cut % (len(events) + 1))
    chain = packed(events, Random(seed), Packer(NOWHERE, STREAM, max_bytes=max_bytes), flush)
    unpacker = Unpacker(NOWHERE)
    found = [
        event
        for number, one in enumerate(chain)
        for event in unpacker.feed(decode(one.data, number), number)
    ]
    assert [seen(event) for event in found] == expected


@examples(120)
@given(seeds, steps, sizes, st.integers(0, 2**16))
def test_another_leader_goes_on_where_the_log_ends(
    seed: int, steps: int, max_bytes: int, cut: int
) -> None:
    """It begins at the last place of the log, and its source yields what lies behind that."""
    events, expected = raw_events(seed, steps)
    chain = packed(events, Random(seed), Packer(NOWHERE, STREAM, max_bytes=max_bytes), 0.3)
    if not chain:
        return
    log = chain[: cut % len(chain) + 1]
    tail = log[-1].last
    packer = Packer(tail, STREAM, max_bytes=max_bytes)
    log += packed(behind(events, tail), Random(cut), packer, 0.3)
    unpacker = Unpacker(NOWHERE)
    found = [
        event
        for number, one in enumerate(log)
        for event in unpacker.feed(decode(one.data, number), number)
    ]
    assert [seen(event) for event in found] == expected


def behind(events: list[RawEvent], tail: Place) -> list[RawEvent]:
    """Return what a source yields that begins at a place: see Sequence.accept."""
    found: list[RawEvent] = []
    start = tail[1:]
    for event in events:
        match event:
            case Begin(transaction):
                if transaction.commit_lsn > start[0]:
                    found.append(event)
            case Commit(transaction, _, changes):
                if (transaction.commit_lsn, max(changes - 1, 0)) > start:
                    found.append(event)
            case RawRows(transaction, index, relation, messages):
                lsn = transaction.commit_lsn
                taken = 0 if lsn > start[0] else len(messages)
                if lsn == start[0]:
                    taken = min(max(start[1] + 1 - index, 0), len(messages))
                if taken < len(messages):
                    found.append(RawRows(transaction, index + taken, relation, messages[taken:]))
            case _:
                position = event.position  # type: ignore[union-attr]
                if (position.lsn, position.index) > start:
                    found.append(event)
    return found


@examples(120)
@given(seeds, steps, sizes, st.integers(0, 2**16), st.integers(0, 2**16))
def test_rows_that_nobody_wants_are_passed_over_and_no_others(
    seed: int, steps: int, max_bytes: int, start: int, change: int
) -> None:
    """Reading begins anywhere, and from some envelope on other tables are wanted."""
    events, _ = raw_events(seed, steps)
    chain = packed(events, Random(seed), Packer(NOWHERE, STREAM, max_bytes=max_bytes), 0.3)
    if not chain:
        return
    start, change = start % len(chain), change % len(chain)
    tables = sorted(
        {(one.relation.schema, one.relation.table) for one in events if isinstance(one, RawRows)}
    )
    random = Random(seed)
    first, second = ({one for one in tables if random.random() < 0.5} for _ in range(2))
    reference, unpacker = Unpacker(), Unpacker()
    begun: set[int] = set()
    for number, one in enumerate(chain[start:], start):
        wanted = second if number >= change else first
        whole = reference.feed(decode(one.data, number), number)
        found = unpacker.feed(
            decode(one.data, number), number, lambda *table, wanted=wanted: table in wanted
        )
        assert unpacker.last == reference.last
        # Whatever an envelope ends with can be acknowledged.
        assert place_of(found[-1]) == one.last
        shown = [seen(event) for event in found if not isinstance(event, Idle)]
        rest = iter([seen(event) for event in whole])
        # The rest of a transaction may come whose first rows were passed over.
        assert all(event in rest for event in shown if event[0] != "begin")
        for event in whole:
            if isinstance(event, Insert | Update | Delete):
                relation = event.relation
                if (relation.schema, relation.table) in wanted:
                    assert seen(event) in shown
            elif not isinstance(event, Begin | Commit):
                assert seen(event) in shown
        for event in found:
            if isinstance(event, Begin):
                begun.add(event.transaction.commit_lsn)
            elif not isinstance(event, Idle) and event.transaction is not None:
                assert event.transaction.commit_lsn in begun
        for event in whole:
            if isinstance(event, Commit):
                is_begun = event.transaction.commit_lsn in begun
                assert (seen(event) in shown) == is_begun


# Hostile bytes


@examples(300)
@given(seeds, st.data())
def test_wrong_bytes_are_an_error_that_names_the_envelope(seed: int, data: st.DataObject) -> None:
    events, _ = raw_events(seed, 40)
    chain = packed(events, Random(seed), Packer(NOWHERE, STREAM, max_bytes=300), 0.3)
    if not chain:
        return
    number = data.draw(st.integers(0, len(chain) - 1))
    good = chain[number].data
    wrong = data.draw(
        st.one_of(
            st.binary(max_size=200),
            st.integers(0, len(good) - 1).map(lambda size: good[:size]),
            st.binary(min_size=1, max_size=9).map(lambda more: good + more),
            st.tuples(st.integers(0, len(good) - 1), st.integers(1, 255)).map(
                lambda flip: bytes(
                    byte ^ flip[1] if at == flip[0] else byte for at, byte in enumerate(good)
                )
            ),
        )
    )
    unpacker = Unpacker(NOWHERE)
    for place, one in enumerate(chain[:number]):
        unpacker.feed(decode(one.data, place), place)
    before = unpacker.last
    problem: Exception | None = None
    try:
        for event in unpacker.feed(decode(wrong, number), number):
            # It may be another place, or another value, but it is a change.
            assert isinstance(event, Change | Begin | Commit | Idle | Gap)
    except (EnvelopeError, HoleError) as exc:
        problem = exc
        assert exc.sequence == number  # noqa: PT017 (there may be none)
    if problem is None:
        return
    assert str(problem).startswith(f"envelope {number} ")
    assert unpacker.last == before
    unpacker.begin_anew()
    for place, one in enumerate(chain[number + 1 :], number + 1):
        unpacker.feed(decode(one.data, place), place)
    assert number == len(chain) - 1 or unpacker.last == chain[-1].last


def test_another_version_is_told_what_to_do() -> None:
    (one,) = Packer(NOWHERE, STREAM).feed(Idle(Position(LSN(5), 0, STREAM)))
    newer = one.data[:3] + b"\2" + one.data[4:]
    with pytest.raises(EnvelopeError, match=r"envelope 9 .* version 2, .* replace this one"):
        Unpacker().feed(decode(newer, 9), 9)


# Marks and gaps


def place(number: int, stream: StreamIdentity = STREAM) -> Position:
    return Position(LSN(number), 0, stream)


def test_a_mark_moves_the_place() -> None:
    packer = Packer(NOWHERE, STREAM)
    (one,) = packer.feed(Idle(place(5)))
    assert one.upto == place(5)
    unpacker = Unpacker(NOWHERE)
    assert unpacker.feed(decode(one.data, 1), 1) == [Idle(place(5))]
    assert unpacker.feed(decode(one.data, 1), 1) == []
    with pytest.raises(ValueError, match="does not stand behind"):
        packer.feed(Idle(place(5)))


def test_gaps_go_on_even_where_lsns_go_back() -> None:
    """A standby was promoted that had less, or another cluster answers."""
    promoted = StreamIdentity(7, 2, STREAM.publications)
    other = StreamIdentity(8, 1, STREAM.publications)
    packer = Packer(NOWHERE, STREAM)
    unpacker = Unpacker(NOWHERE)
    log: list[bytes] = []

    def through(event: RawEvent) -> list[Event]:
        (one,) = packer.feed(event)
        log.append(one.data)
        return unpacker.feed(decode(one.data, 1), 1)

    through(Idle(place(100)))
    lost = Gap(place(100), place(50, promoted), GapReason.NEW_TIMELINE)
    assert through(lost) == [lost]
    assert through(Idle(place(60, promoted))) == [Idle(place(60, promoted))]
    moved = Gap(place(60, promoted), place(20, other), GapReason.OTHER_CLUSTER)
    (gap,) = through(moved)
    assert gap == moved
    assert isinstance(gap, Gap)
    assert gap.until.stream == other
    assert through(Idle(place(30, other))) == [Idle(place(30, other))]
    assert packer.last == (2, 30, 0)
    # What was read is not taken for new, though its LSN is higher.
    for data in log:
        assert unpacker.feed(decode(data, 1), 1) == []


def test_another_stream_without_a_gap_is_refused() -> None:
    unpacker = Unpacker(NOWHERE)
    (one,) = Packer(NOWHERE, STREAM).feed(Idle(place(5)))
    unpacker.feed(decode(one.data, 1), 1)
    other = StreamIdentity(8, 1, STREAM.publications)
    forged = encode(attrs.evolve(decode(one.data), stream=other, last=(0, 9, 0), first=(0, 9, 0)))
    with pytest.raises(EnvelopeError, match="without a gap"):
        unpacker.feed(decode(forged, 2), 2)


def test_an_unknown_reason_of_a_gap_is_an_error() -> None:
    (one,) = Packer(NOWHERE, STREAM).feed(Gap(None, place(5), GapReason.SLOT_MOVED))
    forged = encode(attrs.evolve(decode(one.data), body=b"because"))
    with pytest.raises(EnvelopeError, match="'because'"):
        Unpacker().feed(decode(forged, 2), 2)


def test_the_streams_are_cut_within_transactions() -> None:
    """Else the properties above would say little."""
    within = parts = messages = 0
    for seed in range(30):
        events, _ = raw_events(seed, 60)
        packer = Packer(NOWHERE, STREAM, max_bytes=50, max_payload=150)
        for one in packed(events, Random(seed), packer, 0.3):
            envelope = decode(one.data)
            within += 0 < envelope.first[2] < LAST_INDEX
            parts += envelope.parts > 1
        messages += sum(isinstance(event, LogicalMessage) for event in events)
    assert min(within, parts, messages) > 20


def test_a_table_that_changes_and_changes_back_is_described_each_time() -> None:
    """Else rows of its former form would be read as those of the form in between."""
    begin = Transaction(7, LSN(100), datetime(2026, 11, 28, tzinfo=UTC), stream=STREAM)

    one_column = make_relation(columns=[("a", "text", False)])
    two_columns = make_relation(columns=[("a", "text", False), ("b", "text", False)])

    def rows(index: int, relation: Relation) -> RawRows:
        count = len(relation.columns)
        fields = pack("!H", count) + b"t\0\0\0\1x" * count
        message = b"I" + pack("!I", relation.oid) + b"N" + fields
        return RawRows(begin, index, relation, (message,))

    packer = Packer(NOWHERE, STREAM)
    for event in (
        *(Begin(begin), rows(0, one_column), rows(1, two_columns), rows(2, one_column)),
        Commit(begin, LSN(200), 3),
    ):
        assert packer.feed(event) == []
    (one,) = packer.flush()
    found = Unpacker(NOWHERE).feed(decode(one.data, 1), 1)
    assert [list(event.record) for event in found if isinstance(event, Insert)] == [
        ["a"],
        ["a", "b"],
        ["a"],
    ]
