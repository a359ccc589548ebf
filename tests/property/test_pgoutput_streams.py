"""Random streams become what a naive model says, wherever their changes wait.

tests/pgoutput_streams.py makes both. The seed is the example, so a failure is repeated by it;
hypothesis looks for the shortest stream.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import Event
from realtime_core.pgoutput import Assembler, ChangeDecoder, Decoder, Message
from tests.pgoutput_encoder import encode
from tests.pgoutput_streams import Server, seen
from tests.property.examples import examples

seeds = st.integers(0, 2**32 - 1)
steps = st.integers(1, 120)


def server(seed: int, steps: int, *, parallel: bool = False) -> Server:
    server = Server(Random(seed), parallel=parallel)
    for _ in range(steps):
        server.step()
    return server


def consume(messages: list[Message], *, max_memory: int, parallel: bool = False) -> list[Event]:
    """Return what a consumer of the messages' bytes gets."""
    decoder, assembler = Decoder(abort_info=parallel), Assembler(max_memory=max_memory)
    events: list[Event] = []
    for message in messages:
        decoded = decoder.decode(encode(message))
        assert decoded == message
        events += assembler.feed(decoded)
    assembler.close()
    return events


@pytest.mark.slow
@examples(80)
@given(seeds, steps, st.booleans(), st.sampled_from([0, 500, 5000, 2**30]))
def test_a_stream_becomes_what_its_transactions_did(
    seed: int, steps: int, parallel: bool, max_memory: int
) -> None:
    made = server(seed, steps, parallel=parallel)
    events = consume(made.messages, max_memory=max_memory, parallel=parallel)
    assert [seen(event) for event in events] == made.expected


@pytest.mark.slow
@examples(80)
@given(seeds, steps, st.booleans())
def test_short_cuts_change_nothing(seed: int, steps: int, parallel: bool) -> None:
    made = server(seed, steps, parallel=parallel)
    decoder = ChangeDecoder(abort_info=parallel)
    events = list(decoder.decode(encode(message) for message in made.messages))
    assert [seen(event) for event in events] == made.expected


@pytest.mark.slow
@examples(20)
@given(seeds, steps, st.integers(0, 20_000))
def test_the_bound_of_memory_changes_nothing(seed: int, steps: int, max_memory: int) -> None:
    messages = server(seed, steps).messages
    spilled = consume(messages, max_memory=max_memory)
    in_memory = consume(messages, max_memory=2**30)
    assert [seen(event) for event in spilled] == [seen(event) for event in in_memory]


def test_the_streams_have_everything_in_them() -> None:
    """Else the properties above would say little."""
    kinds: set[str] = set()
    outcomes: set[object] = set()
    for seed in range(20):
        made = server(seed, 120)
        kinds |= {type(message).__name__ for message in made.messages}
        outcomes |= {event[0] for event in made.expected}
    assert kinds == {message.__name__ for message in Message.__args__}
    assert outcomes == {"begin", "commit", "insert", "update", "delete", "truncate", "message"}
