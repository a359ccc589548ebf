"""Frames come out as they went in, wherever their bytes are cut."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core.errors import ServerError
from realtime_server.workers.frames import (
    AttachedFrame,
    EnumsFrame,
    EnvelopeFrame,
    FrameBuffer,
    HandedOutFrame,
    ReadyFrame,
    encode_frame,
)
from realtime_server.workers.in_flight import Behind

numbers = st.integers(0, 2**64 - 1)
frames = st.one_of(
    st.builds(EnvelopeFrame, numbers, st.binary(max_size=300), st.booleans()),
    st.builds(HandedOutFrame, numbers),
    st.builds(ReadyFrame),
    st.builds(
        AttachedFrame,
        st.builds(Behind, numbers, st.integers(-1, 2**32), numbers, numbers, numbers, st.text()),
    ),
    st.builds(
        EnumsFrame,
        st.dictionaries(st.tuples(st.text(), st.text()), st.lists(st.text()).map(tuple)),
    ),
)


@pytest.mark.slow
@given(st.lists(frames, max_size=8), st.integers(0, 2**32 - 1))
def test_frames_come_out_as_they_went_in(sent: list[EnvelopeFrame], seed: int) -> None:
    data = b"".join(map(encode_frame, sent))
    random = Random(seed)
    buffer = FrameBuffer()
    found = []
    while data:
        size = random.randint(1, 40)
        found += buffer.feed(data[:size])
        data = data[size:]
    assert found == sent


@pytest.mark.parametrize(
    "wrong",
    [
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\1X",
        b"\0\0\0\3H\0\0",
        b"\0\0\0\3E\0\0",
        b"\0\0\0\x0aH" + b"\0" * 9,
        b"\0\0\0\x1aA" + b"\0" * 25,
        b"\0\0\0\3A[1",
        b"\0\0\0\6O[[1]]",
        b"\0\0\0\3O[1",
    ],
)
def test_what_is_no_frame_is_told_what_to_do(wrong: bytes) -> None:
    with pytest.raises(ServerError, match="run one version of the server"):
        list(FrameBuffer().feed(wrong))
