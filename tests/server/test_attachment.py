"""Attachment: who waits for the stream, and how the waiting ends."""

from __future__ import annotations

from realtime_server.attachment import Attachment
from tests.waiting import eventually


class Stream:
    """A stream that is attached or not, and how often it was asked."""

    def __init__(self) -> None:
        self.attached = False
        self.asked = 0
        self.told: list[tuple[str, bool]] = []
        self.attachment = Attachment(self._ask)

    def _ask(self) -> bool:
        self.asked += 1
        return self.attached

    def wait(self, name: str, within: float | None = None) -> None:
        self.attachment.wait(lambda attached: self.told.append((name, attached)), within=within)


async def test_it_is_what_the_stream_is() -> None:
    stream = Stream()
    assert not stream.attachment
    stream.attached = True
    assert stream.attachment


async def test_who_waits_is_told_once_in_order_when_the_stream_attaches() -> None:
    stream = Stream()
    stream.wait("first")
    stream.wait("second", within=60)
    await eventually(lambda: stream.asked > 2)
    assert stream.told == []
    stream.attached = True
    await eventually(lambda: stream.told)
    assert stream.told == [("first", True), ("second", True)]
    # And nobody looks any more.
    asked = stream.asked
    stream.wait("third")
    await eventually(lambda: len(stream.told) == 3)
    assert stream.asked == asked + 1


async def test_who_waits_in_vain_is_told_so() -> None:
    stream = Stream()
    stream.wait("short", within=0.01)
    stream.wait("long")
    await eventually(lambda: stream.told)
    assert stream.told == [("short", False)]
    stream.attached = True
    await eventually(lambda: len(stream.told) == 2)
    assert stream.told[1] == ("long", True)


async def test_nobody_is_told_before_wait_returns() -> None:
    stream = Stream()
    stream.attached = True
    stream.wait("now", within=0)
    assert stream.told == []
    await eventually(lambda: stream.told)


async def test_a_cancelled_wait_is_told_nothing() -> None:
    stream = Stream()
    told: list[bool] = []
    stream.attachment.wait(told.append, within=0.01).cancel()
    wait = stream.attachment.wait(told.append)
    wait.cancel()
    wait.cancel()
    # It comes to its end later than the first would have.
    stream.wait("in vain", within=0.02)
    await eventually(lambda: stream.told)
    stream.attached = True
    stream.wait("last")
    await eventually(lambda: len(stream.told) == 2)
    assert told == []


async def test_one_who_is_told_may_cancel_another() -> None:
    stream = Stream()
    told: list[bool] = []
    stream.attached = True
    stream.attachment.wait(lambda _: second.cancel())
    second = stream.attachment.wait(told.append)
    stream.wait("last")
    await eventually(lambda: stream.told)
    assert told == []
