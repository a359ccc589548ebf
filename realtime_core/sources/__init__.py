"""Sources: async iterators of a database's changes."""

from .base import (
    Acknowledgeable,
    ChangeSource,
    RawTransactionEvent,
    SourceStats,
    TransactionEvent,
    TypedChange,
    TypedEvent,
    TypedSnapshotEvent,
)
from .catalog import SlotStatus
from .memory import MemoryDatabase, MemorySource, MemoryTable
from .pgoutput import PgoutputSource
from .raw_pgoutput import RawPgoutputSource
from .slots import drop_slot, ensure_slot, slot_status
from .stream_options import Dsn, StreamOptions
from .sync import SyncSource
from .wal2json import Wal2JsonAction, Wal2JsonSource

__all__ = [
    # .base
    "Acknowledgeable",
    "ChangeSource",
    "RawTransactionEvent",
    "SourceStats",
    "TransactionEvent",
    "TypedChange",
    "TypedEvent",
    "TypedSnapshotEvent",
    # .catalog
    "SlotStatus",
    # .memory
    "MemoryDatabase",
    "MemorySource",
    "MemoryTable",
    # .options
    "Dsn",
    "StreamOptions",
    # .pgoutput
    "PgoutputSource",
    # .raw_pgoutput
    "RawPgoutputSource",
    # .slots
    "drop_slot",
    "ensure_slot",
    "slot_status",
    # .sync
    "SyncSource",
    # .wal2json
    "Wal2JsonAction",
    "Wal2JsonSource",
]
