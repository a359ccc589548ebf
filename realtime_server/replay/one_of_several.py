"""OneOfSeveral: what makes a server process one of several workers that share a slot."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import attrs

from realtime_core import LSN

from ..config import MOST_WORKERS, ServerConfig
from .past import Past
from .places import Place
from .records import digest

__all__ = ["OneOfSeveral", "slots_left_out"]

_FIRST: Final = 1


@attrs.frozen
class OneOfSeveral:
    """A worker. They share the second slot with the slot."""

    config: ServerConfig
    number: int
    """The process's number, from 1 on; the one that takes its place has the same."""
    begin: Callable[[], Place]
    """Returns the place behind which the stream has everything, once the stream runs."""
    passed: Callable[[], LSN]
    """Returns an LSN before which the process has handed out everything that committed."""

    @property
    def past(self) -> Past | None:
        return None

    @property
    def slot(self) -> bytes:
        assert self.config.slot_name is not None
        return _slot(self.config.slot_name, self.number)

    @property
    def keeps_slot(self) -> bool:
        return self.number == _FIRST

    @property
    def left_out(self) -> Collection[bytes]:
        return slots_left_out(self.config) if self.number == _FIRST else ()


def slots_left_out(config: ServerConfig) -> list[bytes]:
    """Return what the workers are known by in the journal that a start with more of them has had.

    Args:
        config: with a slot.
    """
    assert config.slot_name is not None
    numbers = range(config.worker_count + 1, MOST_WORKERS + 1)
    return [_slot(config.slot_name, number) for number in numbers]


def _slot(name: str, number: int) -> bytes:
    # The first one takes the place of a single process.
    return digest(name if number == _FIRST else f"{name}/{number}")
