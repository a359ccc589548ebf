# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
"""What a source does with each payload and each event: realtime_core.sources' work, compiled."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyTypeObject

from realtime_core_c._slots cimport get, put, slot_of

from realtime_core.changes import Delete, Insert, Update
from realtime_core.replication.protocol import TAG_KEEPALIVE, TAG_XLOG_DATA, XLOG_DATA_HEADER
from realtime_core.replication.sequence import Sequence

__all__ = ["Accepted", "Messages"]

cdef extern from "Python.h":
    PyTypeObject *Py_TYPE(object)

cdef unsigned char XLOG_DATA = TAG_XLOG_DATA
cdef unsigned char KEEPALIVE = TAG_KEEPALIVE
cdef Py_ssize_t HEADER = XLOG_DATA_HEADER

cdef PyTypeObject *INSERT = <PyTypeObject *>Insert
cdef PyTypeObject *UPDATE = <PyTypeObject *>Update
cdef PyTypeObject *DELETE = <PyTypeObject *>Delete

cdef Py_ssize_t RESUMING = slot_of(Sequence, "_resuming")
cdef Py_ssize_t PASSES = slot_of(Sequence, "_passes")
cdef Py_ssize_t CHANGES = slot_of(Sequence, "changes")
cdef Py_ssize_t LAST_CHANGE = slot_of(Sequence, "_last_change")


cdef class Messages:
    """Does what ``messages`` of :mod:`realtime_core.sources._live_stream` says.

    Args:
        payloads: the payloads of CopyData.
        refuse: called with a payload that is neither of the two messages; it raises the error.
    """

    cdef list payloads
    cdef object refuse

    def __init__(self, list payloads, refuse):
        payloads.reverse()
        self.payloads = payloads
        self.refuse = refuse

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_buffer view
        cdef unsigned char tag
        cdef object payload
        cdef object message
        while self.payloads:
            payload = self.payloads.pop()
            message = None
            tag = 0
            PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
            if view.len > 0:
                tag = (<const unsigned char *>view.buf)[0]
            if tag == XLOG_DATA:
                # What is cut within its header has no message.
                message = PyBytes_FromStringAndSize(
                    <const char *>view.buf + min(HEADER, view.len), max(view.len - HEADER, 0)
                )
            PyBuffer_Release(&view)
            if message is not None:
                return message
            if tag != KEEPALIVE:
                self.refuse(payload)
        raise StopIteration


cdef class Accepted:
    """Does what ``accepted`` of :mod:`realtime_core.sources._live_stream` says.

    Args:
        events: what the decoder makes of messages.
        sequence: the sequence that takes them by its method ``accept``.
    """

    cdef object events
    cdef object sequence
    cdef object accept

    def __init__(self, events, sequence):
        if type(sequence) is not Sequence:
            raise TypeError("this takes a Sequence")
        self.events = iter(events)
        self.sequence = sequence
        self.accept = sequence.accept

    def __iter__(self):
        return self

    def __next__(self):
        cdef object event = next(self.events)
        cdef object sequence = self.sequence
        cdef PyTypeObject *kind = Py_TYPE(event)
        if (
            (kind is INSERT or kind is UPDATE or kind is DELETE)
            and get(sequence, RESUMING) is False
            and get(sequence, PASSES) is None
        ):
            put(sequence, LAST_CHANGE, event)
            put(sequence, CHANGES, get(sequence, CHANGES) + 1)
            return event
        return event if self.accept(event) else None
