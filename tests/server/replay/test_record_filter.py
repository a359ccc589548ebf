"""RecordFilter: signed records are passed on, and of what only looks like them a bounded part."""

from __future__ import annotations

import pytest

from realtime_core import LSN, LogicalMessage, StreamIdentity
from realtime_server.replay.empty_stretches import EmptyStretches
from realtime_server.replay.record_filter import RecordFilter
from realtime_server.replay.records import PREFIX, Boot, Seal, write_record

SECRET = b"s" * 32


def message(content: bytes, prefix: str = PREFIX) -> LogicalMessage:
    return LogicalMessage(LSN(20), prefix, content, None, 0, StreamIdentity(7, 1, ("shop",)))


def test_what_is_not_signed_has_a_bounded_part(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    passes = RecordFilter(SECRET, most=1000, within=100, clock=lambda: now)
    seal = Seal(SECRET, b"t" * 8, b"o" * 8, b"p" * 8)
    (record,) = write_record(seal, 0, 0.0, [Boot()], EmptyStretches())
    assert not passes(message(record, "of another"))
    assert passes(message(b"x" * 900))
    assert "are left out of the log" not in caplog.text
    for _ in range(2):
        assert not passes(message(b"x" * 900))
    assert caplog.text.count("are left out of the log") == 1
    assert all(passes(message(record)) for _ in range(1000))
    now = 80.0
    assert passes(message(b"x" * 900))
    assert not passes(message(record[:-1] + bytes([record[-1] ^ 1]) + b"x" * 900))
