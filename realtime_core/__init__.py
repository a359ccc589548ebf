"""Listen to PostgreSQL from Python.

``import realtime_core`` loads no driver: the sources, which need psycopg, are imported
when they are first used, so a script that only decodes stays light.
"""

from typing import TYPE_CHECKING

from . import changes, errors, lsn, positions, records
from ._version import __version__ as __version__
from .changes import *  # noqa: F403
from .errors import *  # noqa: F403
from .lsn import *  # noqa: F403
from .positions import *  # noqa: F403
from .records import *  # noqa: F403

if TYPE_CHECKING:
    from .doctor import Diagnosis, Finding, Severity, diagnose
    from .snapshot import (
        BackfillStep,
        Snapshot,
        SnapshotBegin,
        SnapshotComplete,
        SnapshotEvent,
        SnapshotProgress,
    )
    from .sources import (
        Acknowledgeable,
        ChangeSource,
        Consumer,
        ConsumerStats,
        Dsn,
        FanOut,
        Hooks,
        MemoryDatabase,
        MemorySource,
        MemoryTable,
        PgoutputSource,
        RawPgoutputSource,
        RawTransactionEvent,
        SlotStatus,
        SourceStats,
        StreamOptions,
        SyncConsumer,
        SyncFanOut,
        SyncSource,
        TransactionEvent,
        TypedChange,
        TypedEvent,
        TypedSnapshotEvent,
        Wal2JsonAction,
        Wal2JsonSource,
        drop_slot,
        ensure_slot,
        slot_status,
    )

_FROM_DOCTOR = ("Diagnosis", "Finding", "Severity", "diagnose")
_FROM_SNAPSHOT = (
    "BackfillStep",
    "Snapshot",
    "SnapshotBegin",
    "SnapshotComplete",
    "SnapshotEvent",
    "SnapshotProgress",
)
_FROM_SOURCES = (
    "Acknowledgeable",
    "ChangeSource",
    "Consumer",
    "ConsumerStats",
    "Dsn",
    "FanOut",
    "Hooks",
    "MemoryDatabase",
    "MemorySource",
    "MemoryTable",
    "PgoutputSource",
    "RawPgoutputSource",
    "RawTransactionEvent",
    "SlotStatus",
    "SourceStats",
    "StreamOptions",
    "SyncConsumer",
    "SyncFanOut",
    "SyncSource",
    "TransactionEvent",
    "TypedChange",
    "TypedEvent",
    "TypedSnapshotEvent",
    "Wal2JsonAction",
    "Wal2JsonSource",
    "drop_slot",
    "ensure_slot",
    "slot_status",
)

__all__ = [
    *changes.__all__,
    *errors.__all__,
    *lsn.__all__,
    *positions.__all__,
    *records.__all__,
    "Acknowledgeable",
    "BackfillStep",
    "ChangeSource",
    "Consumer",
    "ConsumerStats",
    "Diagnosis",
    "Dsn",
    "FanOut",
    "Hooks",
    "Finding",
    "MemoryDatabase",
    "MemorySource",
    "MemoryTable",
    "PgoutputSource",
    "RawPgoutputSource",
    "RawTransactionEvent",
    "Severity",
    "SlotStatus",
    "Snapshot",
    "SnapshotBegin",
    "SnapshotComplete",
    "SnapshotEvent",
    "SnapshotProgress",
    "SourceStats",
    "StreamOptions",
    "SyncConsumer",
    "SyncFanOut",
    "SyncSource",
    "TransactionEvent",
    "TypedChange",
    "TypedEvent",
    "TypedSnapshotEvent",
    "diagnose",
    "Wal2JsonAction",
    "Wal2JsonSource",
    "drop_slot",
    "ensure_slot",
    "slot_status",
]


def __getattr__(name: str) -> object:
    if name in _FROM_DOCTOR:
        from . import doctor

        return getattr(doctor, name)
    if name in _FROM_SNAPSHOT:
        from . import snapshot

        return getattr(snapshot, name)
    if name in _FROM_SOURCES:
        from . import sources

        return getattr(sources, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
