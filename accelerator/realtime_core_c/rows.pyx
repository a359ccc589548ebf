# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
"""The fields, records and changes of rows' messages: realtime_core.pgoutput's work, compiled.

Each function here reads what is right, and leaves all else to Python: what is wrong with a message
is said there. No byte is read before it is known to belong to the message.

A row that comes alone in its message is checked, and its fields are cut when they are asked for:
until then the record has the message in their place. So a program that reads values makes no texts
of them before, and one that passes over a row makes nothing of it at all.
"""

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_DecodeUTF8

from realtime_core_c._fields cimport is_ascii, is_utf8, next_field
from realtime_core_c._slots cimport fill, new, place_of, put, slot_of

from realtime_core.changes import Delete, Insert, Update
from realtime_core.records import UNCHANGED, Record

__all__ = ["Fields", "RowReader", "fields_reader"]

cdef enum:
    # A column before that place is read without cutting the row: to find it takes longer the more
    # fields are before it.
    NEAR = 32

cdef object unchanged = UNCHANGED
cdef object RecordClass = Record
cdef object InsertClass = Insert
cdef object UpdateClass = Update
cdef object DeleteClass = Delete

cdef Py_ssize_t RECORD_SHAPE = slot_of(Record, "shape")
cdef Py_ssize_t RECORD_FIELDS = slot_of(Record, "fields")
# Where an Insert, Update and Delete have what all changes of rows have.
cdef Py_ssize_t TRANSACTION = slot_of(Insert, "transaction")
cdef Py_ssize_t INDEX = slot_of(Insert, "index")
cdef Py_ssize_t RELATION = slot_of(Insert, "relation")
cdef Py_ssize_t INSERT_RECORD = slot_of(Insert, "record")
cdef Py_ssize_t UPDATE_RECORD = slot_of(Update, "record")
cdef Py_ssize_t UPDATE_OLD_RECORD = slot_of(Update, "old_record")
cdef Py_ssize_t DELETE_OLD_RECORD = slot_of(Delete, "old_record")
for _change in (Update, Delete):
    if (
        slot_of(_change, "transaction") != TRANSACTION
        or slot_of(_change, "index") != INDEX
        or slot_of(_change, "relation") != RELATION
    ):
        raise TypeError("the changes of rows have their common attributes in different slots")


# Fields


cdef tuple read_tuple(bytes data, Py_ssize_t *offset, Py_ssize_t columns, bint *has_unchanged):
    """Read the fields from ``offset`` on, and move it behind them.

    Return None if the message is too short, or has a field of an unknown kind or length. Raise
    UnicodeDecodeError if a text is not UTF-8.
    """
    cdef const unsigned char *start = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t at = offset[0]
    cdef Py_ssize_t place
    cdef Py_ssize_t length
    cdef unsigned char kind
    cdef object field
    # Each field has a byte at least, so a number that is too large makes no large tuple.
    if columns < 0 or columns > size - at:
        return None
    cdef tuple fields = PyTuple_New(columns)
    for place in range(columns):
        kind = next_field(start, size, &at, &length)
        if kind == c't':
            field = PyUnicode_DecodeUTF8(<const char *>start + at, length, NULL)
        elif kind == c'b':
            field = PyBytes_FromStringAndSize(<const char *>start + at, length)
        elif kind == c'n':
            field = None
        elif kind == c'u':
            field = unchanged
            has_unchanged[0] = True
        else:
            return None
        at += length
        Py_INCREF(field)
        PyTuple_SET_ITEM(fields, place, field)
    offset[0] = at
    return fields


cdef bint is_whole(bytes data, Py_ssize_t columns) noexcept:
    """Say whether behind the head there are so many fields, all right, and no more."""
    cdef const unsigned char *start = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t at = HEAD
    cdef Py_ssize_t length
    cdef unsigned char kind
    # As a rule all of a message is, lengths included.
    cdef bint ascii = is_ascii(start, size)
    for _ in range(columns):
        kind = next_field(start, size, &at, &length)
        if kind == 0 or (kind == c't' and not ascii and not is_utf8(start + at, length)):
            return False
        at += length
    return at == size


cdef class Fields:
    """The attribute ``fields`` of a Record, which cuts a row when it is asked for.

    It stands for the slot of that name once this module is loaded, whose place in the record it uses.
    """

    def __init__(self, Py_ssize_t slot):
        self.slot = slot

    def __get__(self, record, owner):
        cdef PyObject *value
        cdef bytes message
        cdef Py_ssize_t at = HEAD
        cdef bint ignored = False
        if record is None:
            return self
        value = place_of(_record(record), self.slot)[0]
        if value is NULL:
            raise AttributeError("fields")
        if PyBytes_CheckExact(<object>value):
            message = <bytes>value
            # Each record with a message has one that is_whole() has let through.
            put(record, self.slot, read_tuple(message, &at, width_of(message), &ignored))
            value = place_of(record, self.slot)[0]
        return <object>value

    def __set__(self, record, value):
        if PyBytes_CheckExact(value):
            raise TypeError("the fields of a Record are a tuple, not bytes")
        put(_record(record), self.slot, value)


cdef inline object _record(object record):
    if not isinstance(record, RecordClass):
        raise TypeError(f"{type(record).__name__} is no Record")
    return record


cdef inline Py_ssize_t width_of(bytes message) noexcept:
    """Return how many fields the message of a row says to have."""
    cdef const unsigned char *start = <const unsigned char *>PyBytes_AS_STRING(message)
    return start[HEAD - 2] << 8 | start[HEAD - 1]


Record.fields = Fields(RECORD_FIELDS)


def value_of(self, name):
    cdef tuple reader = self.shape.readers[name]
    cdef Py_ssize_t place = reader[0]
    cdef PyObject *held = place_of(_record(self), RECORD_FIELDS)[0]
    cdef object field
    if held is not NULL and PyBytes_CheckExact(<object>held) and 0 <= place < NEAR:
        field = field_at(<bytes>held, place)
    else:
        field = self.fields[place]
    if field is None or field is unchanged:
        return field
    if PyUnicode_CheckExact(field):
        try:
            return reader[1](field)
        except Exception:
            # The converter for values of any kind raises the error that says why.
            pass
    return self.shape.convert(place, field)


cdef object field_at(bytes message, Py_ssize_t place):
    """Return one field of a message that is_whole() has let through."""
    cdef const unsigned char *start = <const unsigned char *>PyBytes_AS_STRING(message)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
    cdef Py_ssize_t at = HEAD
    cdef Py_ssize_t length = 0
    cdef unsigned char kind = 0
    if place >= width_of(message):
        raise IndexError("tuple index out of range")
    for _ in range(place + 1):
        at += length
        kind = next_field(start, size, &at, &length)
    if kind == c't':
        return PyUnicode_DecodeUTF8(<const char *>start + at, length, NULL)
    if kind == c'b':
        return PyBytes_FromStringAndSize(<const char *>start + at, length)
    return unchanged if kind == c'u' else None


value_of.__name__ = "__getitem__"
value_of.__doc__ = Record.__getitem__.__doc__
Record.__getitem__ = value_of


def fields_reader(Py_ssize_t columns, read_fields):
    """Return a reader of so many fields; ``read_fields`` reads those that are wrong."""

    def read(data, Py_ssize_t offset):
        cdef Py_ssize_t at = offset
        cdef bint ignored = False
        cdef tuple fields = None
        if PyBytes_CheckExact(data) and offset >= 0:
            try:
                fields = read_tuple(<bytes>data, &at, columns, &ignored)
            except UnicodeDecodeError:
                pass
        if fields is None:
            return read_fields(data, offset, columns)
        return fields, at

    return read


# Records and changes


cdef inline object make_record(object shape, object fields):
    cdef object record = new(RecordClass)
    fill(record, RECORD_SHAPE, shape)
    fill(record, RECORD_FIELDS, fields)
    return record


cdef inline object make_change(object cls, object transaction, object index, object relation):
    cdef object change = new(cls)
    fill(change, TRANSACTION, transaction)
    fill(change, INDEX, index)
    fill(change, RELATION, relation)
    return change


cdef class RowReader:
    """Makes changes of the messages that begin with ``head``, which has no xid.

    Args:
        head: the first eight bytes of the messages.
        relation: the table of their rows.
    """

    def __init__(self, bytes head, relation):
        if len(head) != HEAD or head[:1] not in (b"I", b"U", b"D"):
            raise ValueError(f"{head!r} is not the head of a row's message")
        self.tag = head[0]
        self.kind = head[5]
        self.relation = relation
        self.shape = relation.shape
        self.old_shape = relation.key_shape if self.kind == c'K' else relation.shape
        self.key_places = tuple(relation.key_places)
        self.columns = len(relation.columns)
        if width_of(head) != self.columns:
            raise ValueError(f"{relation} has {self.columns} columns, the message {width_of(head)}")
        for place in self.key_places:
            if not 0 <= place < self.columns:
                raise ValueError(f"{relation} has no column at {place}")

    def __call__(self, data, transaction, index):
        return self.read(data, transaction, index) if PyBytes_CheckExact(data) else None

    cdef object read(self, bytes data, object transaction, object index):
        """Return the change; None if it takes the long way."""
        if self.kind == c'K' or (self.tag == c'U' and self.kind != c'N'):
            try:
                return self._read_cut(data, transaction, index)
            except UnicodeDecodeError:
                return None
        cdef object change
        if not is_whole(data, self.columns):
            return None
        cdef object record = make_record(self.shape, data)
        if self.tag == c'I':
            change = make_change(InsertClass, transaction, index, self.relation)
            fill(change, INSERT_RECORD, record)
        elif self.tag == c'U':
            change = make_change(UpdateClass, transaction, index, self.relation)
            fill(change, UPDATE_RECORD, record)
            fill(change, UPDATE_OLD_RECORD, None)
        else:
            change = make_change(DeleteClass, transaction, index, self.relation)
            fill(change, DELETE_OLD_RECORD, record)
        return change

    cdef object _read_cut(self, bytes data, object transaction, object index):
        """Do the same for an update with an old row, or a key, and for a delete with a key."""
        cdef Py_ssize_t at = HEAD
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef bint has_unchanged = False
        cdef object change
        cdef object old
        cdef const char *start
        cdef tuple fields = read_tuple(data, &at, self.columns, &has_unchanged)
        if fields is None:
            return None
        old = make_record(self.old_shape, self._old_fields(fields))
        if self.tag == c'D':
            if at != size:
                return None
            change = make_change(DeleteClass, transaction, index, self.relation)
            fill(change, DELETE_OLD_RECORD, old)
            return change
        # Behind the old row, or key, there are the kind and the width of the new row.
        start = PyBytes_AS_STRING(data)
        if (
            size - at < 3
            or start[at] != c'N'
            or start[at + 1] != start[HEAD - 2]
            or start[at + 2] != start[HEAD - 1]
        ):
            return None
        at += 3
        has_unchanged = False
        fields = read_tuple(data, &at, self.columns, &has_unchanged)
        # An unchanged value has to be taken from the old row, which the long way does.
        if fields is None or has_unchanged or at != size:
            return None
        change = make_change(UpdateClass, transaction, index, self.relation)
        fill(change, UPDATE_RECORD, make_record(self.shape, fields))
        fill(change, UPDATE_OLD_RECORD, old)
        return change

    cdef tuple _old_fields(self, tuple fields):
        """Return the fields of an old row, of a key only those of its columns."""
        cdef Py_ssize_t number = PyTuple_GET_SIZE(self.key_places)
        cdef Py_ssize_t place
        cdef tuple key
        cdef object field
        if self.kind != c'K':
            return fields
        key = PyTuple_New(number)
        for place in range(number):
            field = <object>PyTuple_GET_ITEM(
                fields, <Py_ssize_t><object>PyTuple_GET_ITEM(self.key_places, place)
            )
            Py_INCREF(field)
            PyTuple_SET_ITEM(key, place, field)
        return key
