"""What compiled modules use of one another: how a row's message is read."""


cdef enum:
    # How many bytes of a message tell its tag, relation, first tuple's kind, and number of fields.
    HEAD = 8


cdef class Fields:
    cdef readonly Py_ssize_t slot
    """Where a Record has its fields, or the message that has them."""


cdef class RowReader:
    cdef object relation
    cdef object shape
    cdef object old_shape
    cdef tuple key_places
    cdef Py_ssize_t columns
    cdef unsigned char tag
    cdef unsigned char kind

    cdef object read(self, bytes data, object transaction, object index)
    cdef object _read_cut(self, bytes data, object transaction, object index)
    cdef tuple _old_fields(self, tuple fields)
