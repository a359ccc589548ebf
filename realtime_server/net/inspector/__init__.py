"""The inspector: a page that shows changes as they come.

The page is in the folder ``page``, whose files are served as they are. It is a client like any
other:
it connects to the same WebSocket, with a token if the server requires one.
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
