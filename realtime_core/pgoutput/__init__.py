"""pgoutput, PostgreSQL's own logical replication format: bytes in, changes out.

No sockets, no event loop, no driver::

    from realtime_core.pgoutput import Assembler, Decoder

    decoder, assembler = Decoder(), Assembler()
    for payload in payloads:
        for change in assembler.feed(decoder.decode(payload)):
            ...
"""

from .assembler import Assembler, assemble
from .decoder import Decoder
from .messages import (
    BeginMessage,
    BeginPrepareMessage,
    CommitMessage,
    CommitPreparedMessage,
    DeleteMessage,
    Fields,
    InsertMessage,
    LogicalMessageMessage,
    Message,
    OriginMessage,
    PrepareMessage,
    RelationColumn,
    RelationMessage,
    RollbackPreparedMessage,
    StreamAbortMessage,
    StreamCommitMessage,
    StreamPrepareMessage,
    StreamStartMessage,
    StreamStopMessage,
    TruncateMessage,
    TypeMessage,
    UpdateMessage,
)

__all__ = [
    # .assembler
    "Assembler",
    "assemble",
    # .decoder
    "Decoder",
    # .messages
    "BeginMessage",
    "BeginPrepareMessage",
    "CommitMessage",
    "CommitPreparedMessage",
    "DeleteMessage",
    "Fields",
    "InsertMessage",
    "LogicalMessageMessage",
    "Message",
    "OriginMessage",
    "PrepareMessage",
    "RelationColumn",
    "RelationMessage",
    "RollbackPreparedMessage",
    "StreamAbortMessage",
    "StreamCommitMessage",
    "StreamPrepareMessage",
    "StreamStartMessage",
    "StreamStopMessage",
    "TruncateMessage",
    "TypeMessage",
    "UpdateMessage",
]
