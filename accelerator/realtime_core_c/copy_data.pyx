# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
"""Messages of COPY, taken out of libpq as many as it has: realtime_core.sources' work, compiled.

libpq is not linked here. Its functions are called by their addresses in the library that psycopg
has loaded, because a connection belongs to the library that has made it.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.list cimport PyList_Append

__all__ = ["CopyData"]

ctypedef int (*GetCopyData)(void *, char **, int) noexcept
ctypedef void (*FreeMem)(void *) noexcept


cdef class CopyData:
    """Takes CopyData messages out of connections.

    Args:
        get_copy_data: the address of ``PQgetCopyData``.
        free_mem: the address of ``PQfreemem``.
    """

    cdef GetCopyData get_copy_data
    cdef FreeMem free_mem

    def __init__(self, size_t get_copy_data, size_t free_mem):
        if get_copy_data == 0 or free_mem == 0:
            raise ValueError("this takes the addresses of two functions")
        self.get_copy_data = <GetCopyData>get_copy_data
        self.free_mem = <FreeMem>free_mem

    def take(self, size_t connection, list messages, Py_ssize_t most):
        """Append messages to a list, without waiting for any.

        Args:
            connection: the address of a ``PGconn`` that is open.
            messages: the list. It has what came before when libpq calls for a notice.
            most: no more are taken once they have so many bytes.

        Returns:
            1 if that was reached; else what ``PQgetCopyData`` has returned instead of a message:
            0 if no other one has come as a whole, -1 at the end of the copy, -2 for an error.
        """
        cdef char *buffer
        cdef int size
        if connection == 0:
            raise ValueError("this takes the address of a connection")
        while most > 0:
            buffer = NULL
            size = self.get_copy_data(<void *>connection, &buffer, 1)
            if size <= 0:
                return size
            try:
                PyList_Append(messages, PyBytes_FromStringAndSize(buffer, size))
            finally:
                self.free_mem(buffer)
            most -= size
        return 1
