"""pgoutput, PostgreSQL's own logical replication format: bytes in, changes out.

It needs no sockets, no event loop and no database driver::

    from realtime_core.pgoutput import ChangeDecoder

    for change in ChangeDecoder().decode(payloads):
        ...

A program that wants to see the messages decodes them with ``Decoder``, and makes changes of them
with ``Assembler``. ``ChangeDecoder`` makes changes without messages in between, which is faster.
``RawDecoder`` leaves rows as bytes, and ``Encoder`` writes what it yields as messages again.
"""

from .assembler import Assembler, assemble
from .change_decoder import ChangeDecoder
from .decoder import Decoder
from .encoder import Encoder, encode_relation
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
from .raw_decoder import RawDecoder

__all__ = [
    # .assembler
    "Assembler",
    "assemble",
    # .change_decoder
    "ChangeDecoder",
    # .decoder
    "Decoder",
    # .encoder
    "Encoder",
    "encode_relation",
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
    # .raw_decoder
    "RawDecoder",
]
