"""Garbage: keeps garbage collections short, because all clients wait while one runs.

CPython frees an object at once when nothing refers to it any more. A garbage collection looks for
objects that refer only to each other, and a full one looks at every object that may refer to
others. For each client that has joined a channel the server has more than a hundred such objects,
for as long as the client stays. So with thousands of clients a full collection takes a quarter of a
second and more, and finds nothing.

Therefore the objects that have survived a full collection are left out of the later ones
(:func:`gc.freeze`), which look only at objects that were made since. An object that is left out is
still freed when nothing refers to it any more, but not when objects refer to each other in a
circle. A connection that has ended leaves no circle behind: see :mod:`.cycles`. For whatever else
may leave one, a collection looks at everything again once in an hour.

While nothing else happens, each client's heartbeats and pings leave a few dozen new objects in the
place of others. So that collections look at few of these, too, each is of an older generation than
the one before, until the third has looked at all: at two thousand objects, not at ten thousand.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Any, Final

__all__ = ["Garbage"]

_FULL: Final = 2
"""The generation of a full collection."""
_OLDER_AFTER: Final = 0
"""How many collections of one generation may come, beyond the first, until there is one of the next
older: none, as a full one looks at no more than what has come since the last."""
_INTERVAL: Final = 3600.0
"""Seconds between two looks at everything."""


class Garbage:
    """Has full collections look only at what has come since the last one, while it runs."""

    async def run(self) -> None:
        """Look at everything that is there, and again once in an hour; never return."""
        thresholds = gc.get_threshold()
        gc.set_threshold(thresholds[0], _OLDER_AFTER, _OLDER_AFTER)
        gc.callbacks.append(self._leave_out)
        try:
            while True:
                gc.unfreeze()
                gc.collect()
                # CPython puts a full one off until a quarter of what survived the last one has come
                # anew. Nothing is left that this one could look at.
                gc.collect()
                await asyncio.sleep(_INTERVAL)
        finally:
            gc.callbacks.remove(self._leave_out)
            gc.set_threshold(*thresholds)
            gc.unfreeze()

    def _leave_out(self, phase: str, info: dict[str, Any]) -> None:
        """Leave what has survived a full collection out of the next ones."""
        if phase == "stop" and info["generation"] == _FULL:
            gc.freeze()
