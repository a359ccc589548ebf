"""Takes CopyData messages out of libpq: those that have come, without waiting for more.

psycopg takes one message at a time, by ``PQgetCopyData``. The compiled implementation calls the
same function in a loop. It has to be that of the library which has made the connection, and that
library may have come with psycopg: so the function is looked up where psycopg finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import psycopg
from psycopg import pq

from .._implementation import IMPLEMENTATION

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn
    from realtime_core_c.copy_data import CopyData

__all__ = ["TakeCopyData", "taker"]

TakeCopyData: TypeAlias = Callable[[list[Any], int], int]
"""Appends messages to a list, as bytes or memoryviews, until they have so many bytes.

It returns 1 if they have, 0 if no other message has come as a whole, and -1 at the end of the copy.
When psycopg calls a notice handler meanwhile, the list has the messages before that notice.

Raises:
    psycopg.OperationalError: if there is no copy, or the server has sent what is no message. The
        messages before it are in the list.
"""

_MODULES: Final = {"binary": "psycopg_binary.pq", "c": "psycopg_c.pq"}
"""The compiled modules of psycopg that use libpq, by the name of the implementation."""


def taker(pgconn: PGconn) -> TakeCopyData:
    """Return the function that takes messages out of a connection.

    Args:
        pgconn: libpq's connection.
    """
    if IMPLEMENTATION == "c" and isinstance(pgconn, pq.PGconn):
        compiled = _compiled()
        if compiled is not None:
            return partial(_take_compiled, pgconn, compiled)
    return partial(_take, pgconn)


def _take(pgconn: PGconn, messages: list[Any], most: int) -> int:
    get_copy_data = pgconn.get_copy_data
    while most > 0:
        size, data = get_copy_data(1)
        if size <= 0:
            return size
        messages.append(data)
        most -= size
    return 1


def _take_compiled(pgconn: Any, compiled: CopyData, messages: list[Any], most: int) -> int:
    address = pgconn.pgconn_ptr
    if address is None:
        # psycopg raises the error that says that the connection is closed.
        return _take(pgconn, messages, most)
    size = compiled.take(address, messages, most)
    if size < -1:
        raise psycopg.OperationalError(f"receiving copy data failed: {pgconn.get_error_message()}")
    return size


@cache
def _compiled() -> CopyData | None:
    """Return what calls libpq; None where the library that psycopg uses is not known for sure."""
    from realtime_core_c.copy_data import CopyData

    try:
        addresses = _addresses("PQgetCopyData", "PQfreemem")
    except (ImportError, OSError, LookupError, AttributeError):
        return None
    return None if addresses is None else CopyData(*addresses)


def _addresses(*names: str) -> list[int] | None:
    """Return the addresses of functions in the libpq that psycopg has loaded.

    A program, or what it has loaded for all, may bring another libpq, which psycopg may use then:
    None if so.

    Raises:
        ImportError: if Python has no ctypes.
        LookupError: if psycopg has an implementation that is not known here.
        AttributeError: if a function is not found.
    """
    import ctypes
    from importlib import import_module

    if pq.__impl__ == "python":
        library = import_module("psycopg.pq._pq_ctypes").pq
    else:
        # The names that a library has linked are found through it.
        library = ctypes.CDLL(import_module(_MODULES[pq.__impl__]).__file__)
    found = [_address(library, name) for name in names]
    everywhere = ctypes.CDLL(None)
    for name, address in zip(names, found, strict=True):
        if hasattr(everywhere, name) and _address(everywhere, name) != address:
            return None
    return found


def _address(library: Any, name: str) -> int:
    import ctypes

    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert address is not None
    return address
