"""What becomes of the payloads of one read. test_accelerator.py has this tried compiled, too."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from realtime_core import LSN, Begin, Change, Commit, DecodeError, Insert, TruncatedMessageError
from realtime_core.pgoutput import ChangeDecoder
from realtime_core.replication.sequence import Sequence
from realtime_core.sources._history import StreamHistory
from realtime_core.sources._live_stream import LiveStream
from realtime_core.sources._meter import Meter

TABLE = b"R\0\0\x40\0public\0t\0d\0\1\0c\0\0\0\0\x17\xff\xff\xff\xff"
COMMITTED_AT = 700_000_000_000_000


def xlog(message: bytes) -> bytes:
    return b"w" + bytes(24) + message


def row(number: int) -> bytes:
    text = str(number).encode()
    return xlog(b"I\0\0\x40\0N\0\1t" + struct.pack("!I", len(text)) + text)


def begin(lsn: int, at: int = COMMITTED_AT) -> bytes:
    return xlog(struct.pack("!cQqI", b"B", lsn, at, 7))


def commit(lsn: int) -> bytes:
    return xlog(struct.pack("!cBQQq", b"C", 0, lsn, lsn + 8, COMMITTED_AT))


def keepalive(lsn: int) -> bytes:
    return struct.pack("!cQqB", b"k", lsn, 0, 0)


class Stage:
    """A LiveStream whose connection sends nothing."""

    def __init__(self, passes: Any = None) -> None:
        self.history = StreamHistory(None, own_checkpoint=False, passes=passes, meter=Meter())
        self.sequence = self.history.sequence = Sequence(LSN(0), passes=passes)
        self.connect()

    def connect(self) -> None:
        """Begin a stream with a new decoder."""
        connection = SimpleNamespace(waiting=False, send=lambda payload: None)
        attachment: Any = SimpleNamespace(connection=connection, sender_timeout=0)
        settings: Any = SimpleNamespace(own_checkpoint=False, status_interval=10)
        self.stream = LiveStream(attachment, "s", ChangeDecoder(), self.history, settings)

    def take(self, *payloads: bytes) -> Iterator[Any]:
        return self.stream.take([memoryview(payload) for payload in payloads])

    def numbers(self, *payloads: bytes) -> list[Any]:
        """Return the rows' numbers, the kinds of other events, and None."""
        return [
            event.record["c"] if isinstance(event, Insert) else event and type(event)
            for event in self.take(*payloads)
        ]


async def test_events_come_in_order_around_keepalives() -> None:
    stage = Stage()
    taken = stage.numbers(begin(100), xlog(TABLE), row(1), row(2), commit(100), keepalive(150))
    assert taken == [Begin, 1, 2, Commit]
    assert (stage.sequence.changes, stage.sequence.transactions) == (2, 1)
    assert stage.sequence.last == (100, 1)
    between = stage.numbers(begin(200), row(3), keepalive(0), row(4), keepalive(0), commit(200))
    assert between == [Begin, 3, 4, Commit]
    assert stage.sequence.last == (200, 1)
    assert stage.numbers(keepalive(300)) == []
    assert stage.sequence.progress.written == 300


async def test_a_repeated_event_is_none_and_does_not_count() -> None:
    stage = Stage()
    stage.numbers(begin(100), xlog(TABLE), row(1), row(2))
    stage.sequence.resume()
    stage.connect()
    repeated = stage.numbers(begin(100), xlog(TABLE), row(1), row(2), row(3), commit(100))
    assert repeated == [None, None, None, 3, Commit]
    assert stage.sequence.changes == 3


async def test_a_filter_sees_every_change() -> None:
    def passes(event: Change | Begin | Commit) -> bool:
        return not isinstance(event, Insert) or event.record["c"] != 2

    stage = Stage(passes)
    taken = stage.numbers(begin(100), xlog(TABLE), row(1), row(2), row(3), commit(100))
    assert taken == [Begin, 1, None, 3, Commit]
    assert stage.sequence.changes == 3


async def test_who_watches_is_shown_new_changes() -> None:
    stage = Stage()
    shown: list[Any] = []
    stage.history.watch = shown.append
    assert stage.numbers(begin(100), xlog(TABLE), row(1), commit(100)) == [Begin, 1, Commit]
    assert [type(event) for event in shown] == [Insert]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [(b"x" + bytes(30), DecodeError), (b"w" + bytes(3), TruncatedMessageError)],
)
async def test_the_events_before_a_payload_that_is_wrong_are_taken(
    wrong: bytes, error: type[Exception]
) -> None:
    taken = Stage().take(begin(100), xlog(TABLE), row(1), wrong, row(2))
    assert isinstance(next(taken), Begin)
    assert isinstance(next(taken), Insert)
    with pytest.raises(error):
        next(taken)


async def test_what_was_read_is_freed_as_it_is_taken() -> None:
    messages = (begin(100), xlog(TABLE), row(1), row(2), commit(100))
    payloads = [memoryview(message) for message in messages]
    taken = Stage().stream.take(payloads)
    next(taken)
    assert len(payloads) == 3


@pytest.mark.parametrize("at", [-(2**63), -(10**18), 0, -1, 86_399_999_999, -86_400_000_001])
async def test_the_commit_time_of_any_transaction(at: int) -> None:
    stage = Stage()
    if abs(at) < 10**17:
        first = next(stage.take(begin(100, at), xlog(TABLE), row(1)))
        past = first.transaction.commit_time.timestamp() - 946_684_800
        assert past == pytest.approx(at / 1e6, abs=1e-6)
        assert first.transaction.commit_time.tzinfo is not None
    else:
        with pytest.raises(DecodeError, match="out of range"):
            list(stage.take(begin(100, at), xlog(TABLE), row(1)))
