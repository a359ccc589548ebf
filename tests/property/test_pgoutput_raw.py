"""Random streams, taken as raw rows and written as messages again, become the same changes.

tests/pgoutput_streams.py makes the streams, and says what must come out of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import Begin, Commit, DecodeError, LogicalMessage, RawRows, Truncate
from realtime_core.pgoutput import ChangeDecoder, Encoder, RawDecoder
from tests.pgoutput_encoder import encode
from tests.pgoutput_streams import Seen, Server, seen
from tests.property.examples import examples

seeds = st.integers(0, 2**32 - 1)
steps = st.integers(1, 120)
RawEvent = RawRows | Truncate | LogicalMessage | Begin | Commit


def server(seed: int, steps: int, *, parallel: bool = False) -> Server:
    server = Server(Random(seed), parallel=parallel)
    for _ in range(steps):
        server.step()
    return server


def without_gid(events: Iterable[Seen]) -> list[Seen]:
    """Forget which transactions were prepared: plain messages cannot say it."""
    return [
        (event[0], event[1] and (*event[1][:-1], None), *event[2:])  # type: ignore[index]
        for event in events
    ]


def written(events: Iterable[RawEvent]) -> Iterable[bytes]:
    """Write events as messages, and check their places meanwhile."""
    encoder = Encoder()
    index = 0
    for event in events:
        if isinstance(event, Begin):
            index = 0
        elif isinstance(event, Commit):
            assert event.changes == index
        elif event.transaction is not None:
            assert event.index == index
            index += len(event.messages) if isinstance(event, RawRows) else 1
            assert event.position.index == index - 1
        yield from encoder.encode(event)


@pytest.mark.slow
@examples(120)
@given(
    seeds,
    steps,
    st.booleans(),
    st.sampled_from([0, 500, 5000, 2**30]),
    st.sampled_from([1, 2, 3, 64]),
)
def test_raw_rows_written_again_are_the_changes(
    seed: int, steps: int, parallel: bool, max_memory: int, max_rows: int
) -> None:
    made = server(seed, steps, parallel=parallel)
    decoder = RawDecoder(abort_info=parallel, max_memory=max_memory, max_rows=max_rows)
    events = list(decoder.decode(map(encode, made.messages)))
    decoder.close()
    assert all(
        0 < len(event.messages) <= max_rows for event in events if isinstance(event, RawRows)
    )
    changes = ChangeDecoder().decode(written(events))
    assert [seen(event) for event in changes] == without_gid(made.expected)


@pytest.mark.slow
@examples(80)
@given(seeds, steps, st.booleans())
def test_where_the_stream_is_cut_does_not_matter(seed: int, steps: int, parallel: bool) -> None:
    """Each read of a connection is decoded by itself."""
    made = server(seed, steps, parallel=parallel)
    random = Random(seed)
    decoder = RawDecoder(abort_info=parallel)
    events: list[RawEvent] = []
    left = [encode(message) for message in made.messages]
    while left:
        size = random.randint(1, 7)
        events += decoder.decode(left[:size])
        del left[:size]
    decoder.close()
    changes = ChangeDecoder().decode(written(events))
    assert [seen(event) for event in changes] == without_gid(made.expected)


@pytest.mark.slow
@examples(40)
@given(seeds, steps)
def test_rows_that_follow_each_other_come_together(seed: int, steps: int) -> None:
    made = server(seed, steps)
    decoder = RawDecoder(max_rows=2**30)
    before: RawEvent | None = None
    for event in decoder.decode(map(encode, made.messages)):
        if isinstance(event, RawRows) and isinstance(before, RawRows):
            assert before.relation is not event.relation
        # A message that is in no transaction stands between rows, too.
        before = event
    decoder.close()


@pytest.mark.slow
@examples(80)
@given(seeds, st.data())
def test_wrong_bytes_are_a_decode_error_or_rows(seed: int, data: st.DataObject) -> None:
    """Rows are not looked at; all else that cannot be is refused, and nothing more is taken."""
    messages = [encode(message) for message in server(seed, 30).messages]
    place = data.draw(st.integers(0, len(messages) - 1))
    wrong = data.draw(
        st.one_of(
            st.binary(max_size=20),
            st.integers(0, len(messages[place])).map(lambda size: messages[place][:size]),
            st.binary(min_size=1, max_size=3).map(lambda more: messages[place] + more),
        )
    )
    decoder = RawDecoder()
    try:
        for _ in decoder.decode([*messages[:place], wrong]):
            pass
    except DecodeError:
        with pytest.raises(DecodeError):
            list(decoder.decode(messages[place:]))
    decoder.close()


@pytest.mark.slow
def test_the_streams_have_rows_of_every_kind_in_runs() -> None:
    """Else the properties above would say little."""
    kinds: set[bytes] = set()
    longest = 0
    for seed in range(40):
        for event in RawDecoder().decode(map(encode, server(seed, 120).messages)):
            if isinstance(event, RawRows):
                kinds |= {message[:1] for message in event.messages}
                longest = max(longest, len(event.messages))
    assert kinds == {b"I", b"U", b"D"}
    assert longest > 2
