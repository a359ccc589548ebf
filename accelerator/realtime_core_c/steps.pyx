# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
"""Handing over the next change by ``async for``: realtime_core.sources' work, compiled.

A coroutine for each change takes as long as making the change. What is awaited here takes the
change out of the queue at once, and becomes a coroutine only where there is none, or where there
is more to do than to hand it over.
"""

cimport cython
from cpython.object cimport PyObject, PyTypeObject

from realtime_core.changes import Delete, Insert, Update

__all__ = ["NextEvent", "next_event"]

cdef extern from "Python.h":
    """
    /* Cython's classes have no method for it. */
    static void take_at_once(PyObject *type, int (*send)(PyObject *, PyObject *, PyObject **)) {
        ((PyTypeObject *)type)->tp_as_async->am_send = (sendfunc)send;
    }
    """
    void take_at_once(object, int (*)(PyObject *, PyObject *, PyObject **) except -1)
    PyTypeObject *Py_TYPE(object)
    void Py_INCREF(object)
    void Py_DECREF(object)
    int PyIter_Send(object, PyObject *, PyObject **) except -1
    object PySequence_GetItem(object, Py_ssize_t)
    int PySequence_DelItem(object, Py_ssize_t) except -1

# What PyIter_Send returns.
cdef enum:
    RETURNED = 0

cdef PyTypeObject *INSERT = <PyTypeObject *>Insert
cdef PyTypeObject *UPDATE = <PyTypeObject *>Update
cdef PyTypeObject *DELETE = <PyTypeObject *>Delete


cdef object take(object source):
    """Take the next event if it is the change of a row, as EventQueue._next_event() does."""
    cdef object queue = source._queue
    cdef object event
    cdef PyTypeObject *kind
    if not queue or source._classes is not None:
        return None
    event = PySequence_GetItem(queue, 0)
    kind = Py_TYPE(event)
    if not (kind is INSERT or kind is UPDATE or kind is DELETE):
        return None
    source._handed = event
    PySequence_DelItem(queue, 0)
    return event


@cython.freelist(4)
cdef class NextEvent:
    """Awaits the next event of a source, as the coroutine of ``_next_event`` does.

    Args:
        source: an EventQueue.
    """

    # None when it was awaited.
    cdef object source
    # What does the rest; None if there is none.
    cdef object coroutine

    def __init__(self, source):
        self.source = source

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Go on; see :meth:`coroutine.send`."""
        cdef PyObject *result = NULL
        cdef int status = send(<PyObject *>self, <PyObject *>value, &result)
        cdef object found = <object>result
        Py_DECREF(found)
        if status == RETURNED:
            raise StopIteration(found)
        return found

    def throw(self, kind, value=None, traceback=None):
        """Raise an exception where it waits; see :meth:`coroutine.throw`."""
        if self.coroutine is None:
            if self.source is None:
                raise RuntimeError("cannot reuse already awaited coroutine")
            self.begin()
        if value is None and traceback is None:
            return self.coroutine.throw(kind)
        return self.coroutine.throw(kind, value, traceback)

    def close(self):
        """Leave it; see :meth:`coroutine.close`."""
        self.source = None
        if self.coroutine is not None:
            self.coroutine.close()

    cdef int begin(self) except -1:
        source, self.source = self.source, None
        self.coroutine = source._next_event(source._more)
        return 0


cdef int send(PyObject *self, PyObject *value, PyObject **result) except -1:
    cdef NextEvent step = <NextEvent>self
    cdef object event
    if step.coroutine is None:
        if step.source is None:
            raise RuntimeError("cannot reuse already awaited coroutine")
        event = take(step.source)
        if event is not None:
            step.source = None
            Py_INCREF(event)
            result[0] = <PyObject *>event
            return RETURNED
        step.begin()
    return PyIter_Send(step.coroutine, value, result)


take_at_once(NextEvent, send)


def next_event(self):
    """Return the next event, waiting for it."""
    if self._prepares:
        self._prepare()
    return NextEvent(self)
