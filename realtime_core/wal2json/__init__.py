"""Decodes what wal2json writes, the output plugin whose output is JSON.

It reads formats 1 and 2, in whole texts or in chunks, and returns the same classes of changes as
:mod:`realtime_core.pgoutput`. It opens no sockets and needs no event loop and no driver::

    from realtime_core import wal2json

    for change in wal2json.parse(text):             # one text of the slot
        print(change.relation, change.record.as_text())

    decoder = wal2json.Wal2JsonDecoder()            # a stream of them, with its state
    for text in texts:
        for event in decoder.feed(text):
            ...

    for event in wal2json.parse_file(file):         # what pg_recvlogical wrote
        ...

A field of a row is the text that pgoutput would send for the value; numbers are never converted to
floats on the way. ``docs/reference/wal2json.md`` lists what wal2json leaves out.
"""

from .decoder import Wal2JsonDecoder, parse
from .streams import iter_changes, parse_file

__all__ = [
    # .decoder
    "Wal2JsonDecoder",
    "parse",
    # .streams
    "iter_changes",
    "parse_file",
]
