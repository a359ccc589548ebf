"""Processes that begin together read the second slot in turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import repeat

import pytest

from realtime_core import LSN, Event, Idle, LogicalMessage, Position
from realtime_core.errors import SlotInUseError
from realtime_server.replay import second_slot_reader
from realtime_server.replay.second_slot_reader import read_second_slot

pytestmark = pytest.mark.asyncio


class Source:
    """The second slot, which others have before."""

    def __init__(self, holders: Iterator[int]) -> None:
        self._holders = holders

    async def __aenter__(self) -> Source:
        for pid in self._holders:
            raise SlotInUseError("slot_replay", pid)
        return self

    async def aclose(self) -> None: ...

    async def batches(self) -> AsyncIterator[Sequence[Event]]:
        yield [Idle(Position(LSN(20), 0))]


async def read(holders: Iterator[int], *, is_shared: bool = True) -> int:
    """Return how often the slot was read."""
    opened = 0

    async def on_open() -> None:
        nonlocal opened
        opened += 1

    async def read_message(message: LogicalMessage) -> None: ...

    async for _ in read_second_slot(
        lambda: Source(holders),
        (LSN(10), -1),
        read_message,
        slot="slot_replay",
        on_open=on_open,
        is_shared=is_shared,
    ):
        pass
    return opened


@pytest.mark.slow
async def test_however_many_others_have_their_turn_before_none_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(second_slot_reader, "_PATIENCE_WITH_OTHERS", 0.01)
    monkeypatch.setattr(second_slot_reader, "_PAUSE_WITH_OTHERS", 0.02)
    assert await read(iter(range(5))) == 1


@pytest.mark.parametrize("is_shared", [True, False])
async def test_whoever_keeps_the_slot_is_not_waited_for_for_ever(
    is_shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_PATIENCE_WITH_OTHERS", "_PATIENCE", "_PAUSE_WITH_OTHERS", "_PAUSE"):
        monkeypatch.setattr(second_slot_reader, name, 0.01)
    with pytest.raises(SlotInUseError):
        await read(repeat(7), is_shared=is_shared)
