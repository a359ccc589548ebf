"""The keyword arguments of a MemorySource, for its overloads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

from ..stream_options import StartAt

__all__ = ["MemoryOptions", "NarrowOptions"]


class NarrowOptions(TypedDict, total=False):
    """The options that do not decide which kinds of events come."""

    slot: str | None
    filter: str | Mapping[str, str] | None
    auto_ack: bool
    persistent: bool


class MemoryOptions(NarrowOptions, total=False):
    """All options."""

    on_gap: Literal["raise", "continue"]
    start_at: StartAt | Literal["slot"]
    boundaries: bool
