"""Frames: the bytes of messages, plain and deflated."""

from __future__ import annotations

import zlib

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from realtime_server.fanout.frames import BinaryFrame, Frames, TextFrame
from tests.server_helpers import texts

LONG = b'{"text":"' + b"abcdefgh" * 100 + b'"}'
SHORT = b'{"status":"ok"}'


def inflated(data: bytes) -> list[str]:
    """Read text frames as a client does that agreed on the server's taking no context over."""
    return [bytes(frame.data).decode() for frame in parsed(data)]


def parsed(data: bytes) -> list[Frame]:
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    deflate = PerMessageDeflate(True, True, 15, 15)
    found: list[Frame] = []
    while reader.buffer:
        try:
            parsing = Frame.parse(reader.read_exact, mask=False, extensions=[deflate])
            next(parsing)
        except StopIteration as stop:
            found.append(stop.value)
    return found


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_a_frame_of_any_size_reads_back(size: int) -> None:
    assert texts(Frames.of(b"x" * size).plain) == ["x" * size]
    assert inflated(Frames.of(b"x" * size).deflated) == ["x" * size]


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_frame_has_the_shortest_header(size: int, header: bytes) -> None:
    payload = b"x" * size
    assert Frames.of(payload).plain == header + payload


def test_messages_are_joined_in_order() -> None:
    payloads = [LONG, SHORT, LONG.upper(), b""]
    frames = Frames([TextFrame(payload) for payload in payloads])
    assert frames.count == 4
    assert frames.payloads == payloads
    assert texts(frames.plain) == [payload.decode() for payload in payloads]
    assert inflated(frames.deflated) == [payload.decode() for payload in payloads]


def test_no_deflated_message_needs_what_came_before_it() -> None:
    frames = [TextFrame(LONG), TextFrame(LONG)]
    first, second = (frame.deflated for frame in frames)
    assert first == second
    # Two bytes of head, and a size below 126.
    body = second[2:] + b"\x00\x00\xff\xff"
    assert zlib.decompressobj(wbits=-15).decompress(body) == LONG
    assert len(second) < len(LONG) / 5


def test_short_messages_are_not_deflated() -> None:
    assert Frames.of(SHORT).deflated == Frames.of(SHORT).plain
    assert Frames.of(b"x" * 255).deflated == Frames.of(b"x" * 255).plain
    assert Frames.of(b"x" * 256).deflated != Frames.of(b"x" * 256).plain


def test_a_message_is_deflated_once_for_all_that_it_goes_out_with() -> None:
    frame = TextFrame(LONG)
    assert Frames([frame]).deflated is not Frames([frame, frame]).deflated
    assert frame.deflated is frame.deflated
    frames = Frames([frame, frame])
    assert frames.plain is frames.plain
    assert frames.deflated is frames.deflated


def test_a_ping_goes_behind_the_messages_and_is_none_of_them() -> None:
    ping = b"\x89\x08abcdefgh"
    messages = [TextFrame(LONG), TextFrame(SHORT)]
    frames, without = Frames(messages, 7, ping), Frames(messages)
    assert (frames.ordinal, frames.count, frames.payloads) == (7, 2, [LONG, SHORT])
    assert frames.plain == without.plain + ping
    assert frames.deflated == without.deflated + ping
    assert (without.ordinal, without.ping) == (0, b"")


def test_binary_frames_stand_between_text_frames() -> None:
    frames = Frames([TextFrame(SHORT), BinaryFrame(b"\0\xff"), BinaryFrame(LONG)])
    for data in (frames.plain, frames.deflated):
        opcodes = [frame.opcode for frame in parsed(data)]
        assert opcodes == [Opcode.TEXT, Opcode.BINARY, Opcode.BINARY]
    assert [bytes(frame.data) for frame in parsed(frames.plain)] == [SHORT, b"\0\xff", LONG]
    assert len(frames.deflated) < len(frames.plain)
