"""Broadcast PostgreSQL's changes to WebSocket clients that speak the Phoenix channel protocol.

Start it with ``python -m realtime_server``; the reference lists every environment variable.
"""

from realtime_core import __version__ as __version__
