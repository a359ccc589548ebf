"""What holds for any bytes and any message of pgoutput, wherever in a stream they come."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import LSN, UNCHANGED, Begin, Commit, DecodeError, TruncatedMessageError
from realtime_core.pgoutput import (
    Assembler,
    BeginMessage,
    BeginPrepareMessage,
    CommitMessage,
    CommitPreparedMessage,
    Decoder,
    DeleteMessage,
    InsertMessage,
    LogicalMessageMessage,
    Message,
    OriginMessage,
    PrepareMessage,
    RelationColumn,
    RelationMessage,
    RollbackPreparedMessage,
    StreamAbortMessage,
    StreamCommitMessage,
    StreamPrepareMessage,
    StreamStartMessage,
    StreamStopMessage,
    TruncateMessage,
    TypeMessage,
    UpdateMessage,
)
from tests.pgoutput_encoder import encode
from tests.property.examples import examples

TAGS = b"BCORYIUDTMSEcAbPpKr"

bits8 = st.integers(0, 2**8 - 1)
bits32 = st.integers(0, 2**32 - 1)
signed32 = st.integers(-(2**31), 2**31 - 1)
times = st.integers(-(2**63), 2**63 - 1)
lsns = st.integers(0, 2**64 - 1).map(LSN)
names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
texts = st.text(st.characters(codec="utf-8"), max_size=12)
fields = st.none() | st.just(UNCHANGED) | texts | st.binary(max_size=12)
tuples = st.lists(fields, max_size=6).map(tuple)
columns = st.builds(RelationColumn, bits8, names, bits32, signed32)
# Few, so that rows meet relations.
oids = st.integers(1, 3) | bits32

# What carries an xid inside a stream block.
streamable: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        RelationMessage,
        oids,
        names,
        names,
        st.sampled_from("dnfi"),
        st.lists(columns, max_size=4).map(tuple),
    ),
    st.builds(TypeMessage, bits32, names, names),
    st.builds(InsertMessage, oids, tuples),
    st.builds(UpdateMessage, oids, st.none(), st.just(False), tuples),
    st.builds(UpdateMessage, oids, tuples, st.booleans(), tuples),
    st.builds(DeleteMessage, oids, tuples, st.booleans()),
    st.builds(TruncateMessage, bits8, st.lists(oids, max_size=4).map(tuple)),
    st.builds(LogicalMessageMessage, bits8, lsns, names, st.binary(max_size=12)),
)
with_xid = st.builds(lambda message, xid: attrs.evolve(message, xid=xid), streamable, bits32)
prepared = (bits8, lsns, lsns, times, bits32, names)
# What is the same inside and outside.
plain: st.SearchStrategy[Message] = st.one_of(
    st.builds(BeginMessage, lsns, times, bits32),
    st.builds(CommitMessage, bits8, lsns, lsns, times),
    st.builds(OriginMessage, lsns, names),
    st.builds(StreamCommitMessage, bits32, bits8, lsns, lsns, times),
    st.builds(BeginPrepareMessage, lsns, lsns, times, bits32, names),
    st.builds(PrepareMessage, *prepared),
    st.builds(StreamPrepareMessage, *prepared),
    st.builds(CommitPreparedMessage, *prepared),
    st.builds(RollbackPreparedMessage, bits8, lsns, lsns, times, times, bits32, names),
)
short_aborts = st.builds(StreamAbortMessage, bits32, bits32)
long_aborts = st.builds(StreamAbortMessage, bits32, bits32, lsns, times)
starts = st.builds(StreamStartMessage, bits32, st.booleans())


@attrs.frozen
class Place:
    """Where in a stream a message comes: what the decoder has seen, and how it was made."""

    inside: bool
    parallel: bool
    widths: tuple[int, ...]
    """Of the tables 1, 2, and so on: their rows are read by generated readers."""

    def decoder(self) -> Decoder:
        decoder = Decoder(abort_info=self.parallel)
        for oid, width in enumerate(self.widths, 1):
            column = RelationColumn(0, "c", 25, -1)
            decoder.decode(encode(RelationMessage(oid, "s", "t", "d", (column,) * width)))
        if self.inside:
            decoder.decode(encode(StreamStartMessage(1, True)))
        return decoder

    def messages(self) -> st.SearchStrategy[Message]:
        """Return what may come here."""
        aborts = long_aborts if self.parallel else short_aborts
        if self.inside:
            return with_xid | plain | aborts | st.just(StreamStopMessage())
        return streamable | plain | aborts | starts


places = st.builds(
    Place, st.booleans(), st.booleans(), st.lists(st.integers(0, 6), max_size=3).map(tuple)
)
placed_messages = places.flatmap(lambda place: st.tuples(st.just(place), place.messages()))

# Bytes of no message at all rarely get past the tag, so most are a message with a few
# bytes changed: lengths, letters and NULs among them.
placed_bytes = st.builds(
    lambda placed, changes: (
        placed[0],
        bytes(changes.get(place, byte) for place, byte in enumerate(encode(placed[1]))),
    ),
    placed_messages,
    st.dictionaries(st.integers(0, 40), bits8 | st.sampled_from(b"ntub\x00\xff"), max_size=3),
) | st.tuples(
    places,
    st.binary()
    | st.builds(lambda tag, rest: bytes([tag]) + rest, st.sampled_from(TAGS), st.binary()),
)


@pytest.mark.slow
@examples(200)
@given(placed_messages)
def test_decoding_undoes_encoding(placed: tuple[Place, Message]) -> None:
    place, message = placed
    assert place.decoder().decode(encode(message)) == message


@pytest.mark.slow
@examples(500)
@given(placed_bytes)
def test_any_bytes_are_a_message_or_a_decode_error(placed: tuple[Place, bytes]) -> None:
    place, data = placed
    try:
        message = place.decoder().decode(data)
    except DecodeError:
        return
    # What was accepted means what it says: nothing was skipped and nothing made up.
    assert encode(message) == data


@pytest.mark.slow
@examples(150)
@given(placed_messages, st.data())
def test_the_beginning_of_a_message_is_truncated(
    placed: tuple[Place, Message], data: st.DataObject
) -> None:
    place, message = placed
    encoded = encode(message)
    length = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(TruncatedMessageError):
        place.decoder().decode(encoded[:length])


@pytest.mark.slow
@examples(150)
@given(placed_messages, st.binary(min_size=1, max_size=5))
def test_a_message_with_something_behind_it_is_an_error(
    placed: tuple[Place, Message], extra: bytes
) -> None:
    place, message = placed
    with pytest.raises(DecodeError):
        place.decoder().decode(encode(message) + extra)


@pytest.mark.slow
@examples(150)
@given(placed_bytes)
def test_a_generated_reader_reads_as_the_plain_loop_does(placed: tuple[Place, bytes]) -> None:
    place, data = placed
    assert outcome(place.decoder(), data) == outcome(attrs.evolve(place, widths=()).decoder(), data)


def outcome(decoder: Decoder, data: bytes) -> object:
    try:
        return decoder.decode(data)
    except DecodeError as error:
        return type(error), str(error)


@pytest.mark.slow
@examples(150)
@given(st.lists(streamable | with_xid | plain | short_aborts | starts, max_size=20))
def test_any_order_of_messages_is_changes_or_a_decode_error(stream: list[Message]) -> None:
    assembler = Assembler()
    within = False
    for message in stream:
        try:
            # A committed stream comes as an iterator.
            events = list(assembler.feed(message))
        except DecodeError:
            with pytest.raises(DecodeError):
                assembler.feed(message)
            return
        for event in events:
            if isinstance(event, Begin):
                assert not within
                within = True
            elif isinstance(event, Commit):
                assert within
                within = False
        # Begin comes out with the message after it.
        assert assembler.in_transaction is (within or isinstance(message, BeginMessage))
