"""What the envelope of a transaction of one row costs, on its way from a reader to a server.

    python -m benchmarks.envelopes

Each step is timed by itself: hot, one transaction after the other, and cold, with 16 MiB of memory
written before each step, since where changes come one by one, other programs have used the caches
meanwhile. A figure is the 10th percentile, in microseconds. The last step is what a process that
reads its slot by itself does in the place of all others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from benchmarks._report import environment, percentile, save
from realtime_core import LSN, Begin, Commit, RawRows, StreamIdentity, Transaction
from realtime_core.pgoutput import ChangeDecoder, Encoder, RawDecoder
from realtime_server.cluster.envelope import NOWHERE, Envelope, decode
from realtime_server.cluster.packer import Packed, Packer
from realtime_server.cluster.unpacker import Unpacker
from realtime_server.workers.frames import EnvelopeFrame, FrameBuffer, encode_frame
from tests.server_helpers import make_relation

HOT, COLD = 5000, 400
WARM: Final = 50
CACHES: Final = 16 * 2**20
STREAM: Final = StreamIdentity(7, 1, ("shop",))
RELATION: Final = make_relation()
BEGAN: Final = datetime(2026, 1, 1, tzinfo=UTC)
ROW: Final = b"".join(
    (
        b"I" + RELATION.oid.to_bytes(4, "big") + b"N\0\2",
        b"t\0\0\0\4" + b"1234",
        b"t" + (376).to_bytes(4, "big") + bytes(376).replace(b"\0", b"x"),
    )
)


def transactions() -> Iterator[list[bytes]]:
    """Yield pgoutput's messages of one transaction after the other, without an end."""
    encoder, number = Encoder(), 0
    while True:
        number += 1
        at = BEGAN + timedelta(milliseconds=10 * number)
        transaction = Transaction(number, LSN(1000 * number), at, None, STREAM)
        rows = RawRows(transaction, 0, RELATION, (ROW,))
        events = (Begin(transaction), rows, Commit(transaction, LSN(1000 * number + 50), 1))
        yield [message for event in events for message in encoder.encode(event)]


class Way:
    """All steps of a chain of envelopes."""

    def __init__(self) -> None:
        self._raw, self._packer = RawDecoder(STREAM), Packer(NOWHERE, STREAM)
        self._buffer, self._unpacker = FrameBuffer(), Unpacker()
        self._alone = ChangeDecoder(STREAM)
        self.steps: dict[str, Callable[[Any], Any]] = {
            "reader: rows as bytes": lambda messages: list(self._raw.decode(messages)),
            "reader: packed": self._pack,
            "supervisor: a frame": lambda packed: encode_frame(EnvelopeFrame(1, packed.data)),
            "worker: an envelope again": self._unframe,
            "server: changes": lambda envelope: self._unpacker.feed(envelope, 1),
        }
        self.alone = "one process: changes"

    def decode(self, messages: list[bytes]) -> list[Any]:
        """Do what one process does."""
        return list(self._alone.decode(messages))

    def _pack(self, events: list[Any]) -> Packed:
        packed = [each for event in events for each in self._packer.feed(event)]
        (one,) = [*packed, *self._packer.flush()]
        return one

    def _unframe(self, data: bytes) -> Envelope:
        (frame,) = self._buffer.feed(data)
        assert isinstance(frame, EnvelopeFrame)
        return decode(frame.data, frame.sequence)


def run(count: int, before: Callable[[], None]) -> dict[str, float]:
    """Return how long each step takes.

    Args:
        count: of the transactions.
        before: called before each step.
    """
    way, times = Way(), dict[str, list[float]]()

    def timed(name: str, step: Callable[[Any], Any], value: Any) -> Any:
        before()
        began = time.perf_counter_ns()
        result = step(value)
        times.setdefault(name, []).append((time.perf_counter_ns() - began) / 1000)
        return result

    for messages, _ in zip(transactions(), range(count + WARM), strict=False):
        value: Any = messages
        for name, step in way.steps.items():
            value = timed(name, step, value)
        expected = timed(way.alone, way.decode, messages)
        if [*map(type, value)] != [*map(type, expected)]:
            raise RuntimeError("the server has got other changes than one process")
    return {name: round(percentile(each[WARM:], 0.1), 1) for name, each in times.items()}


def main() -> None:
    memory = bytearray(CACHES)
    lines = bytes(CACHES // 64)

    def spoil() -> None:
        memory[::64] = lines

    hot, cold = run(HOT, lambda: None), run(COLD, spoil)
    rows = [{"step": name, "hot_us": hot[name], "cold_us": cold[name]} for name in hot]
    for row in rows:
        print("  ".join(f"{key}: {value}" for key, value in row.items()))
    result = {"environment": environment(), "steps": rows}
    print(f"saved {save('envelopes', 'python -m benchmarks.envelopes', result)}")


if __name__ == "__main__":
    main()
