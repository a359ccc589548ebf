"""Packer: a change that has more parts than an envelope can count."""

from __future__ import annotations

import pytest

from realtime_core import LSN, LogicalMessage, StreamIdentity
from realtime_core.positions import LAST_INDEX
from realtime_server.cluster.envelope import HEAD_BYTES
from realtime_server.cluster.packer import LEAST_PAYLOAD, Packer

STREAM = StreamIdentity(7, 1, ("shop",))


def test_a_change_that_takes_too_many_messages_is_refused_in_words() -> None:
    packer = Packer((0, 10, LAST_INDEX), STREAM, max_payload=HEAD_BYTES + len("shop") + 1)
    message = LogicalMessage(LSN(20), "large", bytes(65_536), None, 0, STREAM)
    packer.feed(message)
    with pytest.raises(ValueError, match="an envelope has 65535 parts at most"):
        packer.flush()


def test_the_largest_change_of_postgresql_fits_into_what_is_asked_of_nats() -> None:
    """It has 1 GiB; its table's description stands before it."""
    of_a_head, of_headers = HEAD_BYTES + 10_000, 512
    assert (LEAST_PAYLOAD - of_a_head - of_headers) * 65_535 > 1024**3
