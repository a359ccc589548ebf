"""What holds for any bytes and any message of pgoutput."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime_core import LSN, UNCHANGED, DecodeError, TruncatedMessageError
from realtime_core.changes import Begin, Commit
from realtime_core.pgoutput import (
    Assembler,
    BeginMessage,
    CommitMessage,
    Decoder,
    DeleteMessage,
    InsertMessage,
    LogicalMessageMessage,
    Message,
    OriginMessage,
    RelationColumn,
    RelationMessage,
    TruncateMessage,
    TypeMessage,
    UpdateMessage,
)
from tests.pgoutput_encoder import encode

TAGS = b"BCORYIUDTM"

bits8 = st.integers(0, 2**8 - 1)
bits32 = st.integers(0, 2**32 - 1)
signed32 = st.integers(-(2**31), 2**31 - 1)
signed64 = st.integers(-(2**63), 2**63 - 1)
lsns = st.integers(0, 2**64 - 1).map(LSN)
names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
texts = st.text(st.characters(codec="utf-8"), max_size=12)
tuples = st.lists(st.none() | st.just(UNCHANGED) | texts | st.binary(max_size=12), max_size=6).map(
    tuple
)
columns = st.builds(RelationColumn, bits8, names, bits32, signed32)

messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(BeginMessage, lsns, signed64, bits32),
    st.builds(CommitMessage, bits8, lsns, lsns, signed64),
    st.builds(OriginMessage, lsns, names),
    st.builds(
        RelationMessage,
        bits32,
        names,
        names,
        st.sampled_from("dnfi"),
        st.lists(columns, max_size=4).map(tuple),
    ),
    st.builds(TypeMessage, bits32, names, names),
    st.builds(InsertMessage, bits32, tuples),
    st.builds(UpdateMessage, bits32, st.none(), st.just(False), tuples),
    st.builds(UpdateMessage, bits32, tuples, st.booleans(), tuples),
    st.builds(DeleteMessage, bits32, tuples, st.booleans()),
    st.builds(TruncateMessage, bits8, st.lists(bits32, max_size=4).map(tuple)),
    st.builds(LogicalMessageMessage, bits8, lsns, names, st.binary(max_size=12)),
)

# Bytes of no message at all rarely get past the tag, so most are a message with a few
# bytes changed: lengths, letters and NULs among them.
nearly_messages = st.builds(
    lambda data, changes: bytes(
        dict(changes).get(place % (len(data) or 1), byte) for place, byte in enumerate(data)
    ),
    messages.map(encode),
    st.lists(st.tuples(st.integers(0, 60), bits8), max_size=3),
)
tagged = st.builds(lambda tag, rest: bytes([tag]) + rest, st.sampled_from(TAGS), st.binary())


@settings(max_examples=500, deadline=None)
@given(messages)
def test_decoding_undoes_encoding(message: Message) -> None:
    assert Decoder().decode(encode(message)) == message


@settings(max_examples=1500, deadline=None)
@given(nearly_messages | tagged | st.binary())
def test_any_bytes_are_a_message_or_a_decode_error(data: bytes) -> None:
    try:
        message = Decoder().decode(data)
    except DecodeError:
        return
    # What was accepted means what it says: nothing was skipped and nothing made up.
    assert encode(message) == data


@settings(max_examples=300, deadline=None)
@given(messages, st.data())
def test_the_beginning_of_a_message_is_truncated(message: Message, data: st.DataObject) -> None:
    encoded = encode(message)
    length = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(TruncatedMessageError):
        Decoder().decode(encoded[:length])


@settings(max_examples=300, deadline=None)
@given(messages, st.binary(min_size=1, max_size=5))
def test_a_message_with_something_behind_it_is_an_error(message: Message, extra: bytes) -> None:
    with pytest.raises(DecodeError):
        Decoder().decode(encode(message) + extra)


@settings(max_examples=300, deadline=None)
@given(st.lists(messages, max_size=20))
def test_any_order_of_messages_is_changes_or_a_decode_error(stream: list[Message]) -> None:
    assembler = Assembler()
    within = False
    for message in stream:
        try:
            events = assembler.feed(message)
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
