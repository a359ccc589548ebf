"""Where changes come from."""

from .base import ChangeSource
from .pgoutput import PgoutputSource

__all__ = [
    # .base
    "ChangeSource",
    # .pgoutput
    "PgoutputSource",
]
