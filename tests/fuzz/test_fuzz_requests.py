"""The fuzz target runs, for as long as a test may; a long run is started by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from realtime_server.phoenix.broadcasts import Broadcast, RoomName
from tests.fuzz import fuzz_requests
from tests.fuzz.fuzz_requests import BrokenPromiseError, run


@pytest.mark.slow
def test_every_request_keeps_the_promise() -> None:
    outcomes = run(2_000, seed=1)
    # It gets somewhere: neither all refused nor all taken.
    for outcome in (
        "batch sent",
        "one sent",
        "not found",
        *(f"refused {n}" for n in (400, 415, 422)),
    ):
        assert outcomes[outcome] > 50, outcomes


def test_a_request_that_breaks_the_promise_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(
        names: Any, kind: str, query: Mapping[str, str], body: bytes, *, max_bytes: int
    ) -> Any:
        return [(RoomName("realtime:another"), Broadcast("m", b"{}"))]

    monkeypatch.setattr(fuzz_requests, "read_single", read)
    with pytest.raises(BrokenPromiseError) as caught:
        run(10, seed=1)
    assert isinstance(caught.value.__cause__, AssertionError)
    assert caught.value.__notes__ == ["seed 1, chunk 0"]
