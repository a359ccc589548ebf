"""The decoder, message kind by message kind, from bytes as PostgreSQL writes them."""

import pytest

from realtime_core import LSN, UNCHANGED, DecodeError, TruncatedMessageError, UnknownMessageError
from realtime_core.pgoutput import (
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

each_example = pytest.mark.parametrize(
    ("data", "message"), [example[1:] for example in EXAMPLES], ids=[name for name, *_ in EXAMPLES]
)


def decode(data: bytes) -> Message:
    return Decoder().decode(data)


@each_example
def test_bytes_become_the_message(data: bytes, message: Message) -> None:
    assert decode(data) == message


@each_example
def test_the_encoder_of_the_tests_writes_the_same_bytes(data: bytes, message: Message) -> None:
    assert encode(message) == data


@each_example
def test_a_message_cut_at_any_byte_is_truncated(data: bytes, message: Message) -> None:
    for length in range(len(data)):
        with pytest.raises(TruncatedMessageError):
            decode(data[:length])


@each_example
@pytest.mark.parametrize("extra", [b"\x00", b"n", b"N\x00\x00"])
def test_bytes_behind_the_end_are_an_error(data: bytes, message: Message, extra: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data + extra)


def test_a_position_and_a_time_keep_their_types() -> None:
    message = decode(EXAMPLES[0][1])
    assert isinstance(message, BeginMessage)
    assert type(message.final_lsn) is LSN


def test_one_decoder_decodes_messages_of_all_kinds_in_a_row() -> None:
    decoder = Decoder()
    assert [decoder.decode(data) for _, data, _ in EXAMPLES] == [
        message for _, _, message in EXAMPLES
    ]


def test_a_decoder_goes_on_after_an_error() -> None:
    """It keeps no state in protocol 1; the assembler is what refuses to go on."""
    decoder = Decoder()
    with pytest.raises(DecodeError):
        decoder.decode(b"B")
    _, data, message = EXAMPLES[0]
    assert decoder.decode(data) == message


def test_an_empty_message_is_truncated() -> None:
    with pytest.raises(TruncatedMessageError, match="empty"):
        decode(b"")


def test_an_unknown_tag_is_named() -> None:
    for tag in set(range(256)) - set(b"BCORYIUDTMSEcAbPpKr"):
        with pytest.raises(UnknownMessageError) as caught:
            decode(bytes([tag]) + b"\x00" * 40)
        assert caught.value.tag == tag


OID = b"\x00\x00\x40\x01"


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
        (b"R" + OID + b"s\x00t\x00x\x00\x00", "unknown replica identity 'x'"),
        (b"R" + OID + b"s\x00t\x00D\x00\x00", "unknown replica identity 'D'"),
        (b"R" + OID + b"s\x00t\x00d\xff\xff", "negative count -1"),
        (b"T\xff\xff\xff\xff\x00", "negative count -1"),
        (b"M\x00" + b"\x00" * 8 + b"p\x00\xff\xff\xff\xff", "negative count -1"),
    ],
)
def test_a_wrong_letter_or_a_negative_length_is_an_error(data: bytes, words: str) -> None:
    with pytest.raises(DecodeError, match=words) as caught:
        decode(data)
    assert type(caught.value) is DecodeError


@pytest.mark.parametrize(
    "data",
    [
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
def test_a_length_past_the_end_is_truncated(data: bytes) -> None:
    with pytest.raises(TruncatedMessageError):
        decode(data)


def test_text_that_is_not_utf8_is_an_error_that_says_why() -> None:
    with pytest.raises(DecodeError, match=r"not UTF-8 .*SQL_ASCII"):
        decode(b"I" + OID + b"N\x00\x01t\x00\x00\x00\x02\xe4\xf6")


def test_text_cut_within_a_character_is_an_error() -> None:
    with pytest.raises(DecodeError, match="not UTF-8"):
        decode(b"I" + OID + b"N\x00\x02t\x00\x00\x00\x02\xe2\x82t\x00\x00\x00\x01\xac")


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
