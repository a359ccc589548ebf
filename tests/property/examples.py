"""How many examples a property is tried with: few for `make check`, as many as one likes else.

    EXAMPLES=100 python -m pytest tests/property/test_pgoutput.py

tries a hundred times as many.
"""

from __future__ import annotations

import os

from hypothesis import settings

__all__ = ["examples"]

FACTOR = int(os.environ.get("EXAMPLES", "1"))


def examples(count: int) -> settings:
    """Return the settings of a property that `make check` tries ``count`` times."""
    return settings(max_examples=count * FACTOR, deadline=None)
