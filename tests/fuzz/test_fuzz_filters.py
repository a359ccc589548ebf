"""The fuzz target runs, for as long as a test may; a long run is started by hand."""

from __future__ import annotations

import pytest

from realtime_core.filters.parser import parse_node
from tests.fuzz import fuzz_filters
from tests.fuzz.fuzz_filters import HOSTILE, BrokenPromiseError, run


def test_every_input_keeps_the_promise() -> None:
    outcomes, _ = run(2_000, seed=2)
    assert sum(outcomes.values()) == 2_000
    # It gets somewhere: neither all refused nor all taken.
    assert all(outcomes[kind] > 50 for kind in ("refused", "passes", "does not pass"))
    assert outcomes["not judged"] > 10


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_hostile_keeps_it_too(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_filters, "_filter", lambda random: text)
    outcomes, _ = run(2)
    assert sum(outcomes.values()) == 2


def test_the_same_seed_makes_the_same_inputs() -> None:
    assert run(200, seed=3)[0] == run(200, seed=3)[0]
    assert run(200, seed=3)[0] != run(200, seed=4)[0]


def test_an_input_that_breaks_the_promise_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(text: str) -> object:
        if "like" in text:
            raise IndexError("string index out of range")
        return parse_node(text)

    monkeypatch.setattr("realtime_core.filters.filter.parse_node", parse)
    with pytest.raises(BrokenPromiseError) as caught:
        run(2_000, seed=1)
    assert isinstance(caught.value.__cause__, IndexError)
    assert caught.value.__notes__[0].startswith("seed 1, chunk ")
