"""The fuzz target runs, for as long as a test may; a long run is started by hand."""

from __future__ import annotations

import pytest

from realtime_core.pgoutput import Decoder
from tests.fuzz.fuzz_pgoutput import BrokenPromiseError, run


def test_every_input_keeps_the_promise() -> None:
    outcomes = run(30_000, seed=2)
    assert sum(outcomes.values()) == 30_000
    # It gets somewhere: neither all refused nor all taken.
    assert outcomes["message"] > 3_000
    assert outcomes["DecodeError"] > 3_000
    assert outcomes["stream: changes"] > 30
    assert outcomes["stream: DecodeError"] > 30


def test_the_same_seed_makes_the_same_inputs() -> None:
    assert run(2_000, seed=3) == run(2_000, seed=3)
    assert run(2_000, seed=3) != run(2_000, seed=4)


def test_an_input_that_breaks_the_promise_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(self: Decoder, data: bytes) -> object:
        raise IndexError("string index out of range")

    decoders = {"made": 0}
    original = Decoder.decode

    def after_a_while(self: Decoder, data: bytes) -> object:
        decoders["made"] += 1
        return (decode if decoders["made"] > 10_000 else original)(self, data)

    monkeypatch.setattr(Decoder, "decode", after_a_while)
    with pytest.raises(BrokenPromiseError) as caught:
        run(20_000, seed=1)
    assert isinstance(caught.value.__cause__, IndexError)
    assert caught.value.__notes__[0].startswith("seed 1, chunk ")
