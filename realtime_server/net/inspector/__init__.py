"""The inspector: a page that shows changes as they come.

The page is the folder ``page``, served as it is. It is a client like any other: it connects
to the same WebSocket, with a token where one is asked for.
"""

from __future__ import annotations

from .endpoints import inspector_endpoints
from .tables import TableList

__all__ = [
    # endpoints
    "inspector_endpoints",
    # tables
    "TableList",
]
