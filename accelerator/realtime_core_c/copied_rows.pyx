# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
"""Events of rows in the text format of COPY: realtime_core.snapshot's work, compiled.

Each row becomes a message as pgoutput has them, and its record keeps that: see :mod:`.rows`.
"""

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.list cimport PyList_Append
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.string cimport memcpy

from realtime_core_c._fields cimport is_ascii, is_utf8
from realtime_core_c._slots cimport fill, new, slot_of
from realtime_core_c.rows cimport HEAD

from realtime_core.records import Record
from realtime_core.snapshot.events import Snapshot

__all__ = ["row_events"]

cdef object RecordClass = Record
cdef object SnapshotClass = Snapshot
cdef Py_ssize_t RECORD_SHAPE = slot_of(Record, "shape")
cdef Py_ssize_t RECORD_FIELDS = Record.fields.slot
cdef Py_ssize_t RELATION = slot_of(Snapshot, "relation")
cdef Py_ssize_t RECORD = slot_of(Snapshot, "record")
cdef Py_ssize_t PROGRESS = slot_of(Snapshot, "progress")

cdef extern from "Python.h":
    int PyGC_Disable()
    int PyGC_Enable()


def row_events(relation, data, progress):
    """Do what ``row_events`` of :mod:`realtime_core.snapshot.row_events` says.

    Return None if that has to read the rows, because something is wrong with them.
    """
    cdef Py_ssize_t columns = len(relation.columns)
    cdef const unsigned char *at
    cdef Py_ssize_t size
    cdef unsigned char *message
    cdef bint was_enabled
    if not PyBytes_CheckExact(data) or not 0 < columns <= 0xFFFF:
        return None
    at = <const unsigned char *>PyBytes_AS_STRING(data)
    size = PyBytes_GET_SIZE(data)
    if not is_ascii(at, size) and not is_utf8(at, size):
        return None
    # No row's message is larger.
    message = <unsigned char *>PyMem_Malloc(HEAD + size + 5 * columns)
    if message is NULL:
        raise MemoryError
    # Nothing of what is made here is garbage yet.
    was_enabled = PyGC_Disable()
    try:
        return made(relation, columns, at, at + size, message, progress)
    finally:
        PyMem_Free(message)
        if was_enabled:
            PyGC_Enable()


cdef list made(
    object relation,
    Py_ssize_t columns,
    const unsigned char *at,
    const unsigned char *end,
    unsigned char *message,
    object progress,
):
    cdef unsigned char *to
    cdef object shape = relation.shape
    cdef object record
    cdef object event
    cdef list events = []
    for place in range(HEAD):
        message[place] = 0
    message[0] = c'I'
    message[HEAD - 3] = c'N'
    message[HEAD - 2] = <unsigned char>(columns >> 8)
    message[HEAD - 1] = <unsigned char>columns
    while at < end:
        to = message + HEAD
        for place in range(columns):
            at = copy_field(at, end, &to)
            # Behind the last field there is a newline, and a tab behind all others.
            if at == end or (at[0] == c'\n') != (place == columns - 1):
                return None
            at += 1
        record = new(RecordClass)
        fill(record, RECORD_SHAPE, shape)
        fill(
            record,
            RECORD_FIELDS,
            PyBytes_FromStringAndSize(<const char *>message, to - message),
        )
        event = new(SnapshotClass)
        fill(event, RELATION, relation)
        fill(event, RECORD, record)
        fill(event, PROGRESS, progress)
        PyList_Append(events, event)
    return events


cdef inline bint ends(const unsigned char *at, const unsigned char *end) noexcept:
    """Say whether a field has come to its end."""
    return at == end or at[0] == c'\t' or at[0] == c'\n'


cdef inline bint is_plain(const unsigned char *at) noexcept:
    """Say whether eight bytes are neither control characters nor backslashes."""
    cdef unsigned long long word
    cdef unsigned long long slashes
    memcpy(&word, at, 8)
    # Of a byte that is below n, x - n & ~x has the highest bit set.
    slashes = word ^ 0x5C5C5C5C5C5C5C5CULL
    return not (
        (word - 0x2020202020202020ULL) & ~word | (slashes - 0x0101010101010101ULL) & ~slashes
    ) & 0x8080808080808080ULL


cdef inline const unsigned char *copy_field(
    const unsigned char *at, const unsigned char *end, unsigned char **message
) noexcept:
    """Write a field into a row's message as pgoutput does; return where it ends in the text."""
    cdef unsigned char *field = message[0]
    cdef unsigned char *to = field + 5
    cdef unsigned int size
    if end - at >= 2 and at[0] == c'\\' and at[1] == c'N' and ends(at + 2, end):
        field[0] = c'n'
        message[0] = field + 1
        return at + 2
    while True:
        while end - at >= 8 and is_plain(at):
            memcpy(to, at, 8)
            at += 8
            to += 8
        if ends(at, end):
            break
        if at[0] == c'\\' and not ends(at + 1, end):
            to[0] = unescaped(at[1])
            at += 2
        else:
            to[0] = at[0]
            at += 1
        to += 1
    size = <unsigned int>(to - field - 5)
    field[0] = c't'
    field[1] = <unsigned char>(size >> 24)
    field[2] = <unsigned char>(size >> 16)
    field[3] = <unsigned char>(size >> 8)
    field[4] = <unsigned char>size
    message[0] = to
    return at


cdef inline unsigned char unescaped(unsigned char letter) noexcept:
    """Return what a character behind a backslash stands for."""
    if letter == c'b':
        return c'\b'
    if letter == c'f':
        return c'\f'
    if letter == c'n':
        return c'\n'
    if letter == c'r':
        return c'\r'
    if letter == c't':
        return c'\t'
    if letter == c'v':
        return c'\v'
    return letter
