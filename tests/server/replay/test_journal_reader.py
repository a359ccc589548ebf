"""What the journal's messages cost the stream that brings them, and what forged ones do."""

from __future__ import annotations

import asyncio
import hmac
import time

import pytest

from realtime_core import LSN, LogicalMessage
from realtime_server.replay import journal_reader
from realtime_server.replay.journal import Journal
from realtime_server.replay.journal_reader import JournalReader
from realtime_server.replay.records import PREFIX, Seal, digest, journal_secret
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

SECRET = journal_secret("password", "jwt")


def journal_of(server: int, secret: bytes = SECRET) -> Journal:
    seal = Seal(secret, digest("shop"), digest(str(server)), server.to_bytes(8))
    return Journal(seal, clock=time.time)


def message(content: bytes) -> LogicalMessage:
    return LogicalMessage(LSN(1), PREFIX, content, None, 0)


def key(number: int) -> bytes:
    return number.to_bytes(16)


def snapshot(channels: int) -> list[LogicalMessage]:
    """Return another process's snapshot."""
    there = journal_of(2)
    for number in range(channels):
        there.joined(number, key(number), 1, (number + 1, 0), since=time.time())
    return [message(part) for part in there.write(snapshot=True)]


@pytest.mark.slow
async def test_a_snapshot_holds_nobody_up() -> None:
    journal = journal_of(1)
    reader = JournalReader(journal)
    reader.begin()
    running = asyncio.create_task(reader.run())
    for part in snapshot(20_000):
        reader.take(part)
    others = 0
    while not journal.find(key(19_999)):
        await asyncio.sleep(0)
        others += 1
    running.cancel()
    # It takes a tenth of a second or more, of which nobody waits for more than some milliseconds.
    assert others > 5
    assert journal.lowest() == (1, 0)


async def test_forged_messages_are_counted_and_not_held(caplog: pytest.LogCaptureFixture) -> None:
    journal = journal_of(1)
    reader = JournalReader(journal)
    forger = journal_of(2, journal_secret("guessed", None))
    forger.joined(1, key(1), 1, (1, 0))
    (forged,) = forger.write()
    for _ in range(1000):
        reader.take(message(forged))
        reader.take(message(forged[:-1] + b"x"))
    assert journal.refused == 2000
    assert reader.waiting_bytes == 0
    assert caplog.text.count("none of this deployment's") == 1


async def test_records_of_another_version_are_said_once_and_read_no_further(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = journal_of(1)
    reader = JournalReader(journal)
    reader.begin()
    running = asyncio.create_task(reader.run())
    there = journal_of(2)
    for number in range(3):
        there.joined(number, key(number), 1, (1, 0))
        (data,) = there.write()
        body = data[:-32] + b"A"
        reader.take(message(body + hmac.digest(SECRET, body, "sha256")))
    there.joined(3, key(3), 1, (1, 0))
    (data,) = there.write()
    reader.take(message(data))
    await eventually(lambda: journal.find(key(3)))
    assert not running.done()
    running.cancel()
    assert caplog.text.count("entries that this version does not know") == 1
    assert "Traceback" not in caplog.text
    assert journal.unknown == 3


async def test_what_waits_while_older_is_read_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_reader, "_MOST_WAITING", 100_000)
    journal = journal_of(1)
    reader = JournalReader(journal)
    first, *rest = snapshot(4000)
    reader.take(first)
    assert reader.waiting_bytes > 50_000
    for part in rest:
        reader.take(part)
        assert reader.waiting_bytes <= 100_000
    reader.begin()
    running = asyncio.create_task(reader.run())
    await eventually(lambda: len(journal.find(key(3999))) == 1)
    running.cancel()


def two_parts() -> tuple[bytes, bytes]:
    """Return what another process writes when 1,000 channels are joined, and when they end."""
    there = journal_of(2)
    for number in range(1000):
        there.joined(number, key(number), 1, (10, 0))
    (joined,) = there.write()
    for number in range(1000):
        there.ended(number)
    (ended,) = there.write()
    return joined, ended


async def until_a_part_is_read(journal: Journal) -> None:
    """Wait until the first of the 1,000 channels is known, and the last is not."""
    for _ in range(100):
        await asyncio.sleep(0)
        if journal.find(key(0)):
            break
    assert journal.find(key(0))
    assert not journal.find(key(999))


async def test_the_part_that_is_being_read_is_read_to_its_end_before_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = journal_of(1)
    reader = JournalReader(journal)
    joined, ended = two_parts()
    reader.begin()
    monkeypatch.setattr("realtime_server.fanout.turns.SLICE", 0.0)
    running = asyncio.create_task(reader.run())
    reader.take(message(joined))
    await until_a_part_is_read(journal)
    monkeypatch.setattr(journal_reader, "_MOST_WAITING", 0)
    reader.take(message(ended))
    assert not any(journal.find(key(number)) for number in range(1000))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(journal.find(key(number)) for number in range(1000))
    running.cancel()


async def test_an_older_part_that_is_being_read_is_read_to_its_end_before_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = journal_of(1)
    reader = JournalReader(journal)
    joined, ended = two_parts()
    monkeypatch.setattr("realtime_server.fanout.turns.SLICE", 0.0)
    reading = asyncio.create_task(reader.read_older(message(joined)))
    await until_a_part_is_read(journal)
    # So much comes through the main stream meanwhile that it does not wait.
    monkeypatch.setattr(journal_reader, "_MOST_WAITING", 0)
    reader.take(message(ended))
    await reading
    assert not any(journal.find(key(number)) for number in range(1000))
