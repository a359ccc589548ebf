"""wal2json, the output plugin that writes JSON: texts in, changes out.

Formats 1 and 2, whole or in chunks, with the same classes of changes that
:mod:`realtime_core.pgoutput` gives. No sockets, no event loop, no driver::

    from realtime_core import wal2json

    for change in wal2json.parse(text):             # one text of the slot
        print(change.relation, change.record.as_text())

    decoder = wal2json.Wal2JsonDecoder()            # a stream of them, with its state
    for text in texts:
        for event in decoder.feed(text):
            ...

    for event in wal2json.parse_file(file):         # what pg_recvlogical wrote
        ...

A field is PostgreSQL's text as pgoutput would send it; a number never passes through a
float. What the format leaves out is listed in ``docs/reference/wal2json.md``.
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
