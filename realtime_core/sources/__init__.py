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
from .consumer import Consumer, ConsumerStats
from .fan_out import FanOut
from .hooks import Hooks
from .memory import MemoryDatabase, MemorySource, MemoryTable
from .pgoutput import PgoutputSource
from .raw_pgoutput import RawPgoutputSource
from .slots import drop_slot, ensure_slot, slot_status
from .stream_options import Dsn, StreamOptions
from .sync import SyncSource
from .sync_fan_out import SyncConsumer, SyncFanOut
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
    # .consumer
    "Consumer",
    "ConsumerStats",
    # .fan_out
    "FanOut",
    # .hooks
    "Hooks",
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
    # .sync_fan_out
    "SyncConsumer",
    "SyncFanOut",
    # .wal2json
    "Wal2JsonAction",
    "Wal2JsonSource",
]
