"""Packer: a change that has more parts than an envelope can count."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import pytest

from realtime_core import LSN, Begin, Commit, LogicalMessage, StreamIdentity, Transaction
from realtime_core.positions import LAST_INDEX
from realtime_server.cluster.envelope import HEAD_BYTES, decode
from realtime_server.cluster.packer import LEAST_PAYLOAD, Packer
from realtime_server.cluster.unpacker import Unpacker
from realtime_server.replay.journal_reader import may_be_record
from realtime_server.replay.records import MOST_BYTES, PREFIX

STREAM = StreamIdentity(7, 1, ("shop",))


def test_a_change_that_takes_too_many_messages_is_refused_in_words() -> None:
    packer = Packer((0, 10, LAST_INDEX), STREAM, max_payload=HEAD_BYTES + len("shop") + 1)
    message = LogicalMessage(LSN(20), "large", bytes(65_536), None, 0, STREAM)
    packer.feed(message)
    with pytest.raises(ValueError, match="an envelope has 65535 parts at most"):
        packer.flush()


def test_messages_that_nobody_reads_take_no_room() -> None:
    contents = {
        PREFIX: (b"r" * MOST_BYTES, b"r" * (MOST_BYTES + 1)),
        f"{PREFIX}.": (b"x",),
        "": (b"x" * 10_000,),
    }
    messages = [
        LogicalMessage(LSN(20 + number), prefix, content, None, 0, STREAM)
        for number, (prefix, content) in enumerate(
            (prefix, content) for prefix, some in contents.items() for content in some
        )
    ]
    packer = Packer((0, 10, LAST_INDEX), STREAM, is_read=may_be_record)
    packed = [one for message in messages for one in packer.feed(message)] + packer.flush()
    unpacker = Unpacker()
    found = [
        event
        for number, one in enumerate(packed)
        for event in unpacker.feed(decode(one.data, number), number)
    ]
    # The last place is there all the same.
    assert found == [messages[0], attrs.evolve(messages[-1], prefix="", content=b"")]
    assert packed[-1].upto == messages[-1].position


def test_many_messages_that_nobody_reads_take_the_room_of_one() -> None:
    packer = Packer((0, 10, LAST_INDEX), STREAM, is_read=may_be_record)
    for number in range(100_000):
        message = LogicalMessage(LSN(20 + number), "a", b"", None, 0, STREAM)
        assert packer.feed(message) == []
    (one,) = packer.flush()
    assert len(one.data) < 200
    assert packer.flush() == []


def test_messages_of_transactions_that_nobody_reads_take_no_room() -> None:
    packer = Packer((0, 10, LAST_INDEX), STREAM, is_read=may_be_record)
    transaction = Transaction(7, LSN(50), datetime(2026, 11, 28, tzinfo=UTC), stream=STREAM)
    # The journal's messages are in none.
    messages = [
        LogicalMessage(LSN(20 + index), prefix, b"x" * 10_000, transaction, index, STREAM)
        for index, prefix in enumerate(("a", PREFIX))
    ]
    for event in (Begin(transaction), *messages, Commit(transaction, LSN(60), 2)):
        assert packer.feed(event) == []
    (one,) = packer.flush()
    assert len(one.data) < 300
    found = Unpacker().feed(decode(one.data), 1)
    assert [event.position for event in found if isinstance(event, LogicalMessage)] == [
        message.position for message in messages
    ]


def test_the_largest_change_of_postgresql_fits_into_what_is_asked_of_nats() -> None:
    """It has 1 GiB; its table's description stands before it."""
    of_a_head, of_headers = HEAD_BYTES + 10_000, 512
    assert (LEAST_PAYLOAD - of_a_head - of_headers) * 65_535 > 1024**3
