"""What is still in memory: how a test sees that something was forgotten."""

from __future__ import annotations

import gc

__all__ = ["alive"]


def alive(*kinds: type) -> int:
    """Count the objects of exactly these types that anything still refers to."""
    gc.collect()
    return sum(type(each) in kinds for each in gc.get_objects())
