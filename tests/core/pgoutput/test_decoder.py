"""The decoder, message kind by message kind, from bytes as PostgreSQL writes them."""

from collections.abc import Callable

import attrs
import pytest

from realtime_core import LSN, UNCHANGED, DecodeError, TruncatedMessageError, UnknownMessageError
from realtime_core.pgoutput import (
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

# One of each kind in each variant: (what, bytes, message). The bytes are written by hand
# from the documentation; the encoder must come to the same.
EXAMPLES: list[tuple[str, bytes, Message]] = [
    (
        "begin",
        b"B" b"\x00\x00\x00\xa9\x01\xc2\xf1\x78"
        b"\x00\x02\xee\x02\x9a\x21\x33\x85" b"\x00\x00\x4b\x4b",
        BeginMessage(LSN.parse("A9/1C2F178"), 824_644_896_633_733, 19_275),
    ),
    (
        "begin with an xid past 2^31 and a time before 2000",
        b"B" b"\xff\xff\xff\xff\xff\xff\xff\xff"
        b"\xff\xff\xff\xff\xff\xff\xff\xff" b"\xff\xff\xff\xfe",
        BeginMessage(LSN(2**64 - 1), -1, 2**32 - 2),
    ),
    (
        "commit",
        b"C" b"\x00" b"\x00\x00\x00\x16\xb3\x74\xd8\x48" b"\x00\x00\x00\x16\xb3\x74\xd8\x78"
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
        CommitMessage(0, LSN.parse("16/B374D848"), LSN.parse("16/B374D878"), 0),
    ),
    (
        "origin",
        b"O" b"\x00\x00\x00\x00\xab\xcd\xef\x01" b"upstream \xc3\xbc\x00",
        OriginMessage(LSN.parse("0/ABCDEF01"), "upstream ü"),
    ),
    (
        "relation",
        b"R" b"\x00\x00\x40\x01" b"public\x00" b"people\x00" b"d" b"\x00\x03"
        b"\x01" b"id\x00" b"\x00\x00\x00\x17" b"\xff\xff\xff\xff"
        b"\x00" b"name\x00" b"\x00\x00\x04\x13" b"\x00\x00\x00\x0e"
        b"\x00" b"\xc3\xbcn\xc3\xaf\x00" b"\x00\x00\x40\x2a" b"\xff\xff\xff\xff",
        RelationMessage(
            16385,
            "public",
            "people",
            "d",
            (
                RelationColumn(1, "id", 23, -1),
                RelationColumn(0, "name", 1043, 14),
                RelationColumn(0, "ünï", 16426, -1),
            ),
        ),
    ),
    (
        "relation in pg_catalog without columns",
        b"R" b"\xff\xff\xff\xff" b"\x00" b"odd\x00" b"n" b"\x00\x00",
        RelationMessage(2**32 - 1, "", "odd", "n", ()),
    ),
    (
        "relation with identity full",
        b"R" b"\x00\x00\x40\x01" b"s\x00" b"t\x00" b"f" b"\x00\x00",
        RelationMessage(16385, "s", "t", "f", ()),
    ),
    (
        "relation with identity index",
        b"R" b"\x00\x00\x40\x01" b"s\x00" b"t\x00" b"i" b"\x00\x00",
        RelationMessage(16385, "s", "t", "i", ()),
    ),
    (
        "type",
        b"Y" b"\x00\x00\x40\x10" b"public\x00" b"mood\x00",
        TypeMessage(16400, "public", "mood"),
    ),
    (
        "type in pg_catalog",
        b"Y" b"\x00\x00\x40\x11" b"\x00" b"int4\x00",
        TypeMessage(16401, "", "int4"),
    ),
    (
        "insert of null, text, empty text and binary",
        b"I" b"\x00\x00\x40\x01" b"N" b"\x00\x05"
        b"n" b"t\x00\x00\x00\x02" b"42" b"t\x00\x00\x00\x00" b"t\x00\x00\x00\x03" b"\xe2\x82\xac"
        b"b\x00\x00\x00\x02" b"\x00\xff",
        InsertMessage(16385, (None, "42", "", "€", b"\x00\xff")),
    ),
    (
        "insert of a row without columns",
        b"I" b"\x00\x00\x40\x01" b"N" b"\x00\x00",
        InsertMessage(16385, ()),
    ),
    (
        "update without an old row",
        b"U" b"\x00\x00\x40\x01" b"N" b"\x00\x02" b"t\x00\x00\x00\x01" b"1" b"u",
        UpdateMessage(16385, None, False, ("1", UNCHANGED)),
    ),
    (
        "update with the old key",
        b"U" b"\x00\x00\x40\x01" b"K" b"\x00\x02" b"t\x00\x00\x00\x01" b"1" b"n"
        b"N" b"\x00\x02" b"t\x00\x00\x00\x01" b"2" b"u",
        UpdateMessage(16385, ("1", None), True, ("2", UNCHANGED)),
    ),
    (
        "update with the old row",
        b"U" b"\x00\x00\x40\x01" b"O" b"\x00\x02"
        b"t\x00\x00\x00\x01" b"1" b"t\x00\x00\x00\x01" b"x"
        b"N" b"\x00\x02" b"t\x00\x00\x00\x01" b"1" b"n",
        UpdateMessage(16385, ("1", "x"), False, ("1", None)),
    ),
    (
        "delete with the key",
        b"D" b"\x00\x00\x40\x01" b"K" b"\x00\x02" b"t\x00\x00\x00\x01" b"1" b"n",
        DeleteMessage(16385, ("1", None), True),
    ),
    (
        "delete with the row",
        b"D" b"\x00\x00\x40\x01" b"O" b"\x00\x02" b"b\x00\x00\x00\x01" b"\x01" b"n",
        DeleteMessage(16385, (b"\x01", None), False),
    ),
    (
        "truncate",
        b"T" b"\x00\x00\x00\x01" b"\x00" b"\x00\x00\x40\x01",
        TruncateMessage(0, (16385,)),
    ),
    (
        "truncate of two, cascade and restart identity",
        b"T" b"\x00\x00\x00\x02" b"\x03" b"\x00\x00\x40\x01" b"\xff\xff\xff\xff",
        TruncateMessage(3, (16385, 2**32 - 1)),
    ),
    (
        "message",
        b"M" b"\x01" b"\x00\x00\x00\xa9\x01\xc2\xf1\x78"
        b"app\x00" b"\x00\x00\x00\x04" b"\x00\xff\x80n",
        LogicalMessageMessage(1, LSN.parse("A9/1C2F178"), "app", b"\x00\xff\x80n"),
    ),
    (
        "message that is empty and not transactional",
        b"M" b"\x00" b"\x00\x00\x00\x00\x00\x00\x00\x01" b"\x00" b"\x00\x00\x00\x00",
        LogicalMessageMessage(0, LSN(1), "", b""),
    ),
]  # fmt: skip

# Protocols 2 to 4: what comes outside of a stream block.
EXAMPLES += [
    (
        "stream start",
        b"S" b"\x80\x00\x4b\x4b" b"\x01",
        StreamStartMessage(0x80004B4B, True),
    ),
    (
        "stream start of a later segment",
        b"S" b"\x00\x00\x4b\x4b" b"\x00",
        StreamStartMessage(19_275, False),
    ),
    (
        "stream commit",
        b"c" b"\x00\x00\x4b\x4b" b"\x00" b"\x00\x00\x00\x16\xb3\x74\xd8\x48"
        b"\x00\x00\x00\x16\xb3\x74\xd8\x78" b"\x00\x02\xee\x02\x9a\x21\x33\x85",
        StreamCommitMessage(
            19_275, 0, LSN.parse("16/B374D848"), LSN.parse("16/B374D878"), 824_644_896_633_733
        ),
    ),
    (
        "stream abort of a subtransaction",
        b"A" b"\x00\x00\x4b\x4b" b"\x00\x00\x4b\x4d",
        StreamAbortMessage(19_275, 19_277),
    ),
    (
        "begin prepare",
        b"b" b"\x00\x00\x00\x16\xb3\x74\xd8\x48" b"\x00\x00\x00\x16\xb3\x74\xd8\x78"
        b"\x00\x02\xee\x02\x9a\x21\x33\x85" b"\x00\x00\x4b\x4b" b"order 7\x00",
        BeginPrepareMessage(
            LSN.parse("16/B374D848"),
            LSN.parse("16/B374D878"),
            824_644_896_633_733,
            19_275,
            "order 7",
        ),
    ),
    *(
        (
            what,
            tag
            + b"\x00" b"\x00\x00\x00\x16\xb3\x74\xd8\x48" b"\x00\x00\x00\x16\xb3\x74\xd8\x78"
            b"\x00\x00\x00\x00\x00\x00\x00\x01" b"\x00\x00\x4b\x4b" b"\xc3\xbc\x00",
            kind(
                0, LSN.parse("16/B374D848"), LSN.parse("16/B374D878"), 1, 19_275, "ü"
            ),
        )
        for what, tag, kind in (
            ("prepare", b"P", PrepareMessage),
            ("stream prepare", b"p", StreamPrepareMessage),
            ("commit prepared", b"K", CommitPreparedMessage),
        )
    ),
    (
        "rollback prepared",
        b"r" b"\x00" b"\x00\x00\x00\x16\xb3\x74\xd8\x48" b"\x00\x00\x00\x16\xb3\x74\xd8\x78"
        b"\x00\x00\x00\x00\x00\x00\x00\x01" b"\x00\x02\xee\x02\x9a\x21\x33\x85"
        b"\x00\x00\x4b\x4b" b"\x00",
        RollbackPreparedMessage(
            0,
            LSN.parse("16/B374D848"),
            LSN.parse("16/B374D878"),
            1,
            824_644_896_633_733,
            19_275,
            "",
        ),
    ),
]  # fmt: skip


def in_stream(data: bytes) -> bytes:
    """The same message as a stream block carries it: with an xid."""
    return data[:1] + b"\x00\x00\x4b\x4d" + data[1:]


IN_STREAM: list[tuple[str, bytes, Message]] = [
    ("stream stop", b"E", StreamStopMessage()),
    *(
        (what, in_stream(data), attrs.evolve(message, xid=19_277))
        for what, data, message in EXAMPLES
        if isinstance(
            message,
            RelationMessage
            | TypeMessage
            | InsertMessage
            | UpdateMessage
            | DeleteMessage
            | TruncateMessage
            | LogicalMessageMessage,
        )
    ),
    # Has none, not even here.
    ("origin", b"O" + b"\x00" * 8 + b"up\x00", OriginMessage(LSN(0), "up")),
]

LONG_ABORT = (
    "stream abort with its LSN and time",
    b"A" b"\x00\x00\x4b\x4b" b"\x00\x00\x4b\x4b" b"\x00\x00\x00\x16\xb3\x74\xd8\x48"
    b"\x00\x02\xee\x02\x9a\x21\x33\x85",
    StreamAbortMessage(19_275, 19_275, LSN.parse("16/B374D848"), 824_644_896_633_733),
)  # fmt: skip


def outside() -> Decoder:
    return Decoder()


def inside() -> Decoder:
    decoder = Decoder()
    decoder.decode(b"S\x00\x00\x4b\x4b\x01")
    return decoder


def parallel() -> Decoder:
    return Decoder(abort_info=True)


def knowing() -> Decoder:
    """One that has seen the table of the examples, and reads its rows by a generated reader."""
    decoder = Decoder()
    columns = b"".join(
        b"\x00" + bytes([97 + n]) + b"\x00" + b"\x00\x00\x00\x19" * 2 for n in range(2)
    )
    decoder.decode(b"R" + OID + b"s\x00t\x00f" + b"\x00\x02" + columns)
    return decoder


OID = b"\x00\x00\x40\x01"

CASES = [
    *((outside, *example) for example in EXAMPLES),
    *((inside, *example) for example in IN_STREAM),
    (parallel, *LONG_ABORT),
    *((knowing, *example) for example in EXAMPLES if example[1][:1] in b"IUD"),
]

each_example = pytest.mark.parametrize(
    ("decoder", "data", "message"),
    [(make, data, message) for make, _, data, message in CASES],
    ids=[f"{make.__name__} {name}" for make, name, *_ in CASES],
)
MakeDecoder = Callable[[], Decoder]


def decode(data: bytes) -> Message:
    return Decoder().decode(data)


@each_example
def test_bytes_become_the_message(decoder: MakeDecoder, data: bytes, message: Message) -> None:
    assert decoder().decode(data) == message


@each_example
def test_the_encoder_of_the_tests_writes_the_same_bytes(
    decoder: MakeDecoder, data: bytes, message: Message
) -> None:
    assert encode(message) == data


@each_example
def test_a_message_cut_at_any_byte_is_truncated(
    decoder: MakeDecoder, data: bytes, message: Message
) -> None:
    for length in range(len(data)):
        with pytest.raises(TruncatedMessageError):
            decoder().decode(data[:length])


@each_example
@pytest.mark.parametrize("extra", [b"\x00", b"n", b"N\x00\x00"])
def test_bytes_behind_the_end_are_an_error(
    decoder: MakeDecoder, data: bytes, message: Message, extra: bytes
) -> None:
    with pytest.raises(DecodeError):
        decoder().decode(data + extra)


def test_a_position_and_a_time_keep_their_types() -> None:
    message = decode(EXAMPLES[0][1])
    assert isinstance(message, BeginMessage)
    assert type(message.final_lsn) is LSN


def test_one_decoder_decodes_a_stream_block_and_what_is_around_it() -> None:
    decoder = Decoder()
    plain = [example for example in EXAMPLES if not isinstance(example[2], StreamStartMessage)]
    (start, _) = (example for example in EXAMPLES if isinstance(example[2], StreamStartMessage))
    (stop, *streamed) = IN_STREAM
    order = [*plain, start, *streamed, stop, *plain, start, stop]
    assert [decoder.decode(data) for _, data, _ in order] == [message for _, _, message in order]


def test_a_decoder_goes_on_after_an_error() -> None:
    """A refused message does not move it; the assembler is what refuses to go on."""
    decoder = Decoder()
    with pytest.raises(DecodeError):
        decoder.decode(b"S\x00\x00\x4b\x4b\x01 and more")
    _, data, message = next(example for example in EXAMPLES if example[0].startswith("insert"))
    assert decoder.decode(data) == message


def test_a_stream_start_within_a_block_is_an_error() -> None:
    with pytest.raises(DecodeError, match="Stream Start within a stream block"):
        inside().decode(b"S\x00\x00\x4b\x4b\x01")


def test_a_stream_stop_outside_of_a_block_is_an_error() -> None:
    with pytest.raises(DecodeError, match="Stream Stop outside of a stream block"):
        decode(b"E")


def test_a_first_segment_is_a_flag() -> None:
    with pytest.raises(DecodeError, match="a flag is 0 or 1, not 2"):
        decode(b"S\x00\x00\x4b\x4b\x02")


def test_whether_an_abort_is_long_is_not_guessed() -> None:
    short, (_, long, _) = b"A\x00\x00\x4b\x4b\x00\x00\x4b\x4d", LONG_ABORT
    with pytest.raises(TruncatedMessageError):
        parallel().decode(short)
    with pytest.raises(DecodeError, match="16 bytes left over"):
        outside().decode(long)


def test_an_empty_message_is_truncated() -> None:
    with pytest.raises(TruncatedMessageError, match="empty"):
        decode(b"")


def test_an_unknown_tag_is_named() -> None:
    for tag in set(range(256)) - set(b"BCORYIUDTMSEcAbPpKr"):
        with pytest.raises(UnknownMessageError) as caught:
            decode(bytes([tag]) + b"\x00" * 40)
        assert caught.value.tag == tag


both = pytest.mark.parametrize("decoder", [outside, knowing])


@both
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"I" + OID + b"K\x00\x00", "Insert has tuple 'K'"),
        (b"I" + OID + b"O\x00\x00", "Insert has tuple 'O'"),
        (b"I" + OID + b"\x00\x00\x00", "Insert has tuple"),
        (b"U" + OID + b"X\x00\x00", "Update has tuple 'X'"),
        (b"U" + OID + b"K\x00\x00K\x00\x00", "Update has tuple 'K'"),
        (b"U" + OID + b"O\x00\x00O\x00\x00N\x00\x00", "Update has tuple 'O'"),
        (b"D" + OID + b"N\x00\x00", "Delete has tuple 'N'"),
        (b"I" + OID + b"N\xff\xff", "negative number of columns -1"),
        (b"I" + OID + b"N\x00\x01x", "unknown kind of field 'x'"),
        (b"I" + OID + b"N\x00\x01t\xff\xff\xff\xff", "negative field length -1"),
        (b"I" + OID + b"N\x00\x01b\x80\x00\x00\x00", "negative field length -2147483648"),
        # A negative length that points back into the message must not read it again.
        (b"I" + OID + b"N\x00\x02t\x00\x00\x00\x01at\xff\xff\xff\xfb", "negative field length -5"),
        (b"I" + OID + b"N\x00\x02t\xff\xff\xff\xfen", "negative field length -2"),
        (b"I" + OID + b"N\x00\x02t\xff\xff\xff\xfe\xe4n", "negative field length -2"),
        (b"R" + OID + b"s\x00t\x00x\x00\x00", "unknown replica identity 'x'"),
        (b"R" + OID + b"s\x00t\x00D\x00\x00", "unknown replica identity 'D'"),
        (b"R" + OID + b"s\x00t\x00d\xff\xff", "negative count -1"),
        (b"T\xff\xff\xff\xff\x00", "negative count -1"),
        (b"M\x00" + b"\x00" * 8 + b"p\x00\xff\xff\xff\xff", "negative count -1"),
    ],
)
def test_a_wrong_letter_or_a_negative_length_is_an_error(
    decoder: MakeDecoder, data: bytes, words: str
) -> None:
    with pytest.raises(DecodeError, match=words) as caught:
        decoder().decode(data)
    assert type(caught.value) is DecodeError


@both
@pytest.mark.parametrize(
    "data",
    [
        b"I" + OID + b"N\x00\x02t\x00\x00\x00\x03\xe2\x82",
        b"I" + OID + b"N\x7f\xff" + b"n" * 10,
        b"I" + OID + b"N\x00\x01t\x00\x00\x00\x03ab",
        b"I" + OID + b"N\x00\x01b\x7f\xff\xff\xffab",
        b"I" + OID + b"N\x00\x02t\x00\x00\x00\x07abn",
        b"U" + OID + b"K\x00\x01t\x7f\xff\xff\xff1N\x00\x01n",
        b"R" + OID + b"s\x00t\x00d\x7f\xff" + b"\x00a\x00\x00\x00\x00\x17\xff\xff\xff\xff",
        b"T\x7f\xff\xff\xff\x00" + OID,
        b"M\x00" + b"\x00" * 8 + b"p\x00\x7f\xff\xff\xffab",
    ],
)
def test_a_length_past_the_end_is_truncated(decoder: MakeDecoder, data: bytes) -> None:
    with pytest.raises(TruncatedMessageError):
        decoder().decode(data)


@both
def test_text_that_is_not_utf8_is_an_error_that_says_why(decoder: MakeDecoder) -> None:
    with pytest.raises(DecodeError, match=r"not UTF-8 .*SQL_ASCII"):
        decoder().decode(b"I" + OID + b"N\x00\x02nt\x00\x00\x00\x02\xe4\xf6")


@both
def test_text_cut_within_a_character_is_an_error(decoder: MakeDecoder) -> None:
    with pytest.raises(DecodeError, match="not UTF-8"):
        decoder().decode(b"I" + OID + b"N\x00\x02t\x00\x00\x00\x02\xe2\x82t\x00\x00\x00\x01\xac")


@pytest.mark.parametrize(
    "data",
    [
        b"O" + b"\x00" * 8 + b"\xe4\x00",
        b"R" + OID + b"\xe4\x00t\x00d\x00\x00",
        b"R" + OID + b"s\x00\xe4\x00d\x00\x00",
        b"R" + OID + b"s\x00t\x00d\x00\x01\x00\xe4\x00\x00\x00\x00\x17\xff\xff\xff\xff",
        b"Y" + OID + b"\xe4\x00t\x00",
        b"M\x00" + b"\x00" * 8 + b"\xe4\x00" + b"\x00" * 4,
    ],
)
def test_a_name_that_is_not_utf8_is_an_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"b'\\xe4' is not UTF-8"):
        decode(data)


def test_bytes_left_over_are_counted() -> None:
    with pytest.raises(DecodeError, match="2 bytes left over"):
        decode(EXAMPLES[0][1] + b"\x00\x00")
