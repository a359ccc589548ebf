"""The fuzz target runs, for as long as a test may; a long run is started by hand."""

from __future__ import annotations

import pytest

from realtime_server.phoenix.message_handler import SocketState
from tests.fuzz.fuzz_phoenix import BrokenPromiseError, run


def test_every_conversation_keeps_the_promise() -> None:
    outcomes = run(5_000, seed=2)
    # It gets somewhere: neither all refused nor all taken.
    for outcome in ("answered", "ignored", "closed 1003", "closed 1007", "closed 1008"):
        assert outcomes[outcome] > 30, outcomes
    assert outcomes["accepted join"] > 300
    assert outcomes["refused join"] > 100


def test_the_same_seed_makes_the_same_conversations() -> None:
    assert run(500, seed=3) == run(500, seed=3)
    assert run(500, seed=3) != run(500, seed=4)


def test_a_conversation_that_breaks_the_promise_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(self: SocketState, data: str | bytes) -> object:
        raise KeyError("topic")

    monkeypatch.setattr(SocketState, "receive", receive)
    with pytest.raises(BrokenPromiseError) as caught:
        run(10, seed=1)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__notes__ == ["seed 1, chunk 0"]
