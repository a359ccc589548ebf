"""Whatever stands in the log, a server that reads it goes on: what cannot be read is told as a gap
if something is missing, and no row is wrong, or comes twice. Time is virtual.
"""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import LSN, Event, Gap, Idle, Position
from realtime_server.cluster.envelope import HEAD_BYTES, Envelope, Kind, decode, encode
from realtime_server.cluster.feed import LogFeed
from realtime_server.cluster.log import Log, LogSettings
from realtime_server.cluster.log_reader import LogReader
from realtime_server.cluster.packer import Packer
from realtime_server.cluster.patient_reader import PatientReader
from tests.fake_jetstream import FakeJetStream
from tests.property.examples import examples
from tests.property.test_cluster_envelopes import STREAM, packed, raw_events
from tests.property.test_cluster_leaders import BEGIN, check
from tests.virtual_time import run_in_virtual_time

pytestmark = pytest.mark.slow


def hostile(random: Random, chain: list[bytes], number: int) -> bytes:
    """Return what nobody can read, or has long been read, in place of an envelope or before it."""
    good = chain[number]
    names = decode(good).stream.publications
    head = HEAD_BYTES + len("\0".join(names).encode())
    match random.randrange(7):
        case 0:
            return random.randbytes(random.randrange(200))
        case 1:
            return b"RTE\1" + random.randbytes(random.randrange(HEAD_BYTES - 4))
        case 2:
            # Of a newer server, which may have a shorter head.
            return b"RTE" + bytes([random.randrange(2, 256)]) + random.randbytes(20)
        case 3:
            return good[: random.randrange(head)]
        case 4:
            # The places, and no changes that stand there.
            return good[:head] + random.randbytes(random.randrange(100))
        case 5:
            return good[: random.randrange(head, max(len(good), head + 1))]
        case _:
            # The chain jumps back.
            return chain[random.randrange(number + 1)]


def is_readable(data: bytes) -> bool:
    """Whether it moves a reader's place, or is a former envelope."""
    try:
        decode(data)
    except ValueError:
        return False
    return True


async def play(seed: int, steps: int, max_payload: int, *, replaces: bool) -> None:
    random = Random(seed)
    events, expected = raw_events(seed, steps)
    packer = Packer(BEGIN, STREAM, max_bytes=200, max_payload=max_payload)
    chain = [one.data for one in packed(events, random, packer, 0.3)]
    end = Idle(Position(LSN(packer.last[1] + 1), 0, STREAM))
    chain += [one.data for one in packer.feed(end)]
    server = FakeJetStream()

    async def connect() -> Any:
        return server.connect()

    def log(connection: Any) -> Log:
        return Log(connection, LogSettings(name="log"))

    await log(server.connect()).prepare()
    begin = Envelope(Kind.MARK, BEGIN, BEGIN, (0, 0, 0), STREAM, b"")
    server.append(encode(begin))
    clock = asyncio.get_running_loop().time
    feed = LogFeed(PatientReader(LogReader(connect, log), clock), lambda: None)
    may_have_gaps = False
    async with feed:
        await feed.attached()
        for number, data in enumerate(chain):
            is_last = number == len(chain) - 1
            if not is_last and random.random() < 0.2:
                wrong = hostile(random, chain, number)
                may_have_gaps |= replaces or is_readable(wrong)
                server.append(wrong)
                if replaces:
                    continue
            server.append(data)
            if random.random() < 0.2:
                await asyncio.sleep(random.random())
            if random.random() < 0.02:
                server.break_connections()
        found: list[Event] = []
        async with asyncio.timeout(3600):
            async for batch in feed.batches():
                found += batch
                feed.ack(batch[-1])
                if batch[-1] == end:
                    break
        assert feed.is_open
        assert feed.newer is None
    check(found, expected, may_have_gaps=may_have_gaps)
    gaps = [event for event in found if isinstance(event, Gap)]
    assert len(gaps) == feed.stats().gaps


@pytest.fixture(autouse=True)
def quiet() -> Any:
    logger = logging.getLogger("realtime.cluster")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)


payloads = st.sampled_from([150, 300, 1024 * 1024])


@examples(100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), payloads, st.booleans())
def test_a_server_goes_on_behind_what_it_cannot_read(
    seed: int, steps: int, max_payload: int, replaces: bool
) -> None:
    run_in_virtual_time(play(seed, steps, max_payload, replaces=replaces))
