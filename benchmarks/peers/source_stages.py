"""What a source does with recorded CopyData, up to its consumer: each stage with those before it.

    python source_stages.py CAPTURE

No socket is read: a source is given the messages of the CopyData beside the capture, so many at a
time as it finds while it decodes what came before.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from row_values import read_values
from worker import read_capture, serve

from realtime_core import LSN, PgoutputSource
from realtime_core._implementation import IMPLEMENTATION
from realtime_core.pgoutput import ChangeDecoder
from realtime_core.replication.protocol import Payload
from realtime_core.replication.sequence import Sequence
from realtime_core.sources._live_stream import LiveStream, _messages

READ = 110
"""How many messages are in 16 KiB, which is what libpq reads at once."""

capture = Path(sys.argv[1])
# As the implementations take them out of libpq.
kind: type[Any] = bytes if IMPLEMENTATION == "c" else memoryview
copy_data: list[Payload] = [
    kind(data) for data in read_capture(capture.with_name("mixed_v1_copydata.bin.gz"))
]


def reads() -> Iterator[list[Payload]]:
    for start in range(0, len(copy_data), READ):
        yield copy_data[start : start + READ]


class Recorded:
    """Stands for the connection of a source."""

    waiting = False

    def __init__(self) -> None:
        self._reads = reads()

    async def read(self) -> list[Payload]:
        for payloads in self._reads:
            return payloads
        raise StopAsyncIteration

    def send(self, payload: bytes) -> None:
        """Nobody wants to know what was acknowledged."""


def streaming() -> tuple[Any, LiveStream]:
    """Return a source, and what it reads while it is attached."""
    source: Any = PgoutputSource("postgresql:///bench", publications=["bench"], slot="bench")
    source._history.sequence = Sequence(LSN(0))
    attachment: Any = SimpleNamespace(connection=Recorded(), sender_timeout=0)
    live = LiveStream(attachment, "bench", ChangeDecoder(), source._history, source._settings)
    source._live = live
    return source, live


def messages() -> None:
    for payloads in reads():
        for _ in _messages(payloads):
            pass


def changes() -> None:
    decode = ChangeDecoder().decode
    for payloads in reads():
        for _ in decode(_messages(payloads)):
            pass


async def accepted() -> None:
    _, live = streaming()
    for payloads in reads():
        for _ in live.take(payloads):
            pass


async def handed_over(use: Callable[[Any], object] | None) -> None:
    source, _ = streaming()
    if use is None:
        async for _ in source:
            pass
    else:
        async for change in source:
            use(change)


serve(
    {
        "messages": messages,
        "changes": changes,
        "accepted": lambda: asyncio.run(accepted()),
        "handed over": lambda: asyncio.run(handed_over(None)),
        "values": lambda: asyncio.run(handed_over(read_values)),
    }
)
