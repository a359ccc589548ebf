"""pgoutput, PostgreSQL's own logical replication format: bytes in, changes out.

No sockets, no event loop, no driver::

    from realtime_core.pgoutput import ChangeDecoder

    for change in ChangeDecoder().decode(payloads):
        ...

Messages are there for whoever wants them: ``Decoder`` makes them of bytes, ``Assembler``
makes changes of them, more slowly than ``ChangeDecoder``, which leaves them out.
"""

from .assembler import Assembler, assemble
from .change_decoder import ChangeDecoder
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
    # .change_decoder
    "ChangeDecoder",
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
