"""Garbage: keeps garbage collections short, because all clients wait while one runs.

CPython frees an object at once when nothing refers to it any more. A garbage collection looks for
objects that refer only to each other, and a full one looks at every object that may refer to
others. For each client that has joined a channel the server has more than a hundred such objects,
for as long as the client stays. So with thousands of clients a full collection takes a quarter of a
second and more, and finds nothing.

Therefore the objects that have survived a full collection are left out of the later ones
(:func:`gc.freeze`), which look only at objects that were made since. An object that is left out is
still freed when nothing refers to it any more, but not when objects refer to each other in a
circle, and a connection that ends leaves some such circles. So from time to time a collection looks
at everything again: when hardly any connections come or go, and far more have ended than are open,
so that little is left to look at; or when very many have ended, or after an hour.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any, Final, Protocol

__all__ = ["Garbage"]

_FULL: Final = 2
"""The generation of a full collection."""
_FULL_AFTER: Final = 2
"""How many collections of younger objects may come between two full ones: few, as those look at
what has come meanwhile."""
_FEW: Final = 1000
"""Connections that may end before everything is looked at, although hardly any are open."""
_MANY: Final = 20_000
"""Connections that may end before everything is looked at, however many are open. Each leaves
1.5 KB at most."""
_LONG: Final = 3600.0
"""Seconds after which everything is looked at, as others than connections may leave something."""
_STORM: Final = 10
"""Connections that come or go between two ticks with which a server has enough to do."""
_INTERVAL: Final = 5.0
"""Seconds between two looks whether it is time."""


class Connections(Protocol):
    """Whoever has connections."""

    @property
    def open_connections(self) -> int:
        """How many are open."""
        ...

    @property
    def ended_connections(self) -> int:
        """How many have ended so far."""
        ...


class Garbage:
    """Has full collections look only at what has come since the last one, while it runs.

    Args:
        connections: those of the process.
        clock: seconds of any clock that only goes forward.
    """

    def __init__(self, connections: Connections, clock: Callable[[], float]) -> None:
        self._connections = connections
        self._clock = clock
        # When everything was looked at last, and how many connections had ended then.
        self._looked_at = clock()
        self._ended_before = 0
        # How many had come and gone by the last tick.
        self._moves_before = 0

    async def run(self) -> None:
        """Look at everything that is there, and again whenever it is time; never return."""
        thresholds = gc.get_threshold()
        gc.set_threshold(*thresholds[:_FULL], _FULL_AFTER)
        gc.callbacks.append(self._leave_out)
        try:
            self.look_at_all()
            while True:
                await asyncio.sleep(_INTERVAL)
                self.tick()
        finally:
            gc.callbacks.remove(self._leave_out)
            gc.set_threshold(*thresholds)
            gc.unfreeze()

    def tick(self) -> None:
        """Look at everything if it is time. Call this every few seconds."""
        if self.is_time():
            self.look_at_all()
        self._moves_before = self._moves()

    def is_time(self) -> bool:
        """Return whether enough may have been left over for a look at everything."""
        ended = self._connections.ended_connections - self._ended_before
        if ended >= _MANY or self._clock() - self._looked_at >= _LONG:
            return True
        is_calm = self._moves() - self._moves_before < _STORM
        return is_calm and ended >= max(_FEW, 2 * self._connections.open_connections)

    def _moves(self) -> int:
        """Return how many connections have come, and how many have gone, together."""
        return self._connections.open_connections + 2 * self._connections.ended_connections

    def look_at_all(self) -> None:
        """Collect the garbage among all objects."""
        self._looked_at = self._clock()
        self._ended_before = self._connections.ended_connections
        gc.unfreeze()
        gc.collect()

    def _leave_out(self, phase: str, info: dict[str, Any]) -> None:
        """Leave what has survived a full collection out of the next ones."""
        if phase == "stop" and info["generation"] == _FULL:
            gc.freeze()
