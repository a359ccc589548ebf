"""Where changes come from."""

from ._doctor import Diagnosis, Finding, Severity, diagnose
from .base import Acknowledgeable, ChangeSource, SourceStats, TransactionEvent
from .catalog import SlotStatus
from .options import Dsn, StreamOptions
from .pgoutput import PgoutputSource
from .slots import drop_slot, ensure_slot, slot_status

__all__ = [
    # ._doctor
    "Diagnosis",
    "Finding",
    "Severity",
    "diagnose",
    # .base
    "Acknowledgeable",
    "ChangeSource",
    "SourceStats",
    "TransactionEvent",
    # .catalog
    "SlotStatus",
    # .options
    "Dsn",
    "StreamOptions",
    # .pgoutput
    "PgoutputSource",
    # .slots
    "drop_slot",
    "ensure_slot",
    "slot_status",
]
