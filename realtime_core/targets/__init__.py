"""Targets: databases that rows and changes are written to, with the position in one transaction."""

from .base import DRIVER_ERRORS, Checkpoint, Target, TargetError
from .postgres import PostgresTarget
from .sqlite import SqliteTarget

__all__ = [
    "DRIVER_ERRORS",
    "Checkpoint",
    "PostgresTarget",
    "SqliteTarget",
    "Target",
    "TargetError",
]
